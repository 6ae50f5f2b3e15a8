# SPDX-License-Identifier: Apache-2.0
"""Inflating by ISA-L against zlib's own view of the same bytes."""

from __future__ import annotations

import gzip
import random
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import isal
from mooring_agent.images.stream import CHUNK, Compression, decompress
from unit.images.archives import in_pieces

pytestmark = pytest.mark.skipif(
    isal.library() is None, reason="needs libisal.so.2: install the package libisal2"
)


def unpacked(data: bytes, piece: int, *, fast: bool) -> bytes | str:
    """What comes out, or what is wrong."""
    try:
        return b"".join(decompress(in_pieces(data, piece), Compression.GZIP, fast=fast))
    except InvalidSpec as error:
        return "damaged" if "damaged" in error.message else error.message


@given(
    st.lists(
        st.tuples(st.binary(max_size=300), st.integers(0, 2000), st.integers(0, 9)), min_size=1, max_size=4
    ),
    st.integers(1, 5000),
    st.binary(max_size=12).map(lambda tail: bytes(len(tail))),
)
def test_members_in_pieces_of_any_size(
    members: list[tuple[bytes, int, int]], piece: int, padding: bytes
) -> None:
    plain = [text * times for text, times, _ in members]
    data = b"".join(gzip.compress(text, level) for text, (_, _, level) in zip(plain, members, strict=True))
    assert unpacked(data + padding, piece, fast=True) == b"".join(plain)


@given(st.integers(0, 2**32), st.integers(0, 1 << 30), st.integers(1, 255), st.integers(1, 3000))
def test_damage_is_found_as_zlib_finds_it(seed: int, place: int, flip: int, piece: int) -> None:
    text = random.Random(seed).choices((b"alpha", b"beta", b"gamma", b"\0", b"delta"), k=2000)
    data = bytearray(gzip.compress(b"".join(text), 6))
    data[place % len(data)] ^= flip
    fast, slow = (unpacked(bytes(data), piece, fast=way) for way in (True, False))
    assert (isinstance(fast, bytes), isinstance(slow, bytes)) in ((True, True), (False, False))
    if isinstance(slow, bytes):
        assert fast == slow


def test_more_than_a_chunk_comes_whole() -> None:
    plain = random.Random(1).randbytes(CHUNK) + bytes(40 * CHUNK) + random.Random(2).randbytes(1000)
    data = gzip.compress(plain)
    for piece in (1000, len(data)):
        assert unpacked(data, piece, fast=True) == plain
    assert unpacked(data[:-1], 1000, fast=True) == "the gzip data ends early: the file is truncated"
    bare = zlib.compress(plain)
    assert unpacked(bare, 1000, fast=True) == "damaged"
