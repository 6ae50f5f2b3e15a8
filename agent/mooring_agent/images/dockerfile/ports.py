# SPDX-License-Identifier: Apache-2.0
"""The ports of EXPOSE."""

from __future__ import annotations

from .errors import DockerfileError

_PROTOCOLS = ("tcp", "udp", "sctp")
_LAST_PORT = 65535


def exposed_ports(word: str) -> list[str]:
    """The ports of one word, as `80/tcp`: a port, or a range of them, and a protocol if it is not TCP.

    Raises DockerfileError. Of `8080:80` the port of the host says nothing, since EXPOSE publishes nothing.
    """
    ports, _, protocol = word.rpartition(":")[2].partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise DockerfileError(
            f"EXPOSE {word}: the protocol {protocol!r} is not known: expected tcp, udp or sctp"
        )
    first, dash, last = ports.partition("-")
    start = _port(word, first)
    end = _port(word, last) if dash else start
    if end < start:
        raise DockerfileError(f"EXPOSE {word}: the range ends before it begins: expected {end}-{start}")
    return [f"{port}/{protocol}" for port in range(start, end + 1)]


def _port(word: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LAST_PORT):
        raise DockerfileError(f"EXPOSE {word}: {text!r} is no port: expected a number from 0 to {_LAST_PORT}")
    return int(text)
