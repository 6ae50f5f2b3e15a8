# SPDX-License-Identifier: Apache-2.0
"""Writing tar archives: ustar headers, with pax records (POSIX.1-2001) for what does not fit into them.

The same members give the same bytes: no user or group names, no access times, records in a fixed order.
"""

from __future__ import annotations

from mooring_agent.images.tar_reader import BLOCK, DIRECTORY, TarEntry

_SECOND = 1_000_000_000
_MAX_OCTAL = 8**11 - 1  # of a size or time
_MAX_ID = 8**7 - 1

END = bytes(2 * BLOCK)
"""What closes an archive."""


def padding(size: int) -> bytes:
    """What follows `size` bytes of data, up to the next block."""
    return bytes(-size % BLOCK)


def member_header(entry: TarEntry) -> bytes:
    """Return everything that stands in the archive ahead of a member's data.

    For a sparse file (`entry.parts` set) that includes the list of parts in GNU's format 1.0, which GNU
    tar, libarchive, Python and Go read; its data is that of the parts alone.
    """
    records: dict[bytes, bytes] = {}
    path, link, stored, sparse_list = entry.path, entry.link, entry.stored, b""
    if entry.parts is not None:
        lines = b"".join(b"%d\n%d\n" % part for part in entry.parts)
        sparse_list = b"%d\n%s" % (len(entry.parts), lines)
        sparse_list += padding(len(sparse_list))
        stored += len(sparse_list)
        records[b"GNU.sparse.major"] = b"1"
        records[b"GNU.sparse.minor"] = b"0"
        records[b"GNU.sparse.name"] = path
        records[b"GNU.sparse.realsize"] = b"%d" % entry.size
    if entry.kind == DIRECTORY and not path.endswith(b"/"):
        path += b"/"
    prefix, name = _split(path)
    if name is None:
        records[b"path"] = path
        prefix, name = b"", path[:100]
    if len(link) > 100:
        records[b"linkpath"] = link
    seconds, fraction = divmod(entry.mtime_ns, _SECOND)
    if fraction or not 0 <= seconds <= _MAX_OCTAL:
        records[b"mtime"] = _decimal(entry.mtime_ns)
    for key, value, limit in (
        (b"uid", entry.uid, _MAX_ID),
        (b"gid", entry.gid, _MAX_ID),
        (b"size", stored, _MAX_OCTAL),
    ):
        if value > limit:
            records[key] = b"%d" % value
    for key, attribute in entry.xattrs.items():
        records[b"SCHILY.xattr." + key] = attribute
    header = _block(entry, name, prefix, stored, min(max(seconds, 0), _MAX_OCTAL))
    if records:
        data = b"".join(_record(key, records[key]) for key in sorted(records))
        extension = TarEntry(b"PaxHeaders/" + name[:80], b"x", mode=0o644, stored=len(data))
        header = _block(extension, extension.path, b"", len(data), 0) + data + padding(len(data)) + header
    return header + sparse_list


def _split(path: bytes) -> tuple[bytes, bytes | None]:
    """Divide a path into ustar's prefix (155 bytes) and name (100), which is None if it does not fit."""
    if len(path) <= 100:
        return b"", path
    cut = path.find(b"/", max(0, len(path) - 101))
    if 0 < cut <= 155 and cut < len(path) - 1:
        return path[:cut], path[cut + 1 :]
    return b"", None


def _record(key: bytes, value: bytes) -> bytes:
    body = b" %s=%s\n" % (key, value)
    length = len(body) + len(str(len(body)))
    if len(str(length)) + len(body) > length:
        length += 1
    return b"%d%s" % (length, body)


def _decimal(nanoseconds: int) -> bytes:
    sign, magnitude = (b"-", -nanoseconds) if nanoseconds < 0 else (b"", nanoseconds)
    seconds, fraction = divmod(magnitude, _SECOND)
    text = b"%s%d" % (sign, seconds)
    return text + b"." + (b"%09d" % fraction).rstrip(b"0") if fraction else text


def _block(entry: TarEntry, name: bytes, prefix: bytes, size: int, seconds: int) -> bytes:
    block = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0" % (entry.mode & 0o7777),
            b"%07o\0" % (entry.uid if entry.uid <= _MAX_ID else 0),
            b"%07o\0" % (entry.gid if entry.gid <= _MAX_ID else 0),
            b"%011o\0" % (size if size <= _MAX_OCTAL else 0),
            b"%011o\0" % seconds,
            b" " * 8,
            entry.kind,
            entry.link[:100].ljust(100, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0" % entry.device[0],
            b"%07o\0" % entry.device[1],
            prefix.ljust(155, b"\0"),
        )
    ).ljust(BLOCK, b"\0")
    return b"%s%06o\0 %s" % (block[:148], sum(block), block[156:])
