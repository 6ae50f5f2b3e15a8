# SPDX-License-Identifier: Apache-2.0
"""Byte streams of archives: hashing while reading, compression told by its first bytes."""

from __future__ import annotations

import bz2
import ctypes
import hashlib
import importlib
import lzma
import os
import shutil
import subprocess
import threading
import zlib
from collections.abc import Generator, Iterable, Iterator
from enum import StrEnum
from typing import BinaryIO, Protocol, cast

from mooring_agent.errors import InvalidSpec, MissingProgram
from mooring_agent.images import isal

CHUNK = 1 << 18  # bytes; large enough that hashing and inflating release the interpreter for a while

_ZSTD_MODULES = (
    "compression.zstd",
    "backports.zstd",
)  # standard library from Python 3.14, its backport before


class Compression(StrEnum):
    """How an archive is packed."""

    NONE = "none"
    GZIP = "gzip"
    ZSTD = "zstd"
    BZIP2 = "bzip2"
    XZ = "xz"


_MAGIC = (
    (b"\x1f\x8b", Compression.GZIP),  # RFC 1952
    (b"\x28\xb5\x2f\xfd", Compression.ZSTD),  # RFC 8878
    (b"BZh", Compression.BZIP2),
    (b"\xfd7zXZ\x00", Compression.XZ),
)


class _Decompressor(Protocol):
    """What bz2, lzma and zstd offer alike."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


def detect(head: bytes) -> Compression:
    """Tell the compression from the first six bytes of a stream."""
    for magic, compression in _MAGIC:
        if head.startswith(magic):
            return compression
    return Compression.NONE


def read_chunks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield what a file object has, in pieces."""
    while chunk := stream.read(CHUNK):
        yield chunk


def peek(chunks: Iterator[bytes], size: int = 6) -> tuple[bytes, Iterator[bytes]]:
    """Return the first `size` bytes (fewer at the end) and the stream as it was."""
    head = b""
    while len(head) < size and (chunk := next(chunks, b"")):
        head += chunk

    def whole() -> Iterator[bytes]:
        if head:
            yield head
        yield from chunks

    return head[:size], whole()


def gather(chunks: Iterator[bytes], size: int) -> tuple[Iterator[bytes], bool]:
    """Read at least `size` bytes; returns the stream as it was, and whether it ends before them."""
    found: list[bytes] = []
    total = 0
    ended = False
    while total < size and not ended:
        chunk = next(chunks, b"")
        total += len(chunk)
        ended = not chunk
        if chunk:
            found.append(chunk)

    def whole() -> Iterator[bytes]:
        yield from found
        found.clear()
        if not ended:
            yield from chunks

    return whole(), ended


def decompress(
    chunks: Iterator[bytes], compression: Compression, *, fast: bool = False
) -> Generator[bytes, None, None]:
    """Yield the unpacked stream, of one or several members, in bounded pieces; close it when done.

    With `fast`, gzip is inflated by the host's ISA-L where it has it: code to keep out of the agent itself.
    Raises InvalidSpec when the packed data is damaged or ends early, MissingProgram when zstd can be had
    nowhere.
    """
    if compression is Compression.NONE:
        return (chunk for chunk in chunks)
    if compression is Compression.GZIP:
        return _gunzip(chunks, isal.library() if fast else None)
    if compression is Compression.BZIP2:
        return _members(chunks, compression, bz2.BZ2Decompressor)
    if compression is Compression.XZ:
        return _members(chunks, compression, lzma.LZMADecompressor)
    for name in _ZSTD_MODULES:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        return _members(chunks, compression, module.ZstdDecompressor)
    return _unzstd(chunks)


class _Zlib:
    """zlib's object, with the limit on what it gives out at a time fixed."""

    def __init__(self) -> None:
        self._object = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        return self._object.unused_data

    @property
    def unconsumed_tail(self) -> bytes:
        return self._object.unconsumed_tail

    def decompress(self, data: bytes) -> bytes:
        return self._object.decompress(data, CHUNK)


def _gunzip(chunks: Iterator[bytes], library: ctypes.CDLL | None = None) -> Generator[bytes, None, None]:
    # These keep their rest in unconsumed_tail where the others have needs_input.
    inflate: _Zlib | isal.Inflater | None = None
    for chunk in chunks:
        data = chunk
        full = False
        while data or full:
            if inflate is None:
                data = data.lstrip(b"\0")  # padding after a member, as gzip(1) accepts
                if not data:
                    break
                inflate = _Zlib() if library is None else isal.Inflater(library, CHUNK)
            try:
                piece = inflate.decompress(data)
            except (zlib.error, isal.DamagedData) as error:
                raise InvalidSpec(f"the gzip data is damaged ({error})") from error
            full = len(piece) == CHUNK
            if piece:
                yield piece
            if inflate.eof:
                data = inflate.unused_data
                inflate = None
                full = False
            else:
                data = inflate.unconsumed_tail
    if inflate is not None:
        raise InvalidSpec("the gzip data ends early: the file is truncated")


def _members(
    chunks: Iterator[bytes], compression: Compression, make: type[_Decompressor] | type
) -> Generator[bytes, None, None]:
    unpack: _Decompressor | None = None
    for chunk in chunks:
        data = chunk
        while data or (unpack is not None and not unpack.needs_input):
            if unpack is None:
                unpack = cast(_Decompressor, make())
            try:
                piece = unpack.decompress(data, CHUNK)
            except (OSError, ValueError, lzma.LZMAError) as error:
                raise InvalidSpec(f"the {compression} data is damaged ({error})") from error
            if piece:
                yield piece
            data = b""
            if unpack.eof:
                data = unpack.unused_data
                unpack = None
    if unpack is not None:
        raise InvalidSpec(f"the {compression} data ends early: the file is truncated")


def _unzstd(chunks: Iterator[bytes]) -> Generator[bytes, None, None]:
    program = shutil.which("zstd")
    if program is None:
        raise MissingProgram(
            "unpacking this archive needs the program zstd, which is not here: install package zstd"
        )
    failure: list[BaseException] = []
    with subprocess.Popen(
        [program, "-dcq"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        feeder = threading.Thread(
            target=_feed, args=(chunks, process.stdin, failure), name="mooring-zstd", daemon=True
        )
        feeder.start()
        finished = False
        try:
            yield from read_chunks(cast(BinaryIO, process.stdout))
            finished = True
        finally:
            if not finished:
                process.kill()
            feeder.join()
        if failure:
            raise failure[0]
        message = process.stderr.read().decode(errors="replace").strip()
        if process.wait() != 0:
            raise InvalidSpec(f"the zstd data is damaged ({message or 'zstd gives no reason'})")


def _feed(chunks: Iterator[bytes], pipe: BinaryIO, failure: list[BaseException]) -> None:
    try:
        with pipe:
            for chunk in chunks:
                pipe.write(chunk)
    except BrokenPipeError:
        return  # the program ended first, and its exit status says why
    except Exception as error:  # noqa: BLE001 - handed to the thread that reads, which raises it
        failure.append(error)


Buffer = bytes | memoryview


class Digest(Protocol):
    """What hashlib's objects offer, and pipeline.Inflater."""

    def update(self, data: Buffer, /) -> None:
        """Add some bytes."""

    def hexdigest(self) -> str:
        """The digest of all of them."""


class HashingReader:
    """Reads a stream of chunks by count, hashing all of it and refusing more than `limit` bytes.

    A chunk is done with before the next one is asked for.
    """

    def __init__(self, chunks: Iterable[Buffer], limit: int, digest: Digest | None = None) -> None:
        """`digest` is one of SHA-256, made here unless given."""
        self._chunks = iter(chunks)
        self._limit = limit
        self._hash: Digest = hashlib.sha256() if digest is None else digest
        self._view = memoryview(b"")
        self._fetched = 0

    @property
    def position(self) -> int:
        """Bytes read so far."""
        return self._fetched - len(self._view)

    @property
    def digest(self) -> str:
        """`sha256:…` of the whole stream; call drain first."""
        return f"sha256:{self._hash.hexdigest()}"

    def read(self, size: int) -> bytes:
        """Return exactly `size` bytes, fewer only at the end of the stream."""
        view = self._view
        if len(view) >= size:
            self._view = view[size:]
            return bytes(view[:size])
        parts = []
        while size and self._fill():
            part = self._view[:size]
            self._view = self._view[size:]
            parts.append(bytes(part))
            size -= len(part)
        return b"".join(parts)

    def copy_to(self, fd: int, size: int) -> int:
        """Write the next `size` bytes to `fd`, or skip them if it is -1; returns how many there were."""
        left = size
        while left and self._fill():
            part = self._view[:left]
            self._view = self._view[left:]
            left -= len(part)
            while fd >= 0 and part:
                part = part[os.write(fd, part) :]
        return size - left

    def drain(self, limit: int) -> None:
        """Read what is left, so that the digest covers it; raises InvalidSpec for more than `limit` bytes."""
        end = self.position + limit
        while self._fill():
            self._view = memoryview(b"")
            if self._fetched > end:
                raise InvalidSpec(f"more than {limit} bytes follow the end of the archive")

    def _fill(self) -> bool:
        while not self._view:
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._fetched += len(chunk)
            if self._fetched > self._limit:
                raise InvalidSpec(f"the archive unpacks to more than the limit of {self._limit} bytes")
            self._hash.update(chunk)
            self._view = memoryview(chunk)
        return True
