# SPDX-License-Identifier: Apache-2.0
"""Who the peers of this host are, where it serves them, and by what they know each other. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mooring_agent.errors import InvalidSpec
from mooring_agent.serving import split_address

UPLOADS = 4
"""Blobs that a host sends at a time, if nothing else is said; more would make each of them slow."""

_MAX_UPLOADS = 64
_MAX_MEMBERS = 1000
_KEYS = ("listen", "address", "members", "tls", "plain", "uploads")
_TLS_KEYS = ("ca_file", "certificate", "key")
_ADDRESS = re.compile(r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?|\[[0-9a-fA-F:]+\]):[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class PeerTls:
    """This host's certificate, and the CA of the fleet: whom it signed is a peer, and nobody else is."""

    ca_file: Path
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class PeerSettings:
    """The peers of this host. Addresses are HOST:PORT.

    `listen` is where it serves, `address` how the others know it, `members` are all hosts that share, this
    one among them or not. Without `tls` everything is on loopback. `uploads` is how many blobs are sent at a
    time.
    """

    listen: str
    address: str
    members: tuple[str, ...]
    tls: PeerTls | None
    uploads: int = UPLOADS

    @classmethod
    def parse(cls, spec: Mapping[str, Any]) -> PeerSettings:
        """Check what a user declares; raises InvalidSpec that names the setting."""
        for key in spec:
            if key not in _KEYS:
                raise InvalidSpec(f"peers has an unknown setting {key!r}: expected {', '.join(_KEYS)}")
        listen = _address("listen", spec.get("listen"))
        address = _address("address", spec.get("address") or listen)
        members = spec.get("members", [])
        if not isinstance(members, list) or len(members) > _MAX_MEMBERS:
            raise _bad("members", f"expected a list of at most {_MAX_MEMBERS} addresses HOST:PORT")
        members = tuple(dict.fromkeys(_address("members", member) for member in members))
        uploads = spec.get("uploads", UPLOADS)
        if not isinstance(uploads, int) or isinstance(uploads, bool) or not 1 <= uploads <= _MAX_UPLOADS:
            raise _bad("uploads", f"it is {uploads!r}; expected a number from 1 to {_MAX_UPLOADS}")
        plain = spec.get("plain", False)
        if not isinstance(plain, bool):
            raise _bad("plain", f"it is {plain!r}; expected true or false")
        tls = None if spec.get("tls") is None else _parse_tls(spec["tls"])
        if plain == (tls is not None):
            raise _bad(
                "tls",
                "expected a mapping of ca_file, certificate and key, or, for tests on loopback alone, "
                "plain: true in its place",
            )
        if plain:
            for each in (listen, address, *members):
                if not _is_loopback(each):
                    raise _bad("plain", f"{each} is not on loopback; expected tls with certificates")
        elif address.startswith(("0.0.0.0:", "[::]:")):
            raise _bad("address", f"{address} is no address of this host; say how the others reach it")
        return cls(listen, address, members, tls, uploads)

    @property
    def others(self) -> tuple[str, ...]:
        """The members without this host."""
        return tuple(member for member in self.members if member != self.address)

    def to_spec(self) -> dict[str, Any]:
        """The declaration in full, as `parse` reads it."""
        found: dict[str, Any] = {
            "listen": self.listen,
            "address": self.address,
            "members": list(self.members),
            "uploads": self.uploads,
        }
        if self.tls is None:
            return found | {"plain": True}
        return found | {"tls": {key: str(getattr(self.tls, key)) for key in _TLS_KEYS}}


def _address(key: str, value: Any) -> str:
    if not isinstance(value, str) or not _ADDRESS.fullmatch(value) or int(value.rpartition(":")[2]) > 65535:
        raise _bad(key, f"{str(value)[:200]!r} is no address; expected HOST:PORT")
    return value


def _parse_tls(value: Any) -> PeerTls:
    if not isinstance(value, Mapping) or set(value) != set(_TLS_KEYS):
        raise _bad("tls", f"expected a mapping of {', '.join(_TLS_KEYS)}")
    for key in _TLS_KEYS:
        if not isinstance(value[key], str) or not value[key].startswith("/"):
            raise _bad(f"tls.{key}", f"{value[key]!r} is no absolute path")
    return PeerTls(Path(value["ca_file"]), Path(value["certificate"]), Path(value["key"]))


def _is_loopback(address: str) -> bool:
    name = split_address(address)[0]
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _bad(key: str, wrong: str) -> InvalidSpec:
    return InvalidSpec(f"peers.{key} is not usable: {wrong}")
