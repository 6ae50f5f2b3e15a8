# SPDX-License-Identifier: Apache-2.0
"""How each registry is reached: its mirrors, TLS and credentials, from `registries:` of the configuration.

Docker's directory of certificates is honoured as well: `/etc/docker/certs.d/HOST[:PORT]/` with `*.crt` (CAs)
and `*.cert` beside `*.key` (a client's certificate).
"""

from __future__ import annotations

import enum
import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.reference import DEFAULT_DOMAIN

DOCKER_HUB_API_HOST = "registry-1.docker.io"
"""Where the registry that names without a host mean serves its API: a fact of the protocol."""

CERTIFICATES = Path("/etc/docker/certs.d")
DOCKER_CONFIG = Path(os.environ.get("DOCKER_CONFIG") or os.path.expanduser("~/.docker")) / "config.json"

_ADDRESS = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\])(?::[0-9]{1,5})?")
_PREFIX = re.compile(r"[a-z0-9]+(?:[._/-]+[a-z0-9]+)*")
_MAX_SECRET = 64 << 10  # bytes of a password file
_KEYS = (
    "mirrors",
    "tls",
    "ca_file",
    "client_certificate",
    "client_key",
    "username",
    "password",
    "password_file",
    "upload_chunk",
)
_MIN_CHUNK = 1 << 20  # bytes

T = TypeVar("T")


class Tls(enum.Enum):
    """How much a registry must prove; the values are those of the setting `tls`."""

    VERIFY = "verify"
    UNVERIFIED = "unverified"  # encrypted, but by whomever
    OFF = "off"  # plain HTTP
    ANY = "any"  # unverified where the registry speaks TLS, else plain: Docker's "insecure registry"


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """What a connection is made with; `stamps` change when a file does, so that a new one is read.

    With `private` the CAs of `ca_files` are the only ones that are trusted, not also those of this host.
    """

    mode: Tls = Tls.VERIFY
    ca_files: tuple[Path, ...] = ()
    client_certificate: Path | None = None
    client_key: Path | None = None
    stamps: tuple[int, ...] = ()
    private: bool = False


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who one is at a registry; `source` says in messages where this came from. Secrets are not shown.

    `identity_token` is an OAuth2 refresh token, `registry_token` a bearer token to be sent as it is.
    """

    source: str
    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One place that serves a registry's API.

    `name` is the registry as users call it, `address` the host and port to connect to, `prefix` stands
    ahead of repositories' names there (with a closing slash, or empty), `upload_chunk` is the most bytes
    that one request may carry, 0 for no limit.
    """

    name: str
    address: str
    prefix: str = ""
    tls: TlsSettings = TlsSettings()
    is_mirror: bool = False
    upload_chunk: int = 0

    @property
    def where(self) -> str:
        """The endpoint in a message."""
        return f"{'mirror' if self.is_mirror else 'registry'} {self.name}"


@dataclass(frozen=True, slots=True)
class Mirror:
    """A place to read from ahead of the registry itself."""

    address: str
    prefix: str = ""
    plain: bool = False


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """What the configuration says about one registry. `tls` is None where it says nothing."""

    mirrors: tuple[Mirror, ...] = ()
    tls: Tls | None = None
    ca_file: Path | None = None
    client_certificate: Path | None = None
    client_key: Path | None = None
    username: str = ""
    password: str = field(default="", repr=False)
    password_file: Path | None = None
    upload_chunk: int = 0

    def credentials(self, host: str) -> Credentials | None:
        """The configured ones; raises InvalidSpec when the password's file cannot be read."""
        if not self.username:
            return None
        source = f"registries.{host} of the agent's configuration"
        if self.password_file is None:
            return Credentials(source, self.username, self.password)
        try:
            with open(self.password_file, encoding="utf-8") as file:
                password = file.read(_MAX_SECRET).rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
            raise InvalidSpec(
                f"the password of registry {host} cannot be read from {self.password_file} ({reason}): "
                f"write it there, or correct registries.{host}.password_file"
            ) from error
        return Credentials(source, self.username, password)


@dataclass(frozen=True, slots=True)
class RegistriesSettings:
    """All registries' settings, by the name that users give them; one that is not named has the defaults."""

    hosts: Mapping[str, RegistrySettings] = field(default_factory=dict)
    certificates: Path = CERTIFICATES
    docker_config: Path = DOCKER_CONFIG

    @classmethod
    def parse(
        cls,
        registries: Any,
        *,
        certificates: Path = CERTIFICATES,
        docker_config: Path = DOCKER_CONFIG,
    ) -> RegistriesSettings:
        """Check the mapping `registries:`; raises InvalidSpec that names the host and the setting."""
        if not isinstance(registries, Mapping):
            raise InvalidSpec("registries is not usable: expected a mapping from a registry to its settings")
        hosts = {}
        for host, settings in registries.items():
            check_registry(host, "registries")
            hosts[host] = _parse_host(host, settings)
        return cls(hosts, certificates, docker_config)

    def of(self, host: str) -> RegistrySettings:
        """What is said about a registry."""
        return self.hosts.get(host, _DEFAULTS)

    def tls(self, host: str) -> TlsSettings:
        """How to connect to a host, with the files of its directory of certificates."""
        said = self.of(host)
        directory = self.certificates / host
        # A host to which a registry redirects may have any name.
        names = _listing(directory) if _ADDRESS.fullmatch(host) else []
        authorities = [directory / name for name in names if name.endswith(".crt")]
        if said.ca_file is not None:
            authorities.insert(0, said.ca_file)
        certificate, key = said.client_certificate, said.client_key
        if certificate is None:
            for name in names:
                if name.endswith(".cert") and name[:-5] + ".key" in names:
                    certificate, key = directory / name, directory / (name[:-5] + ".key")
                    break
        mode = said.tls or (Tls.ANY if _is_loopback(host) and not authorities else Tls.VERIFY)
        files = [path for path in (*authorities, certificate, key) if path is not None]
        return TlsSettings(mode, tuple(authorities), certificate, key, tuple(map(file_stamp, files)))

    def endpoints(self, host: str) -> tuple[Endpoint, ...]:
        """Where a registry can be read: its mirrors in order, then the registry itself."""
        found = []
        for mirror in self.of(host).mirrors:
            tls = TlsSettings(Tls.OFF) if mirror.plain else self.tls(mirror.address)
            address = _api_address(mirror.address)
            found.append(Endpoint(mirror.address, address, mirror.prefix, tls, is_mirror=True))
        return (*found, self.origin(host))

    def origin(self, host: str) -> Endpoint:
        """The registry itself."""
        return Endpoint(host, _api_address(host), tls=self.tls(host), upload_chunk=self.of(host).upload_chunk)


_DEFAULTS = RegistrySettings()


def check_registry(host: Any, where: str) -> None:
    """Raises InvalidSpec unless that is the name of a registry; `where` says whose it is."""
    if not isinstance(host, str) or not _ADDRESS.fullmatch(host):
        raise InvalidSpec(
            f"{where} has {host!r}, which is no registry: expected HOST or HOST:PORT, without https:// and "
            "without a path"
        )


def _parse_host(host: str, settings: Any) -> RegistrySettings:
    if not isinstance(settings, Mapping):
        raise InvalidSpec(f"registries.{host} is not usable: expected a mapping of {', '.join(_KEYS)}")
    for key in settings:
        if key not in _KEYS:
            raise InvalidSpec(
                f"registries.{host} has an unknown setting {key!r}: expected {', '.join(_KEYS)}"
            )

    def get(key: str, kind: type[T], default: T, expected: str) -> T:
        value = settings.get(key, default)
        # A bool is an int to Python, but no number of bytes.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise _bad(host, key, f"it is a {type(value).__name__}", expected)
        return value

    def path(key: str) -> Path | None:
        text = get(key, str, "", "an absolute path")
        if text and not text.startswith("/"):
            raise _bad(host, key, f"{text!r} is not absolute", "an absolute path")
        return Path(text) if text else None

    mode = get("tls", str, "", "a word")
    if "tls" in settings and mode not in {tls.value for tls in Tls}:
        raise _bad(host, "tls", f"it is {mode!r}", "one of " + ", ".join(tls.value for tls in Tls))
    mirrors = get("mirrors", list, [], "a list of HOST[:PORT][/PATH], with http:// for one without TLS")
    parsed = RegistrySettings(
        mirrors=tuple(_parse_mirror(host, mirror) for mirror in mirrors),
        tls=Tls(mode) if mode else None,
        ca_file=path("ca_file"),
        client_certificate=path("client_certificate"),
        client_key=path("client_key"),
        username=get("username", str, "", "a name"),
        password=get("password", str, "", "a text"),
        password_file=path("password_file"),
        upload_chunk=get("upload_chunk", int, 0, "a number of bytes"),
    )
    _check_together(host, parsed)
    return parsed


def _check_together(host: str, settings: RegistrySettings) -> None:
    """Refuse settings that contradict each other, so that none is silently without effect."""
    if (settings.client_certificate is None) != (settings.client_key is None):
        raise _bad(host, "client_certificate", "it and client_key belong together", "both or none")
    if settings.tls in (Tls.OFF, Tls.UNVERIFIED, Tls.ANY) and settings.ca_file is not None:
        raise _bad(
            host,
            "ca_file",
            f"nothing is verified with tls: {settings.tls.value}",
            "tls: verify, or no ca_file",
        )
    if settings.tls is Tls.OFF and settings.client_certificate is not None:
        raise _bad(host, "client_certificate", "tls is off", "another tls, or no client certificate")
    if settings.password and settings.password_file is not None:
        raise _bad(host, "password_file", "there is a password as well", "one of the two")
    if bool(settings.username) != bool(settings.password or settings.password_file):
        raise _bad(host, "username", "it and a password belong together", "username with password_file")
    if ":" in settings.username:
        raise _bad(host, "username", "it has a colon in it", "a name without one (RFC 7617)")
    if settings.upload_chunk and settings.upload_chunk < _MIN_CHUNK:
        raise _bad(
            host, "upload_chunk", f"it is {settings.upload_chunk}", f"at least {_MIN_CHUNK} bytes, or 0"
        )


def _parse_mirror(host: str, text: Any) -> Mirror:
    expected = "HOST[:PORT][/PATH], with http:// for one without TLS"
    if not isinstance(text, str):
        raise _bad(host, "mirrors", f"an entry is a {type(text).__name__}", expected)
    url = text if "://" in text else f"https://{text}"
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _bad(host, "mirrors", "an entry is no URL", expected) from None
    if parts.username is not None or parts.password is not None:
        # Not shown: it may hold a password.
        raise _bad(host, "mirrors", "an entry has credentials in it", "them under the mirror's own name")
    prefix = parts.path.strip("/")
    if parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise _bad(host, "mirrors", f"{text!r} is no mirror", expected)
    if not _ADDRESS.fullmatch(parts.netloc) or (prefix and not _PREFIX.fullmatch(prefix)):
        raise _bad(host, "mirrors", f"{text!r} is no mirror", expected)
    return Mirror(parts.netloc, f"{prefix}/" if prefix else "", parts.scheme == "http")


def _bad(host: str, key: str, wrong: str, expected: str) -> InvalidSpec:
    return InvalidSpec(f"registries.{host}.{key} is not usable: {wrong}; expected {expected}")


def _api_address(host: str) -> str:
    return DOCKER_HUB_API_HOST if host == DEFAULT_DOMAIN else host


def _is_loopback(host: str) -> bool:
    name = urlsplit(f"//{host}").hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _listing(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InvalidSpec(
            f"the directory of certificates {directory} cannot be read ({error.strerror}): "
            "make it readable for the agent, or remove it"
        ) from error


def file_stamp(path: Path) -> int:
    """When a file was written, in nanoseconds; 0 for one that is missing, which is told when it is read."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
