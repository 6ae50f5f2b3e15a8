# SPDX-License-Identifier: Apache-2.0
"""Names of the members of an archive: cleaned, and shown in messages. Pure."""

from __future__ import annotations

from mooring_agent.errors import InvalidSpec


def split_path(path: bytes) -> tuple[bytes, bytes]:
    """Return parent and last component of a member's name, cleaned of `.`, empty parts and a leading slash.

    The root itself is (b"", b""). Raises InvalidSpec when the name leads out of the root; `a/../b` stays
    inside and is `b`.
    """
    parts: list[bytes] = []
    for part in path.split(b"/"):
        if part == b"..":
            if not parts:
                raise InvalidSpec(f"archive member {shown(path)} leads out of the root file system")
            parts.pop()
        elif part and part != b".":
            parts.append(part)
    return (b"/".join(parts[:-1]), parts[-1]) if parts else (b"", b"")


def shown(path: bytes) -> str:
    """A name as a message has it: its beginning, whatever bytes it is made of."""
    return repr(path[:200].decode(errors="backslashreplace"))
