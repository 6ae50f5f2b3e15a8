# SPDX-License-Identifier: Apache-2.0
"""Archives made member by member, for tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from mooring_agent.images import tar_reader as tar
from mooring_agent.images.tar_writer import END, member_header, padding


def member(path: str | bytes, kind: bytes = tar.REGULAR, data: bytes = b"", **fields: Any) -> bytes:
    """One member as bytes; it belongs to whoever runs the test unless `uid` and `gid` say otherwise."""
    raw = path.encode() if isinstance(path, str) else path
    values: dict[str, Any] = {
        "uid": os.geteuid(),
        "gid": os.getegid(),
        "mode": 0o755 if kind == tar.DIRECTORY else 0o644,
    }
    values |= fields
    if isinstance(values.get("link"), str):
        values["link"] = str(values["link"]).encode()
    entry = tar.TarEntry(raw, kind, **values)
    if kind == tar.REGULAR and entry.parts is None:
        entry.size = entry.stored = len(data)
    return member_header(entry) + data + padding(len(data))


def directory(path: str, **fields: Any) -> bytes:
    return member(path, tar.DIRECTORY, **fields)


def link(path: str, to: str, **fields: Any) -> bytes:
    return member(path, tar.SYMLINK, link=to, **fields)


def hard_link(path: str, to: str, **fields: Any) -> bytes:
    return member(path, tar.HARD_LINK, link=to, **fields)


def archive(*members: bytes) -> bytes:
    """A whole archive."""
    return b"".join((*members, END))


def in_pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    """The bytes as a stream whose pieces end anywhere."""
    return (data[start : start + size] for start in range(0, len(data), size))
