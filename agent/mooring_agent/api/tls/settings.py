# SPDX-License-Identifier: Apache-2.0
"""Where the APIs are served over TLS, and with which files. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import InvalidSpec

# The port that Docker's clients take for TLS, registered with IANA as docker-s.
DEFAULT_PORT = 2376

_FILES = ("ca_file", "certificate", "key")
_KEYS = ("listen", *_FILES)
_LISTEN = re.compile(r"(?P<host>[0-9.]+|\[[0-9a-fA-F:.]+\])(?::(?P<port>[0-9]{1,5}))?")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """An address of this host, the agent's certificate and its key, and the CA whose clients may come in."""

    host: str
    port: int
    ca_file: Path
    certificate: Path
    key: Path

    @classmethod
    def parse(cls, spec: Mapping[str, Any]) -> TlsSettings:
        """Check what the configuration says; raises InvalidSpec that names the setting."""
        for key in spec:
            if key not in _KEYS:
                raise InvalidSpec(f"tls has an unknown setting {key!r}: expected {', '.join(_KEYS)}")
        for key in _KEYS:
            if spec.get(key) is None:
                raise _bad(
                    key, f"it is missing; expected all of {', '.join(_KEYS)}, or no tls, which serves no TCP"
                )
        host, port = _parse_listen(spec["listen"])
        for key in _FILES:
            if not isinstance(spec[key], str) or not spec[key].startswith("/"):
                raise _bad(key, f"{spec[key]!r} is no absolute path")
        return cls(host, port, *(Path(spec[key]) for key in _FILES))

    @property
    def address(self) -> str:
        """HOST:PORT, as a client writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def _parse_listen(value: Any) -> tuple[str, int]:
    found = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if found is not None:
        port = DEFAULT_PORT if found["port"] is None else int(found["port"])
        try:
            host = str(ipaddress.ip_address(found["host"].strip("[]")))
        except ValueError:
            host = ""
        if host and 0 < port <= 65535 and (":" in host) == found["host"].startswith("["):
            return host, port
    raise _bad(
        "listen",
        f"{str(value)[:200]!r} is no address of this host; expected ADDRESS or ADDRESS:PORT, such as "
        f"192.0.2.7 or [2001:db8::7]:{DEFAULT_PORT}",
    )


def _bad(key: str, wrong: str) -> InvalidSpec:
    return InvalidSpec(f"tls.{key} is not usable: {wrong}")
