# SPDX-License-Identifier: Apache-2.0
"""Names of images; the cases are those of distribution's `reference` package and of docker's own tests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.reference import Reference

DIGEST = "sha256:" + "0123456789abcdef" * 4

component = st.from_regex(r"[a-z0-9]{1,6}(?:(?:[._]|__|-{1,3})[a-z0-9]{1,6}){0,2}", fullmatch=True)
domain = st.from_regex(
    r"(?:[a-z0-9]{1,5}\.[a-z0-9]{1,5}(?::[0-9]{1,5})?|localhost(?::[0-9]{1,5})?|[a-z]{1,5}:[0-9]{1,4}|\[[a-f0-9:]{2,8}\]:[0-9]{2})",
    fullmatch=True,
)
tag = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,12}", fullmatch=True)


def write(host: str | None, path: list[str], label: str | None, digest: bool) -> str:
    if host is None:
        path = [path[0].replace(".", "_"), *path[1:]]  # or else it would be a host
    name = "/".join([host, *path] if host is not None else path)
    return name + (f":{label}" if label else "") + (f"@{DIGEST}" if digest else "")


written = st.builds(
    write, st.none() | domain, st.lists(component, min_size=1, max_size=3), st.none() | tag, st.booleans()
)


@pytest.mark.parametrize(
    ("text", "full", "familiar"),
    [
        ("busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36", "busybox:1.36"),
        ("library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("index.docker.io/library/busybox", "docker.io/library/busybox:latest", "busybox:latest"),
        ("me/web", "docker.io/me/web:latest", "me/web:latest"),
        ("docker.io/me/deep/web", "docker.io/me/deep/web:latest", "me/deep/web:latest"),
        ("quay.example/me/web:v1", "quay.example/me/web:v1", "quay.example/me/web:v1"),
        ("localhost/web", "localhost/web:latest", "localhost/web:latest"),
        ("localhost:5000/web", "localhost:5000/web:latest", "localhost:5000/web:latest"),
        ("Host/web", "Host/web:latest", "Host/web:latest"),
        ("[::1]:5000/web", "[::1]:5000/web:latest", "[::1]:5000/web:latest"),
        (f"busybox@{DIGEST}", f"docker.io/library/busybox@{DIGEST}", f"busybox@{DIGEST}"),
        (f"busybox:1@{DIGEST}", f"docker.io/library/busybox:1@{DIGEST}", f"busybox:1@{DIGEST}"),
        ("web:Tag_1.2-x", "docker.io/library/web:Tag_1.2-x", "web:Tag_1.2-x"),
        ("foo__bar/b---r", "docker.io/foo__bar/b---r:latest", "foo__bar/b---r:latest"),
    ],
)
def test_names_are_completed_as_docker_does(text: str, full: str, familiar: str) -> None:
    name = Reference.parse(text)
    assert str(name) == full
    assert name.familiar == familiar


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "empty"),
        (" busybox", "blanks"),
        ("Busybox", "lower case"),
        ("me/Web", "lower case"),
        ("web:", "tag"),
        ("web:-x", "tag"),
        ("web:" + "t" * 129, "tag"),
        ("web@", "digest after @"),
        ("web@sha256:abc", "digest"),
        ("web@sha512:" + "0" * 128, "digest"),
        ("a//b", "part of the name is empty"),
        ("/web", "part of the name is empty"),
        ("web/", "part of the name is empty"),
        ("we..b", "separated"),
        ("-web", "separated"),
        ("web_", "separated"),
        ("../etc", "host name"),
        ("a b", "separated"),
        ("web\n", "blanks"),
        ("-host.example/web", "host name"),
        ("host.example:port/web", "host name"),
        ("a/" * 130 + "b", "characters"),
        ("0123456789abcdef" * 4, "image ID"),
    ],
)
def test_errors_name_the_reference_and_what_is_wrong(text: str, what: str) -> None:
    with pytest.raises(InvalidSpec, match=what) as caught:
        Reference.parse(text)
    assert repr(text) in caught.value.message
    assert "expected" in caught.value.message


@given(written)
def test_the_long_and_the_short_name_mean_the_same(text: str) -> None:
    name = Reference.parse(text)
    assert Reference.parse(str(name)) == name
    assert Reference.parse(name.familiar) == name
    assert str(name).startswith(f"{name.domain}/")
    assert len(name.familiar) <= len(str(name))


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_an_error(text: str) -> None:
    try:
        name = Reference.parse(text)
    except InvalidSpec:
        return
    assert Reference.parse(str(name)) == name
