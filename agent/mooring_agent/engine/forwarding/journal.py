# SPDX-License-Identifier: Apache-2.0
"""Lines of logs as entries of systemd's journal, in its native protocol
(https://systemd.io/JOURNAL_NATIVE_PROTOCOL/). Pure. The fields are those of dockerd's driver.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC, datetime

from .origin import Encoder, Line, Origin

SOCKET = "/run/systemd/journal/socket"
_PRIORITIES = {1: b"PRIORITY=6\n", 2: b"PRIORITY=3\n"}  # syslog(3): LOG_INFO, LOG_ERR
_LENGTH = struct.Struct("<Q")


def encoder(origin: Origin) -> Encoder:
    """What makes entries of the lines of a container."""
    fixed = b"".join(
        field(name, value.encode("utf-8", "surrogateescape"))
        for name, value in {
            "CONTAINER_ID": origin.id[:12],
            "CONTAINER_ID_FULL": origin.id,
            "CONTAINER_NAME": origin.name,
            "CONTAINER_TAG": origin.tag,
            "IMAGE_NAME": origin.image,
            "SYSLOG_IDENTIFIER": origin.tag,
            **_named(origin.attributes),
        }.items()
    )

    def encode(line: Line) -> bytes:
        seconds, nanoseconds = divmod(line.time_ns, 1_000_000_000)
        moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
        return b"".join(
            (
                field("MESSAGE", line.text),
                _PRIORITIES[line.stream],
                f"SYSLOG_TIMESTAMP={moment}.{nanoseconds:09}Z\n".encode(),
                b"CONTAINER_PARTIAL_MESSAGE=true\n" if line.partial else b"",
                fixed,
            )
        )

    return encode


def field(name: str, value: bytes) -> bytes:
    """A field of an entry: as text, or with its length where there is a newline in it."""
    if b"\n" not in value:
        return name.encode() + b"=" + value + b"\n"
    return name.encode() + b"\n" + _LENGTH.pack(len(value)) + value + b"\n"


def _named(attributes: Mapping[str, str]) -> dict[str, str]:
    """Attributes under names that the journal takes: capital letters, digits and "_", a letter first."""
    named = {}
    for name, value in attributes.items():
        signs = (sign.upper() if sign.isascii() and sign.isalnum() else "_" for sign in name)
        if allowed := "".join(signs).lstrip("_"):
            named[allowed] = value
    return named
