# SPDX-License-Identifier: Apache-2.0
"""Inflating gzip data with ISA-L, where a host has libisal.so.2 (Debian: libisal2): half the time of zlib for
text, nine tenths for what hardly packs.

The structure is that of include/igzip_lib.h in its versions 2.x. What a host's library makes of it is tried
once, on data with a known result; a library that fails is left alone.
"""

from __future__ import annotations

import ctypes
import functools
import gzip
import platform

_LIBRARY = "libisal.so.2"
_GZIP = 1  # ISAL_GZIP: the library reads the header and checks the trailer, RFC 1952
_FINISHED = 5  # ISAL_BLOCK_FINISH
_MACHINES = ("x86_64", "aarch64")  # where it is faster
# struct inflate_huff_code_large and inflate_huff_code_small
_TABLES = 4 * (1 << 12) + 2 * 1264 + 2 * (1 << 10) + 2 * 80
_SPARE = 1 << 17  # more than what follows in the structure, 66 KB in version 2.30

_ERRORS = {
    -1: "invalid block",
    -2: "invalid symbol",
    -3: "invalid distance too far back",
    -4: "incorrect header check",
    -5: "unknown compression method",
    -6: "incorrect data check",
}


class DamagedData(Exception):
    """What was to be inflated is no gzip data, or damaged."""


class _State(ctypes.Structure):
    """struct inflate_state."""

    _fields_ = (
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint32),
        ("total_out", ctypes.c_uint32),
        ("next_in", ctypes.c_void_p),
        ("read_in", ctypes.c_uint64),
        ("avail_in", ctypes.c_uint32),
        ("read_in_length", ctypes.c_int32),
        ("tables", ctypes.c_ubyte * _TABLES),
        ("block_state", ctypes.c_int),
        ("dict_length", ctypes.c_uint32),
        ("bfinal", ctypes.c_uint32),
        ("crc_flag", ctypes.c_uint32),
        ("crc", ctypes.c_uint32),
        ("rest", ctypes.c_ubyte * _SPARE),
    )


class Inflater:
    """One member; the part of zlib.decompressobj's interface that is needed for a stream."""

    def __init__(self, library: ctypes.CDLL, size: int) -> None:
        """Give out at most `size` bytes at a time."""
        self._library = library
        self._state = _State()
        self._pointer = ctypes.byref(self._state)
        self._size = size
        self._out = ctypes.create_string_buffer(size)
        library.isal_inflate_init(self._pointer)
        self._state.crc_flag = _GZIP
        self.eof = False
        self.unused_data = b""
        self.unconsumed_tail = b""

    def decompress(self, data: bytes) -> bytes:
        """Inflate some of `data`; what is left is in `unconsumed_tail`, behind the end in `unused_data`.

        As many bytes as were asked for at most mean that there may be more. Raises DamagedData.
        """
        state = self._state
        state.next_in = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p)
        state.avail_in = len(data)
        state.next_out = ctypes.addressof(self._out)
        state.avail_out = self._size
        result = self._library.isal_inflate(self._pointer)
        if result < 0:
            raise DamagedData(_ERRORS.get(result, f"error {result}"))
        self.eof = state.block_state == _FINISHED
        rest = data[len(data) - state.avail_in :]
        self.unused_data, self.unconsumed_tail = (rest, b"") if self.eof else (b"", rest)
        return ctypes.string_at(self._out, self._size - state.avail_out)


@functools.cache
def library() -> ctypes.CDLL | None:
    """The host's library if there is one that works."""
    if platform.machine() not in _MACHINES:
        return None
    try:
        found = ctypes.CDLL(_LIBRARY)
        found.isal_inflate_init.restype = None
    except (OSError, AttributeError):
        return None
    return found if _works(found) else None


def _works(found: ctypes.CDLL) -> bool:
    plain = b"".join(b"%d " % (number * number) for number in range(8_000))
    packed = gzip.compress(plain, 1) + b"next"
    inflater = Inflater(found, 10_000)
    got, data = [], b""
    try:
        for start in range(0, len(packed), 777):
            data += packed[start : start + 777]
            while not inflater.eof:
                piece = inflater.decompress(data)
                data = inflater.unconsumed_tail
                got.append(piece)
                if len(piece) < 10_000:
                    break
        broken = Inflater(found, len(plain))
        broken.decompress(packed[:-6] + bytes(2))
    except DamagedData:
        return b"".join(got) == plain and inflater.eof
    return False
