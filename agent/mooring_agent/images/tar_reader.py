# SPDX-License-Identifier: Apache-2.0
"""Reading tar archives: ustar, pax (POSIX.1-2001), GNU and V7 headers, sparse files of all kinds.

Nothing is trusted: sizes are bounded, numbers checked, and names handed on as the bytes that they are.
Where they are safe to be written is decided by the one who writes (images/layers.py).
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.stream import HashingReader

BLOCK = 512
MAX_EXTENSION = (
    1 << 20
)  # bytes of one pax header or long name; the kernel allows 64 KiB an attribute, 4 KiB a path
MAX_SPARSE_PARTS = 1 << 17
_MAX_ID = (1 << 32) - 2  # (uid_t) -1 means "unchanged" to chown(2)
_MAX_SIZE = (1 << 63) - 1
_MAX_TIME = (1 << 40) * 1_000_000_000  # nanoseconds; no file system goes as far

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)
_KINDS = {
    stat.S_IFREG: REGULAR,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFDIR: DIRECTORY,
    stat.S_IFIFO: FIFO,
}
_GNU_SPARSE = b"S"
_SKIPPED = frozenset((b"V", b"D", b"N"))  # GNU: volume label, directory dump; old GNU: names
_WITH_DATA = frozenset((REGULAR, b"\0", b"7", _GNU_SPARSE))
_ZERO = bytes(BLOCK)
_PAX_RECORD = re.compile(rb"(\d{1,7}) ([^=]+)=")
_DECIMAL = re.compile(rb"(-?)(\d{1,19})(?:\.(\d*))?")
_XATTR = b"SCHILY.xattr."


@dataclass(slots=True)
class TarEntry:
    """One member. `size` is the length of the file, `stored` how many bytes follow in the archive.

    `parts` of a sparse file are (offset, length) of its data in order, None for all others. Times in
    nanoseconds.
    """

    path: bytes
    kind: bytes
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    stored: int = 0
    mtime_ns: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    parts: tuple[tuple[int, int], ...] | None = None


def kind_of(status: os.stat_result) -> bytes | None:
    """The kind of the member that a file becomes; None for a socket, which no archive holds."""
    return _KINDS.get(stat.S_IFMT(status.st_mode))


def read_entries(reader: HashingReader) -> Iterator[TarEntry]:
    """Yield the members in order; the consumer takes the `stored` bytes from the reader, or some, or none.

    Raises InvalidSpec with the byte position for anything that is not well formed.
    """
    shared: dict[bytes, bytes] = {}
    while True:
        records: list[tuple[bytes, bytes]] = []
        long_name = long_link = None
        while True:
            start = reader.position
            block = reader.read(BLOCK)
            if not block or block == _ZERO:
                if records or long_name is not None or long_link is not None:
                    raise _bad(start, "the archive ends within a member's headers")
                return
            kind, size = _check(block, start)
            if kind == b"x" or kind == b"X":
                records = _pax_records(_extension(reader, size, start), start)
            elif kind == b"g":
                shared.update(_pax_records(_extension(reader, size, start), start))
            elif kind == b"L":
                long_name = _extension(reader, size, start).split(b"\0", 1)[0]
            elif kind == b"K":
                long_link = _extension(reader, size, start).split(b"\0", 1)[0]
            elif kind in _SKIPPED:
                _skip(reader, _padded(size), start)
            else:
                break
        entry, pax = _entry(block, kind, size, start), dict(shared)
        if entry.kind == _GNU_SPARSE:
            _old_sparse(reader, block, entry, start)
        if long_name is not None:
            entry.path = long_name
        if long_link is not None:
            entry.link = long_link
        pax.update(records)
        if pax:
            _apply_pax(entry, pax, start)
            if any(key.startswith(b"GNU.sparse.") for key in pax):
                _pax_sparse(reader, entry, pax, records, start)
        _check_entry(entry, start)
        end = reader.position + _padded(entry.stored)
        yield entry
        _skip(reader, end - reader.position, start)


def _bad(position: int, what: str) -> InvalidSpec:
    return InvalidSpec(f"the tar archive is not well formed at byte {position}: {what}")


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def _skip(reader: HashingReader, size: int, start: int) -> None:
    if reader.copy_to(-1, size) != size:
        raise _bad(start, "it ends within this member; the file is truncated")


def _extension(reader: HashingReader, size: int, start: int) -> bytes:
    if size > MAX_EXTENSION:
        raise _bad(start, f"an extended header of {size} bytes, more than the limit of {MAX_EXTENSION}")
    data = reader.read(_padded(size))
    if len(data) != _padded(size):
        raise _bad(start, "it ends within an extended header; the file is truncated")
    return data[:size]


def _text(block: bytes, start: int, end: int) -> bytes:
    return block[start:end].split(b"\0", 1)[0]


def _number(raw: bytes, position: int) -> int:
    """A numeric field: octal digits, or GNU's base 256 when the first bit is set."""
    if raw[0] & 0x80:
        value = int.from_bytes(raw, "big", signed=False) & ((1 << (8 * len(raw) - 1)) - 1)
        if raw[0] & 0x40:  # negative, two's complement of the remaining bits
            value -= 1 << (8 * len(raw) - 1)
        return value
    digits = raw.strip(b" \0").split(b"\0", 1)[0].rstrip(b" ")
    if not digits:
        return 0
    try:
        return int(digits, 8)
    except ValueError:
        raise _bad(position, f"{digits!r} is no octal number") from None


def _check(block: bytes, start: int) -> tuple[bytes, int]:
    """Verify length and checksum of a header block; return its type and size."""
    if len(block) != BLOCK:
        raise _bad(start, "it ends within a header; the file is truncated or no tar archive")
    told = _number(block[148:156], start)
    unsigned = sum(block) - sum(block[148:156]) + 8 * 0x20
    if told != unsigned and told != unsigned - 256 * sum(
        byte > 127 for byte in block[:148] + block[156:]
    ):  # some old programs summed signed bytes
        raise _bad(start, "the header's checksum is wrong; the file is damaged or no tar archive")
    size = _number(block[124:136], start)
    if not 0 <= size <= _MAX_SIZE:
        raise _bad(start, f"a size of {size} bytes")
    return block[156:157], size


def _entry(block: bytes, kind: bytes, size: int, start: int) -> TarEntry:
    path = _text(block, 0, 100)
    if block[257:263] == b"ustar\0":
        prefix = _text(block, 345, 500)
        if prefix:
            path = prefix + b"/" + path
    if kind in (b"\0", b"7"):
        kind = DIRECTORY if path.endswith(b"/") and kind == b"\0" else REGULAR
    device = (0, 0)
    if kind in (CHARACTER, BLOCK_DEVICE):
        device = (_number(block[329:337], start), _number(block[337:345], start))
    if kind not in _WITH_DATA:
        size = 0
    return TarEntry(
        path=path,
        kind=kind,
        mode=_number(block[100:108], start) & 0o7777,
        uid=_number(block[108:116], start),
        gid=_number(block[116:124], start),
        size=size,
        stored=size,
        mtime_ns=_number(block[136:148], start) * 1_000_000_000,
        link=_text(block, 157, 257),
        device=device,
    )


def _pax_records(data: bytes, start: int) -> list[tuple[bytes, bytes]]:
    records = []
    position = 0
    while position < len(data):
        match = _PAX_RECORD.match(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or end <= match.end() or end > len(data) or data[end - 1] != 0x0A:
            raise _bad(start, "a malformed pax record")
        records.append((match[2], data[match.end() : end - 1]))
        position = end
    return records


def _decimal(value: bytes, key: bytes, start: int) -> tuple[int, int]:
    """Whole part and nanoseconds of a decimal number."""
    match = _DECIMAL.fullmatch(value)
    if match is None:
        raise _bad(start, f"pax {key.decode(errors='replace')} {value[:40]!r} is no number")
    nanoseconds = int((match[3] or b"").ljust(9, b"0")[:9])
    whole = int(match[2])
    if match[1]:
        return (-whole - 1, 1_000_000_000 - nanoseconds) if nanoseconds else (-whole, 0)
    return whole, nanoseconds


def _apply_pax(entry: TarEntry, pax: dict[bytes, bytes], start: int) -> None:
    for key, value in pax.items():
        if key == b"path":
            entry.path = value
        elif key == b"linkpath":
            entry.link = value
        elif key == b"size":
            if entry.kind == REGULAR:
                entry.size = entry.stored = _decimal(value, key, start)[0]
        elif key == b"uid":
            entry.uid = _decimal(value, key, start)[0]
        elif key == b"gid":
            entry.gid = _decimal(value, key, start)[0]
        elif key == b"mtime":
            seconds, nanoseconds = _decimal(value, key, start)
            entry.mtime_ns = seconds * 1_000_000_000 + nanoseconds
        elif key.startswith(_XATTR):
            entry.xattrs[key[len(_XATTR) :]] = value


def _check_entry(entry: TarEntry, start: int) -> None:
    shown = entry.path[:200].decode(errors="backslashreplace")
    if b"\0" in entry.path or b"\0" in entry.link:
        raise _bad(start, f"the name {shown!r} has a NUL in it")
    if not 0 <= entry.uid <= _MAX_ID or not 0 <= entry.gid <= _MAX_ID:
        raise _bad(
            start, f"{shown!r} belongs to {entry.uid}:{entry.gid}, which no Linux user or group can be"
        )
    if not 0 <= entry.stored <= _MAX_SIZE or not 0 <= entry.size <= _MAX_SIZE:
        raise _bad(start, f"{shown!r} has a size of {entry.size} bytes")
    if abs(entry.mtime_ns) > _MAX_TIME:
        raise _bad(start, f"{shown!r} has a modification time of {entry.mtime_ns // 10**9} s")
    if not (0 <= entry.device[0] < 1 << 12 and 0 <= entry.device[1] < 1 << 20):
        raise _bad(start, f"{shown!r} is device {entry.device[0]}:{entry.device[1]}, which Linux cannot have")
    if any(not name or b"\0" in name for name in entry.xattrs):
        raise _bad(start, f"{shown!r} has an extended attribute without a proper name")
    if entry.parts is None:
        return
    end = 0
    for offset, length in entry.parts:
        if offset < end or length < 0 or offset + length > entry.size:
            raise _bad(start, f"{shown!r} is a sparse file whose parts overlap or exceed its size")
        end = offset + length
    if sum(length for _, length in entry.parts) != entry.stored:
        raise _bad(start, f"{shown!r} is a sparse file whose parts are not what is stored")


def _old_sparse(reader: HashingReader, block: bytes, entry: TarEntry, start: int) -> None:
    """GNU's own header for sparse files: four parts in the header, 21 in each block that follows."""
    parts: list[tuple[int, int]] = []
    entry.kind, entry.size = REGULAR, _number(block[483:495], start)
    offset, count, more = 386, 4, block[482]
    while True:
        for index in range(offset, offset + 24 * count, 24):
            if not block[index] and not block[index + 12]:
                break
            parts.append(
                (_number(block[index : index + 12], start), _number(block[index + 12 : index + 24], start))
            )
        if not more:
            break
        block = reader.read(BLOCK)
        if len(block) != BLOCK or len(parts) > MAX_SPARSE_PARTS:
            raise _bad(start, "the list of parts of a sparse file is cut off or too long")
        offset, count, more = 0, 21, block[504]
    entry.parts = tuple(parts)


def _pax_sparse(
    reader: HashingReader,
    entry: TarEntry,
    pax: dict[bytes, bytes],
    records: list[tuple[bytes, bytes]],
    start: int,
) -> None:
    """GNU's sparse formats 0.0 (repeated records), 0.1 (one list) and 1.0 (a list ahead of the data)."""

    def number(key: bytes) -> int:
        return _decimal(pax[key], key, start)[0]

    if b"GNU.sparse.name" in pax:
        entry.path = pax[b"GNU.sparse.name"]
    if pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0":
        numbers, taken = _sparse_list(reader, start)
        entry.stored -= taken
    elif b"GNU.sparse.map" in pax:
        numbers = [
            _decimal(text, b"GNU.sparse.map", start)[0] for text in pax[b"GNU.sparse.map"].split(b",") if text
        ]
    elif b"GNU.sparse.numblocks" in pax:
        wanted = (b"GNU.sparse.offset", b"GNU.sparse.numbytes")
        numbers = [_decimal(value, key, start)[0] for key, value in records if key in wanted]
    else:
        raise _bad(start, "a sparse file of an unknown format")
    for key in (b"GNU.sparse.realsize", b"GNU.sparse.size"):
        if key in pax:
            entry.size = number(key)
            break
    if len(numbers) % 2 or len(numbers) > 2 * MAX_SPARSE_PARTS:
        raise _bad(start, "the list of parts of a sparse file is cut off or too long")
    entry.parts = tuple(zip(numbers[::2], numbers[1::2], strict=True))


def _sparse_list(reader: HashingReader, start: int) -> tuple[list[int], int]:
    """Format 1.0: decimal numbers, one a line, the first their count in pairs, padded to whole blocks."""
    blocks: list[bytes] = []
    lines = wanted = 0
    while not lines or lines < wanted:
        block = reader.read(BLOCK)
        if (
            len(block) != BLOCK or len(blocks) > 40 * MAX_SPARSE_PARTS // BLOCK
        ):  # 40: two numbers of 19 digits
            raise _bad(start, "the list of parts of a sparse file is cut off or too long")
        blocks.append(block)
        lines += block.count(b"\n")
        if lines and not wanted:
            count = _decimal(b"".join(blocks).split(b"\n", 1)[0], b"GNU.sparse map", start)[0]
            if not 0 <= count <= MAX_SPARSE_PARTS:
                raise _bad(
                    start, f"a sparse file of {count} parts, more than the limit of {MAX_SPARSE_PARTS}"
                )
            wanted = 1 + 2 * count
    numbers = b"".join(blocks).split(b"\n")[1:wanted]
    return [_decimal(number, b"GNU.sparse map", start)[0] for number in numbers], BLOCK * len(blocks)
