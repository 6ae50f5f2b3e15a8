# SPDX-License-Identifier: Apache-2.0
"""The part `registries:` of the configuration, and Docker's directory of certificates."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.registry.settings import (
    DOCKER_HUB_API_HOST,
    RegistriesSettings,
    Tls,
    TlsSettings,
)


def parse(registries: Any, certificates: Path = Path("/none")) -> RegistriesSettings:
    return RegistriesSettings.parse(registries, certificates=certificates)


def test_what_is_not_named_has_the_defaults() -> None:
    (endpoint,) = parse({}).endpoints("registry.example:5000")
    assert (endpoint.name, endpoint.address) == ("registry.example:5000", "registry.example:5000")
    assert endpoint.tls == TlsSettings(Tls.VERIFY)
    assert (endpoint.is_mirror, endpoint.upload_chunk, endpoint.prefix) == (False, 0, "")


def test_mirrors_come_first_in_their_order() -> None:
    settings = parse(
        {
            "registry.example": {
                "mirrors": ["one:5000", "https://two.example/cache/of/it", "http://three/"],
                "upload_chunk": 1 << 20,
            },
            "one:5000": {"tls": "unverified"},
        }
    )
    found = settings.endpoints("registry.example")
    assert [(endpoint.address, endpoint.prefix, endpoint.tls.mode) for endpoint in found] == [
        ("one:5000", "", Tls.UNVERIFIED),
        ("two.example", "cache/of/it/", Tls.VERIFY),
        ("three", "", Tls.OFF),
        ("registry.example", "", Tls.VERIFY),
    ]
    assert [endpoint.is_mirror for endpoint in found] == [True, True, True, False]
    assert found[-1].upload_chunk == 1 << 20


def test_names_without_a_host_are_served_elsewhere() -> None:
    assert parse({}).origin("docker.io").address == DOCKER_HUB_API_HOST


@pytest.mark.parametrize(
    ("host", "mode"),
    [
        ("localhost:5000", Tls.ANY),
        ("127.0.0.1", Tls.ANY),
        ("[::1]:5000", Tls.ANY),
        ("127.0.0.1.example:5000", Tls.VERIFY),
        ("10.0.0.1:5000", Tls.VERIFY),
    ],
)
def test_only_on_loopback_tls_is_not_needed(host: str, mode: Tls) -> None:
    assert parse({}).tls(host).mode is mode


def test_dockers_directory_of_certificates_is_read(tmp_path: Path) -> None:
    directory = tmp_path / "registry.example:5000"
    directory.mkdir()
    for name in ("ca.crt", "other.crt", "client.cert", "client.key", "lone.cert", "notes.txt"):
        (directory / name).write_text(name)
    tls = parse({}, tmp_path).tls("registry.example:5000")
    assert tls.ca_files == (directory / "ca.crt", directory / "other.crt")
    assert (tls.client_certificate, tls.client_key) == (directory / "client.cert", directory / "client.key")
    assert parse({}, tmp_path).tls("registry.example").ca_files == ()
    (directory / "ca.crt").write_text("another")
    os.utime(directory / "ca.crt", ns=(1, 1))
    assert parse({}, tmp_path).tls("registry.example:5000") != tls


def test_a_host_with_its_ca_is_verified_on_loopback_too(tmp_path: Path) -> None:
    (tmp_path / "localhost").mkdir()
    (tmp_path / "localhost" / "ca.crt").write_text("")
    assert parse({}, tmp_path).tls("localhost").mode is Tls.VERIFY


def test_no_name_of_a_host_leads_out_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_text("")
    assert parse({}, tmp_path / "certs.d").tls("..").ca_files == ()


def test_the_password_may_be_in_a_file(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("pass word\n")
    settings = parse({"a.example": {"username": "me", "password_file": str(secret)}})
    credentials = settings.of("a.example").credentials("a.example")
    assert credentials is not None
    assert (credentials.username, credentials.password) == ("me", "pass word")
    secret.unlink()
    with pytest.raises(InvalidSpec, match=r"password of registry a\.example cannot be read from"):
        settings.of("a.example").credentials("a.example")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ([], "registries is not usable"),
        ({"https://a": {}}, "which is no registry"),
        ({"a/b": {}}, "which is no registry"),
        ({5: {}}, "which is no registry"),
        ({"a": []}, r"registries\.a is not usable"),
        ({"a": {"mirror": []}}, "unknown setting 'mirror'"),
        ({"a": {"tls": "maybe"}}, r"registries\.a\.tls .*expected one of verify, unverified, off, any"),
        ({"a": {"tls": False}}, r"registries\.a\.tls .*it is a bool"),
        ({"a": {"mirrors": "b"}}, r"registries\.a\.mirrors .*it is a str"),
        ({"a": {"mirrors": [5]}}, r"registries\.a\.mirrors .*an entry is a int"),
        ({"a": {"mirrors": ["ftp://b"]}}, "is no mirror"),
        ({"a": {"mirrors": ["b?x=y"]}}, "is no mirror"),
        ({"a": {"mirrors": ["b/UPPER"]}}, "is no mirror"),
        ({"a": {"ca_file": "ca.crt"}}, "is not absolute"),
        ({"a": {"ca_file": "/ca", "tls": "off"}}, "nothing is verified with tls: off"),
        ({"a": {"client_certificate": "/c"}}, "belong together"),
        ({"a": {"client_certificate": "/c", "client_key": "/k", "tls": "off"}}, "tls is off"),
        ({"a": {"username": "x"}}, "belong together"),
        ({"a": {"password": "x"}}, "belong together"),
        ({"a": {"username": "a:b", "password": "x"}}, "has a colon"),
        ({"a": {"username": "x", "password": "y", "password_file": "/z"}}, "one of the two"),
        ({"a": {"upload_chunk": 5}}, "expected at least 1048576 bytes"),
        ({"a": {"upload_chunk": True}}, "it is a bool"),
    ],
)
def test_what_is_wrong_is_named(settings: Any, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        parse(settings)


def test_no_password_is_in_an_error_or_a_representation() -> None:
    with pytest.raises(InvalidSpec, match="has credentials in it") as refused:
        parse({"a": {"mirrors": ["https://me:secret@b"]}})
    assert "secret" not in refused.value.message
    assert "secret" not in repr(parse({"a": {"username": "me", "password": "secret"}}))
