# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec, NotSupported
from mooring_agent.images.config import ImageConfig, merge_env
from mooring_agent.images.specs import (
    TemplateSpec,
    made_from,
    normalise_image_spec,
    without_credentials,
)


@pytest.mark.parametrize(
    ("given_spec", "normalised"),
    [
        ({"template": "busybox"}, {"template": {"name": "busybox"}}),
        ({"template": {"name": "busybox"}, "import": None}, {"template": {"name": "busybox"}}),
        ({"template": {"name": "debian"}}, {"template": {"name": "debian"}}),
        (
            {"template": {"name": "debian", "suite": "trixie", "packages": ["nginx", "curl", "nginx"]}},
            {"template": {"name": "debian", "suite": "trixie", "packages": ["curl", "nginx"]}},
        ),
        ({"import": "/srv/root.tar"}, {"import": {"path": "/srv/root.tar"}}),
        ({"pull": True}, {"pull": {}}),
        ({"pull": "newer"}, {"pull": {"policy": "newer"}}),
        (
            {
                "pull": {
                    "policy": "always",
                    "platform": "aarch64",
                    "from": "docker.io/library/web",
                    "credentials": {"username": "me", "password": "secret"},
                }
            },
            {
                "pull": {
                    "policy": "always",
                    "platform": "linux/arm64",
                    "from": "web:latest",
                    "credentials": {"username": "me", "password": "secret"},
                }
            },
        ),
        ({"load": "/srv/web.tar"}, {"load": {"path": "/srv/web.tar"}}),
        (
            {"load": {"path": "/srv/web.tar", "from": "web"}},
            {"load": {"path": "/srv/web.tar", "from": "web:latest"}},
        ),
        ({"import": {"path": "/srv/root"}, "config": {}}, {"import": {"path": "/srv/root"}}),
        (
            {
                "template": "busybox",
                "config": {
                    "cmd": ["httpd", "-f"],
                    "env": ["B=2", "A=x=y"],
                    "labels": {"n": 1},
                    "exposed_ports": [80, "53/udp"],
                    "user": 1000,
                    "workdir": "/srv",
                    "stop_signal": "SIGQUIT",
                    "entrypoint": None,
                },
            },
            {
                "template": {"name": "busybox"},
                "config": {
                    "cmd": ["httpd", "-f"],
                    "env": {"A": "x=y", "B": "2"},
                    "labels": {"n": "1"},
                    "exposed_ports": ["53/udp", "80/tcp"],
                    "user": "1000",
                    "workdir": "/srv",
                    "stop_signal": "SIGQUIT",
                },
            },
        ),
    ],
)
def test_a_spec_has_one_form(given_spec: dict[str, Any], normalised: dict[str, Any]) -> None:
    assert normalise_image_spec(given_spec) == normalised
    assert normalise_image_spec(normalised) == normalised


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({}, ["none of", "exactly one"]),
        ({"template": "busybox", "import": "/x"}, ["template and import", "exactly one"]),
        ({"templat": "busybox"}, ["'templat'", "did you mean template"]),
        ({"template": "busybox", "pull": "always"}, ["template and pull", "exactly one"]),
        ({"pull": "sometimes"}, ["'sometimes'", "always, missing, newer, never"]),
        ({"pull": {"polcy": "never"}}, ["'polcy'", "did you mean policy"]),
        ({"pull": False}, ["False", "mapping"]),
        ({"pull": {"platform": "a/b/c/d"}}, ["'a/b/c/d'", "OS/ARCHITECTURE"]),
        ({"pull": {"from": "Web"}}, ["'Web'", "lower case"]),
        ({"pull": {"credentials": {"username": "me"}}}, ["credentials", "username and password"]),
        ({"pull": True, "config": {"cmd": ["x"]}}, ["config", "with pull", "leave it out"]),
        ({"load": "web.tar"}, ["'web.tar'", "absolute path", "archive"]),
        ({"load": {"path": "/x", "name": "y"}}, ["'name'", "path, from"]),
        ({"template": "alpine"}, ["'alpine'", "busybox, debian"]),
        ({"template": 7}, ["7", "mapping"]),
        ({"template": {"name": "busybox", "suite": "bookworm"}}, ["'suite'", "expected name"]),
        ({"template": {"name": "debian", "suite": "../x"}}, ["'../x'", "bookworm"]),
        ({"template": {"name": "debian", "suite": "-oops"}}, ["'-oops'"]),
        ({"template": {"name": "debian", "variant": "custom"}}, ["'custom'", "minbase"]),
        ({"template": {"name": "debian", "packages": "curl"}}, ["'curl'", "list"]),
        ({"template": {"name": "debian", "packages": ["./evil.deb"]}}, ["'./evil.deb'", "package name"]),
        ({"template": {"name": "debian", "package": []}}, ["'package'", "did you mean packages"]),
        ({"import": "root.tar"}, ["'root.tar'", "absolute path"]),
        ({"import": {"path": 3}}, ["3", "absolute path"]),
        ({"import": {"file": "/x"}}, ["'file'", "expected path"]),
        ({"template": "busybox", "config": {"comand": ["x"]}}, ["'comand'", "did you mean"]),
        ({"template": "busybox", "config": {"cmd": "sleep 1"}}, ["cmd", "'sleep 1'", "list of strings"]),
        ({"template": "busybox", "config": {"cmd": [1]}}, ["cmd", "1", "string"]),
        ({"template": "busybox", "config": {"env": ["A"]}}, ["'A'", "NAME=value"]),
        ({"template": "busybox", "config": {"env": {"": "x"}}}, ["''"]),
        ({"template": "busybox", "config": {"labels": {"a": True}}}, ["True"]),
        ({"template": "busybox", "config": {"exposed_ports": [0]}}, ["'0'", "65535"]),
        ({"template": "busybox", "config": {"exposed_ports": ["80/icmp"]}}, ["'80/icmp'"]),
        ({"template": "busybox", "config": {"workdir": "srv"}}, ["'srv'", "absolute"]),
        ({"template": "busybox", "config": {"stop_signal": "term!"}}, ["'term!'", "SIGTERM"]),
        ({"template": "busybox", "config": "cmd"}, ["'cmd'", "mapping"]),
    ],
)
def test_errors_name_what_is_wrong_and_what_was_expected(spec: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        normalise_image_spec(spec)
    for word in words:
        assert word in caught.value.message


def test_credentials_are_neither_stored_nor_told_in_errors() -> None:
    credentials = {"username": "me", "password": "secret"}
    spec = normalise_image_spec({"pull": {"policy": "newer", "credentials": credentials}})
    assert without_credentials(spec) == {"pull": {"policy": "newer"}}
    assert made_from(spec) == {"pull": {}}
    for wrong in ({"pull": {"credentials": "secret"}}, {"pull": {"credentials": {"password": "secret"}}}):
        with pytest.raises(InvalidSpec) as caught:
            normalise_image_spec(wrong)
        assert "secret" not in caught.value.message


def test_a_build_is_refused_with_a_way_out() -> None:
    with pytest.raises(NotSupported, match="pull or load it"):
        normalise_image_spec({"build": {"path": "/srv/web"}})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    [
        "template",
        "import",
        "pull",
        "load",
        "from",
        "policy",
        "config",
        "name",
        "path",
        "cmd",
        "env",
        "labels",
        "packages",
    ]
)


@given(st.dictionaries(keys, json_values | st.dictionaries(keys, json_values, max_size=3), max_size=4))
def test_any_json_is_a_spec_or_an_error(spec: dict[str, Any]) -> None:
    try:
        normalised = normalise_image_spec(spec)
    except InvalidSpec:
        return
    assert normalise_image_spec(normalised) == normalised


def test_a_template_gets_its_defaults_only_when_it_is_built() -> None:
    spec = normalise_image_spec({"template": {"name": "debian", "packages": ["vim", "curl"]}})
    assert TemplateSpec.from_spec(spec["template"]) == TemplateSpec(
        "debian", "bookworm", "minbase", ("curl", "vim")
    )
    assert TemplateSpec.from_spec({"name": "busybox"}) == TemplateSpec("busybox")


text = st.text(st.characters(exclude_characters="=\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
configs = st.builds(
    ImageConfig,
    cmd=st.none() | st.lists(text, min_size=1, max_size=3).map(tuple),
    entrypoint=st.none() | st.lists(text, min_size=1, max_size=3).map(tuple),
    env=st.none()
    | st.dictionaries(text, text, min_size=1, max_size=3).map(
        lambda d: tuple(f"{k}={v}" for k, v in d.items())
    ),
    workdir=st.none() | st.just("/srv"),
    user=st.none() | text,
    labels=st.dictionaries(text, text, max_size=2),
    exposed_ports=st.sets(st.integers(1, 65535), max_size=3).map(
        lambda p: tuple(sorted(f"{n}/tcp" for n in p))
    ),
    stop_signal=st.none() | st.just("SIGTERM"),
)


@given(configs)
def test_a_config_survives_its_oci_form(config: ImageConfig) -> None:
    assert ImageConfig.from_oci(config.to_oci()) == config


@given(configs, configs)
def test_a_config_laid_over_another_wins(over: ImageConfig, base: ImageConfig) -> None:
    merged = over.over(base)
    assert merged.cmd == (over.cmd or base.cmd)
    assert set(over.env or ()) <= set(merged.env or ())
    assert {**merged.labels, **over.labels} == merged.labels
    assert over.over(ImageConfig()).to_oci() == over.to_oci()


def test_a_variable_set_again_keeps_its_place() -> None:
    assert merge_env(["A=1", "B=2"], ["C=3", "A=9"]) == ("A=9", "B=2", "C=3")
