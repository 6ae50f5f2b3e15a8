# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import bz2
import gzip
import hashlib
import lzma
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.host import need_programs
from mooring_agent.errors import InvalidSpec, MissingProgram
from mooring_agent.images.stream import CHUNK, Compression, HashingReader, decompress, detect, peek
from unit.images.archives import in_pieces


def zstd(data: bytes) -> bytes:
    need_programs("zstd")
    return subprocess.run(["zstd", "-qc"], input=data, capture_output=True, check=True).stdout


PACKERS: dict[Compression, Callable[[bytes], bytes]] = {
    Compression.NONE: bytes,
    Compression.GZIP: gzip.compress,
    Compression.BZIP2: bz2.compress,
    Compression.XZ: lzma.compress,
    Compression.ZSTD: zstd,
}
packed = pytest.mark.parametrize("compression", PACKERS)


def unpack(data: bytes, piece: int = 1000) -> bytes:
    head, whole = peek(in_pieces(data, piece))
    return b"".join(decompress(whole, detect(head)))


@packed
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_what_was_packed_comes_out(compression: Compression, piece: int) -> None:
    data = b"not random " * 500 + os.urandom(2000)
    assert detect(PACKERS[compression](data)) is compression
    assert unpack(PACKERS[compression](data), piece) == data


@packed
def test_members_follow_each_other(compression: Compression) -> None:
    pack = PACKERS[compression]
    assert unpack(pack(b"one") + pack(b"") + pack(b"two"), 5) == b"onetwo"


@packed
def test_damage_and_truncation_are_found(compression: Compression) -> None:
    if compression is Compression.NONE:
        return
    data = PACKERS[compression](os.urandom(5000))
    with pytest.raises(InvalidSpec, match=f"{compression} data"):
        unpack(data[:-20])
    with pytest.raises(InvalidSpec, match=f"{compression} data"):
        unpack(data + b"garbage behind it")
    damaged = bytearray(data)
    damaged[len(data) // 2] ^= 0xFF
    if compression is not Compression.ZSTD:  # whose checksum is optional: the blob's digest tells
        with pytest.raises(InvalidSpec, match=f"{compression} data"):
            unpack(bytes(damaged))


def test_zeros_behind_gzip_are_padding() -> None:
    assert unpack(gzip.compress(b"data") + bytes(700), 100) == b"data"


@packed
def test_a_bomb_comes_out_in_bounded_pieces(compression: Compression) -> None:
    data = PACKERS[compression](bytes(20 << 20))
    head, whole = peek(iter([data]))
    sizes = [len(piece) for piece in decompress(whole, detect(head))]
    assert sum(sizes) == 20 << 20
    if compression is not Compression.NONE:
        assert max(sizes) <= CHUNK


def test_a_program_that_nobody_reads_is_ended() -> None:
    data = zstd(os.urandom(3 << 20))
    stream = decompress(in_pieces(data), Compression.ZSTD)
    next(stream)
    stream.close()

    def failing() -> Iterator[bytes]:
        yield data[:5000]
        raise InvalidSpec("the source broke")

    with pytest.raises(InvalidSpec, match="the source broke"):
        b"".join(decompress(failing(), Compression.ZSTD))


def test_a_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("mooring_agent.images.stream._ZSTD_MODULES", ())
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgram, match="install package zstd"):
        b"".join(decompress(iter([b"\x28\xb5\x2f\xfd"]), Compression.ZSTD))


@given(st.binary(max_size=300), st.integers(1, 40), st.lists(st.integers(0, 60)))
def test_reading_by_count(data: bytes, piece: int, counts: list[int]) -> None:
    reader = HashingReader(in_pieces(data, piece), 1000)
    found = b""
    for count in counts:
        part = reader.read(count)
        assert len(part) == min(count, len(data) - len(found))
        found += part
        assert reader.position == len(found)
    assert data.startswith(found)
    assert reader.copy_to(-1, 10) == min(10, len(data) - len(found))
    reader.drain(len(data))
    assert reader.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_more_than_the_limit_is_refused() -> None:
    reader = HashingReader(iter([b"12345", b"6"]), 5)
    assert reader.read(5) == b"12345"
    with pytest.raises(InvalidSpec, match="limit of 5 bytes"):
        reader.drain(100)


def test_what_follows_is_limited() -> None:
    reader = HashingReader(iter([b"archive", b"rest"]), 100)
    reader.read(7)
    with pytest.raises(InvalidSpec, match="more than 3 bytes follow"):
        reader.drain(3)
