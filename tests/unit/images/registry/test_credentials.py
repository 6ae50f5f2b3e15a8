# SPDX-License-Identifier: Apache-2.0
"""Credentials in docker's config.json and in its helper programs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from mooring_agent.errors import InvalidSpec, MissingProgram, Unavailable
from mooring_agent.images.registry import credentials as module
from mooring_agent.images.registry.credentials import (
    find_credentials,
    parse_auth_config,
    parse_registry_auth,
    parse_registry_config,
    registry_of_key,
)
from mooring_agent.images.registry.settings import Credentials, RegistriesSettings

HOST = "registry.example:5000"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Config:
    """A config.json, and a directory of helpers ahead of PATH."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = directory / "config.json"
        self.bin = directory / "bin"
        self.bin.mkdir()
        monkeypatch.setenv("PATH", str(self.bin), prepend=":")

    def find(self, host: str = HOST, **registries: Any) -> Credentials | None:
        settings = RegistriesSettings.parse(registries or {}, docker_config=self.path)
        return find_credentials(settings, host)

    def write(self, value: object) -> None:
        self.path.write_text(json.dumps(value))

    def helper(self, script: str) -> None:
        program = self.bin / "docker-credential-tested"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    return Config(tmp_path, monkeypatch)


def test_without_a_file_there_are_none(config: Config) -> None:
    assert config.find() is None


@pytest.mark.parametrize("key", [HOST, f"https://{HOST}", f"http://{HOST}/v1/", f"https://{HOST}/v2/"])
def test_a_registry_is_found_under_each_form_of_its_name(config: Config, key: str) -> None:
    config.write({"auths": {"other.example": {"auth": encoded("a:b")}, key: {"auth": encoded("me:pa:ss")}}})
    found = config.find()
    assert found == Credentials(str(config.path), "me", "pa:ss")


def test_the_default_registry_has_a_key_of_its_own(config: Config) -> None:
    assert registry_of_key("https://index.docker.io/v1/") == "docker.io"
    config.write({"auths": {"https://index.docker.io/v1/": {"auth": encoded("me:secret")}}})
    found = config.find("docker.io")
    assert found is not None
    assert found.username == "me"


def test_settings_win_over_the_file(config: Config) -> None:
    config.write({"auths": {HOST: {"auth": encoded("file:x")}}})
    found = config.find(**{HOST: {"username": "settings", "password": "y"}})
    assert found is not None
    assert found.username == "settings"


def test_tokens_are_read(config: Config) -> None:
    config.write({"auths": {HOST: {"auth": encoded("me:"), "identitytoken": "id"}}})
    found = config.find()
    assert found is not None
    assert found.identity_token == "id"
    assert parse_auth_config({"registrytoken": "r"}, "the request") == Credentials(
        "the request", registry_token="r"
    )
    assert parse_auth_config({"serveraddress": HOST, "username": "", "password": ""}, "the request") is None
    given = {"username": "me", "password": "secret", "email": None}
    assert parse_auth_config(given, "the request") == Credentials("the request", "me", "secret")
    assert parse_auth_config({"username": None, "password": None}, "the request") is None


@pytest.mark.parametrize("padded", [True, False])
def test_a_requests_header_is_read(padded: bool) -> None:
    auth = {"username": "mé", "password": "secret>>??~~", "serveraddress": HOST}
    header = base64.urlsafe_b64encode(json.dumps(auth, ensure_ascii=False).encode()).decode()
    header = header if padded else header.rstrip("=")
    assert parse_registry_auth(header) == Credentials("the request", "mé", "secret>>??~~")
    assert parse_registry_auth("") is None
    assert parse_registry_auth(encoded("{}")) is None


def test_a_builds_header_is_read_by_registry() -> None:
    value = {"https://index.docker.io/v1/": {"username": "a", "password": "x"}, HOST: {"auth": ""}}
    assert parse_registry_config(encoded(json.dumps(value))) == {
        "docker.io": Credentials("the request", "a", "x")
    }
    assert parse_registry_config("") == {}
    assert parse_registry_config(encoded("null")) == {}


@pytest.mark.parametrize("text", ["%", "c2VjcmV0", encoded("[]"), encoded('{"username": 5}'), "\u00e9"])
def test_a_header_that_cannot_be_read_is_told_without_what_it_holds(text: str) -> None:
    for parse in (parse_registry_auth, parse_registry_config):
        with pytest.raises(InvalidSpec, match="not usable") as refused:
            parse(text)
        assert "secret" not in refused.value.message
        assert refused.value.__context__ is None


@pytest.mark.parametrize(
    "entry", [{"auth": "%%secret%%"}, {"auth": encoded("secret")}, {"auth": 5}, ["secret"]]
)
def test_what_cannot_be_read_is_told_without_what_it_holds(config: Config, entry: object) -> None:
    config.write({"auths": {HOST: entry}})
    with pytest.raises(InvalidSpec, match="are not usable") as refused:
        config.find()
    assert "secret" not in refused.value.message
    assert encoded("secret") not in refused.value.message


@pytest.mark.parametrize("text", ["", "[]", "{", '{"auths": []}', '{"auths": {}, "credHelpers": "x"}'])
def test_a_file_that_is_none_is_named(config: Config, text: str) -> None:
    config.path.write_text(text)
    if text == '{"auths": []}':
        assert config.find() is None
        return
    with pytest.raises(InvalidSpec, match=r"config\.json is not usable"):
        config.find()


def test_a_helper_is_asked_for_its_registry(config: Config) -> None:
    config.write({"credHelpers": {HOST: "tested"}, "credsStore": "absent"})
    config.helper(
        '[ "$1" = get ] && read -r host; '
        'printf \'{"ServerURL":"%s","Username":"me","Secret":"for-%s"}\' $host $host'
    )
    assert config.find() == Credentials("docker-credential-tested", "me", f"for-{HOST}")


def test_a_store_gives_an_identity_token(config: Config) -> None:
    config.write({"credsStore": "tested"})
    config.helper("""cat >/dev/null; echo '{"Username":"<token>","Secret":"id"}'""")
    assert config.find() == Credentials("docker-credential-tested", identity_token="id")


def test_what_a_store_does_not_have_may_stand_in_the_file(config: Config) -> None:
    config.write({"credsStore": "tested", "auths": {HOST: {"auth": encoded("me:x")}}})
    config.helper("cat >/dev/null; echo 'credentials not found in native keychain'; exit 1")
    found = config.find()
    assert found is not None
    assert found.username == "me"
    config.write({"credsStore": "tested", "auths": {HOST: {}}})
    assert config.find() is None


def test_a_helper_that_fails_is_named(config: Config) -> None:
    config.write({"credsStore": "tested"})
    config.helper("cat >/dev/null; echo locked; exit 3")
    with pytest.raises(Unavailable, match=r"docker-credential-tested failed .*\(exit code 3: locked\)"):
        config.find()
    config.helper('cat >/dev/null; echo \'{"Secret": "s3cret"}\'')
    with pytest.raises(Unavailable, match="with something else than credentials") as refused:
        config.find()
    assert "s3cret" not in refused.value.message


def test_a_helper_that_hangs_is_ended(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_HELPER_TIME", 0.2)
    config.write({"credsStore": "tested"})
    config.helper("exec sleep 60")
    with pytest.raises(Unavailable, match=r"gave no credentials .* within 0\.2 s"):
        config.find()


def test_a_helper_that_is_absent_is_named(config: Config) -> None:
    config.write({"credsStore": "absent"})
    with pytest.raises(MissingProgram, match="docker-credential-absent, which is not on this host"):
        config.find()
    config.write({"credsStore": "../../bin/sh"})
    with pytest.raises(InvalidSpec, match="names the credential helper"):
        config.find()
