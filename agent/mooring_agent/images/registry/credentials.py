# SPDX-License-Identifier: Apache-2.0
"""Credentials as docker keeps them: config.json, and its helper programs (docker-credential-helpers).

A helper `docker-credential-NAME get` reads a registry's name from its input and prints a JSON object with
Username and Secret; the user name `<token>` says that the secret is an identity token.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mooring_agent.errors import InvalidSpec, MissingProgram, Unavailable
from mooring_agent.images.reference import DEFAULT_DOMAIN
from mooring_agent.images.registry.settings import Credentials, RegistriesSettings

_HUB_KEY = "https://index.docker.io/v1/"  # what docker files the default registry under
_HUB_HOST = "index.docker.io"
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_HELPER_TIME = 20.0  # seconds; a key store may ask the network
_NOT_FOUND = "credentials not found in native keychain"  # docker-credential-helpers, credentials/error.go
_TOKEN_USER = "<token>"
_MAX_FILE = 1 << 20  # bytes


def find_credentials(settings: RegistriesSettings, host: str) -> Credentials | None:
    """The credentials for a registry: those of the settings, else those of docker's config.json.

    None means that there are none. Raises InvalidSpec for a file that cannot be understood, MissingProgram
    and Unavailable for a helper that is absent or fails.
    """
    return settings.of(host).credentials(host) or _from_docker(settings.docker_config, host)


def parse_auth_config(value: Any, source: str) -> Credentials | None:
    """Read docker's AuthConfig: of config.json, or of the header X-Registry-Auth once it is decoded.

    None when it holds nothing; docker-py sends null for what it was not given. Raises InvalidSpec, which does
    not repeat what it holds.
    """
    if isinstance(value, Mapping):
        value = {key: item for key, item in value.items() if item is not None}
    if not isinstance(value, Mapping) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidSpec(
            f"the credentials in {source} are not usable: expected an object of texts, such as "
            "username and password"
        )
    username, password = value.get("username", ""), value.get("password", "")
    if value.get("auth") and not username:
        username, password = _decode_auth(value["auth"], source)
    found = Credentials(
        source, username, password, value.get("identitytoken", ""), value.get("registrytoken", "")
    )
    return found if found.password or found.identity_token or found.registry_token else None


def parse_registry_auth(header: str) -> Credentials | None:
    """Read X-Registry-Auth, with which docker's clients send credentials: an AuthConfig in base64url.

    None when it holds nothing. Raises InvalidSpec, which does not repeat what it holds.
    """
    return parse_auth_config(_decode_header(header, "X-Registry-Auth"), "the request") if header else None


def parse_registry_config(header: str) -> dict[str, Credentials]:
    """Read X-Registry-Config, which comes with a build: an AuthConfig for each registry, by its name.

    Raises InvalidSpec, which does not repeat what it holds.
    """
    if not header:
        return {}
    value = _decode_header(header, "X-Registry-Config")
    if value is None:
        return {}  # Go's nil: clients that have no credentials send it
    if not isinstance(value, Mapping):
        raise InvalidSpec("the header X-Registry-Config is not usable: expected an object by registry")
    found = {registry_of_key(key): parse_auth_config(entry, "the request") for key, entry in value.items()}
    return {host: credentials for host, credentials in found.items() if credentials is not None}


def registry_of_key(key: str) -> str:
    """The registry that a key of `auths` or `credHelpers` names: a host, or an older URL of one."""
    host = key.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return DEFAULT_DOMAIN if host == _HUB_HOST else host


def _decode_header(text: str, name: str) -> Any:
    try:
        # Clients differ in whether they pad it.
        return json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        pass  # told below, where the secret is not part of the error's context
    raise InvalidSpec(f"the header {name} is not usable: expected a JSON object in base64url")


def _from_docker(path: Path, host: str) -> Credentials | None:
    config = _read(path)
    if config is None:
        return None
    helper = _entry(config, "credHelpers", host, path) or config.get("credsStore")
    if helper:
        if not isinstance(helper, str) or not _HELPER.fullmatch(helper):
            raise InvalidSpec(
                f"{path} names the credential helper {helper!r}: expected the part of a program's name "
                "that follows docker-credential-"
            )
        found = _ask_helper(helper, host)
        if found is not None:
            return found
    entry = _entry(config, "auths", host, path)
    return parse_auth_config(entry, f"{path}") if entry else None


def _entry(config: Mapping[str, Any], section: str, host: str, path: Path) -> Any:
    entries = config.get(section) or {}
    if not isinstance(entries, Mapping):
        raise InvalidSpec(f"{path} is not usable: expected {section} to be an object")
    if host in entries:
        return entries[host]
    return next((value for key, value in entries.items() if registry_of_key(key) == host), None)


def _read(path: Path) -> Mapping[str, Any] | None:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_FILE + 1)
        config = json.loads(data) if len(data) <= _MAX_FILE else None
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InvalidSpec(
            f"{path} cannot be read ({error.strerror}): make it readable for the agent"
        ) from error
    except ValueError:
        config = None
    if not isinstance(config, dict):
        raise InvalidSpec(f"{path} is not usable: expected a JSON object of at most {_MAX_FILE} bytes")
    return config


def _decode_auth(text: str, source: str) -> tuple[str, str]:
    try:
        username, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        colon = ""
    if not colon:
        # From None and without the text: it is a secret.
        raise InvalidSpec(
            f"the credentials in {source} are not usable: expected `auth` to be USER:PASSWORD in base64; "
            "log in again"
        )
    return username, password.strip("\0")


def _ask_helper(helper: str, host: str) -> Credentials | None:
    program = f"docker-credential-{helper}"
    question = _HUB_KEY if host == DEFAULT_DOMAIN else host
    try:
        done = subprocess.run(
            [program, "get"], input=question.encode(), capture_output=True, timeout=_HELPER_TIME, check=False
        )
    except FileNotFoundError:
        raise MissingProgram(
            f"credentials for registry {host} are kept by the program {program}, which is not on this host: "
            "install it, or take it out of docker's config.json"
        ) from None
    except PermissionError:
        raise MissingProgram(f"program {program} cannot be executed: check its mode and owner") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(
            f"program {program} gave no credentials for registry {host} within {_HELPER_TIME:g} s: "
            f"see what it waits for by `echo {question} | {program} get`"
        ) from None
    if done.returncode != 0:
        # By the protocol a failure is told on the standard output.
        reason = done.stdout[:200].decode(errors="replace").strip()
        if reason == _NOT_FOUND:
            return None
        raise Unavailable(
            f"program {program} failed to give credentials for registry {host} "
            f"(exit code {done.returncode}{': ' + reason if reason else ''}): log in again, or correct it"
        )
    try:
        answer = json.loads(done.stdout)
        username, secret = answer["Username"], answer["Secret"]
        usable = isinstance(username, str) and isinstance(secret, str)
    except (ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        raise Unavailable(
            f"program {program} answered with something else than credentials for registry {host}: "
            "expected a JSON object with Username and Secret"
        )
    if username == _TOKEN_USER:
        return Credentials(program, identity_token=secret)
    return Credentials(program, username, secret) if secret else None
