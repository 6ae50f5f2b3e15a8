# SPDX-License-Identifier: Apache-2.0
"""A program as a sibling: started without a copy of the caller's memory, and the child of its parent.

posix_spawn(3) spares the copy too, yet its child becomes another's only when the caller has ended, and the
end of a Python process takes the kernel a millisecond. clone(2) can say at once whose child it is
(CLONE_PARENT), but then the child may run nothing of Python, whose memory it shares: it runs a chain of
contexts, makecontext(3), each of which is one call of the C library.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
from collections.abc import Mapping, Sequence

from .syscalls import CLONE_PARENT

_CLONE_VM = 0x100  # linux/sched.h
_CLONE_VFORK = 0x4000
# ucontext_t has 968 bytes on x86-64 and 4,560 on aarch64 (glibc, sys/ucontext.h).
_CONTEXT_SIZE = 0x2000
_STACK_SIZE = 0x4000
_PIECE = _CONTEXT_SIZE + _STACK_SIZE
_EXIT_FAILED = 127

_libc = ctypes.PyDLL(None, use_errno=True)
# musl has none of them.
available = all(hasattr(_libc, name) for name in ("clone", "getcontext", "makecontext", "setcontext"))


class _Stack(ctypes.Structure):
    """stack_t of sigaltstack(2)."""

    _fields_ = (("base", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


class _Context(ctypes.Structure):
    """The beginning of ucontext_t, which is alike on all machines."""

    _fields_ = (("flags", ctypes.c_ulong), ("link", ctypes.c_void_p), ("stack", _Stack))


def spawn_sibling(path: str, argv: Sequence[str], environment: Mapping[str, str]) -> tuple[int, int]:
    """Run `path` in a session of its own, with the caller's descriptors, identity and signal mask.

    Answers its pid and the error number of its execve(2): 0, or the process has ended, for its parent to
    reap. Signals must be at their defaults, and the caller single-threaded. Raises OSError when there can be
    no process.
    """
    chain = _Chain(path, argv, environment, _rehearsed.pop() if _rehearsed else _new_memory())
    ctypes.set_errno(0)
    pid: int = _libc.clone(
        _libc.setcontext,
        ctypes.c_void_p(chain.stack),
        ctypes.c_int(_CLONE_VM | _CLONE_VFORK | CLONE_PARENT | signal.SIGCHLD),
        ctypes.c_void_p(chain.first),
    )
    number = ctypes.get_errno()  # both processes have the same
    if pid < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return pid, number


def rehearse() -> None:
    """Do all of it but the clone, which has the pages that it needs made and copied while nobody waits."""
    memory = _new_memory()
    memory[3 * _PIECE : 4 * _PIECE] = bytes(_PIECE)
    _Chain("/proc", ("rehearsal",), {"PATH": "/proc"}, memory)
    _rehearsed[:] = [memory]


# The memory of the last rehearsal, for the chain that is played.
_rehearsed: list[mmap.mmap] = []


def _new_memory() -> mmap.mmap:
    return mmap.mmap(-1, 4 * _PIECE)


class _Chain:
    """The contexts of the child, and what they refer to: `first` begins with them, on `stack`."""

    def __init__(
        self, path: str, argv: Sequence[str], environment: Mapping[str, str], memory: mmap.mmap
    ) -> None:
        self._anchor = ctypes.c_char.from_buffer(memory)
        self._given = (
            ctypes.c_char_p(_whole(os.fsencode(path))),
            _strings([os.fsencode(each) for each in argv]),
            _strings([os.fsencode(f"{name}={value}") for name, value in environment.items()]),
        )
        start = ctypes.addressof(self._anchor)
        leave = _make_context(start, None, "_exit", ctypes.c_int(_EXIT_FAILED))
        run = _make_context(start + _PIECE, leave, "execve", *self._given)
        self.first = _make_context(start + 2 * _PIECE, run, "setsid")
        self.stack = start + 4 * _PIECE


def _make_context(address: int, link: int | None, name: str, *given: object) -> int:
    """A context at `address` that calls a function of the C library and then goes on with `link`."""
    pointer = ctypes.c_void_p(address)
    if _libc.getcontext(pointer) != 0:
        raise OSError(ctypes.get_errno(), "getcontext failed")
    context = _Context.from_address(address)
    context.link = link
    context.stack.base = address + _CONTEXT_SIZE
    context.stack.size = _STACK_SIZE
    _libc.makecontext(pointer, getattr(_libc, name), len(given), *given)
    return address


def _strings(values: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    """A char *[] that ends with NULL."""
    return (ctypes.c_char_p * (len(values) + 1))(*map(_whole, values), None)


def _whole(value: bytes) -> bytes:
    """The value, unless it would be cut off."""
    if 0 in value:
        raise ValueError("a text with NUL cannot be handed to a program")
    return value
