# SPDX-License-Identifier: Apache-2.0
"""Chains of calls of the C library that are carried out without Python: contexts, makecontext(3).

For processes in which no Python may run: the interpreter's memory is another's, or gone.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable, Mapping, Sequence

# ucontext_t has 968 bytes on x86-64 and 4,560 on aarch64 (glibc, sys/ucontext.h).
_CONTEXT_SIZE = 0x2000
_STACK_SIZE = 0x4000
_PIECE = _CONTEXT_SIZE + _STACK_SIZE

libc = ctypes.PyDLL(None, use_errno=True)
# musl has none of them.
available = all(hasattr(libc, name) for name in ("clone", "getcontext", "makecontext", "setcontext"))

# A function of the C library, and what it is called with.
Call = tuple[str, *tuple[object, ...]]


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


class _Context(ctypes.Structure):
    """The beginning of ucontext_t, which is alike on all machines."""

    _fields_ = (("flags", ctypes.c_ulong), ("link", ctypes.c_void_p), ("stack", _Stack))


class Region:
    """Memory from `start` to `end` for a chain of `calls` calls, with `room` bytes for what they refer to."""

    def __init__(self, calls: int, room: int = 0) -> None:
        size = calls * _PIECE + -(-room // mmap.PAGESIZE) * mmap.PAGESIZE
        self._memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._anchor = ctypes.c_char.from_buffer(self._memory)
        self.start = ctypes.addressof(self._anchor)
        self.end = self.start + len(self._memory)
        self._used = calls * _PIECE

    def put(self, content: bytes) -> int:
        """Lay it into the room; its address, a multiple of 8."""
        address = self._used
        self._memory[address : address + len(content)] = content
        self._used += -(-len(content) // 8) * 8
        return self.start + address

    def chain(self, calls: Sequence[Call]) -> int:
        """The address of the context that makes these calls one after the other, whatever each answers. The
        last must not return.
        """
        link = None
        for index, (name, *given) in reversed(list(enumerate(calls))):
            link = self._context(self.start + index * _PIECE, link, name, given)
        assert link is not None
        return link

    def _context(self, address: int, link: int | None, name: str, given: Sequence[object]) -> int:
        pointer = ctypes.c_void_p(address)
        if libc.getcontext(pointer) != 0:
            raise OSError(ctypes.get_errno(), "getcontext failed")
        context = _Context.from_address(address)
        context.link = link
        context.stack.base = address + _CONTEXT_SIZE
        context.stack.size = _STACK_SIZE
        libc.makecontext(pointer, getattr(libc, name), len(given), *given)
        return address


def strings(values: Iterable[bytes]) -> list[bytes]:
    """Each as the C library takes it. Raises ValueError for one that would be cut off."""
    found = list(values)
    if any(0 in value for value in found):
        raise ValueError("a text with NUL cannot be handed to a program")
    return found


def environment_strings(environment: Mapping[str, str]) -> list[bytes]:
    """The environment as execve(2) takes it. Raises ValueError for a text with NUL."""
    return strings(os.fsencode(f"{name}={value}") for name, value in environment.items())
