# SPDX-License-Identifier: Apache-2.0
"""execve(2) at a word, by a process that has given away its memory before.

An execve ends with the old memory's removal, and a forked Python has some thousand pages: 1.4 of the 1.6 ms
that it took. What is known ahead waits for the word with the C library alone: it is a chain of calls
(`contexts`), and all the rest is unmapped first.
"""

from __future__ import annotations

import ctypes
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .contexts import Call, Region, available, environment_strings, libc, strings

# The word. It is the first byte of the program's path, so that without it there is nothing to be executed:
# a chain of calls knows no conditions.
WORD = b"/"
_AT_BASE = 7  # getauxval(3): where the dynamic linker is
_LINE = re.compile(r"(?P<start>[0-9a-f]+)-(?P<end>[0-9a-f]+) \S+ \S+ \S+ \S+ *(?P<file>.*)")


@dataclass(frozen=True, slots=True)
class Memory:
    """The address space from `start` to `end`, and what of it is needed without Python: (start, end) each."""

    start: int
    end: int
    kept: tuple[tuple[int, int], ...]

    @classmethod
    def surveyed(cls, maps: str) -> Memory | None:
        """By proc_pid_maps(5); None if it is not as expected."""
        mappings = [
            (int(line["start"], 16), int(line["end"], 16), line["file"]) for line in _LINE.finditer(maps)
        ]
        addresses = _needed()
        files = {file for start, end, file in mappings if any(start <= each < end for each in addresses)}
        kept: list[tuple[int, int]] = []
        for start, end, file in mappings:
            # A library's last data have no file, and follow what has.
            data = not file and bool(kept) and kept[-1][1] == start
            if data or (file and file in files) or any(start <= each < end for each in addresses):
                kept.append((start, end))
        # Above the stack is what the kernel has put there.
        stack = [end for _, end, file in mappings if file == "[stack]"]
        if not files - {""} or not stack:
            return None
        return cls(mappings[0][0], stack[0], tuple(kept))

    def gaps(self, also: tuple[int, int]) -> list[tuple[int, int]]:
        """What can go, as (start, length), if `also` is kept too."""
        found = []
        start = self.start
        for kept_start, kept_end in sorted([*self.kept, also, (self.end, self.end)]):
            if kept_start > start:
                found.append((start, kept_start - start))
            start = max(start, kept_end)
        return found


# Known to a process and to all that are forked from it, in which the same is at the same place.
_memory: list[Memory] = []


def survey() -> None:
    """Look what is where. For a process that forks those that are to wait, while it can see /proc."""
    _memory.clear()
    if available:
        with open("/proc/self/maps") as maps:
            found = Memory.surveyed(maps.read())
        _memory.extend([found] if found else [])


def can_wait(path: str) -> bool:
    """Whether `execute_at_word` can run this program here."""
    return bool(_memory) and path.startswith("/")


def execute_at_word(
    channel: int,
    path: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    going: bytes,
    failed: bytes,
) -> NoReturn:
    """Wait for `WORD` on the socket `channel`, answer `going`, and run `path`, for which `can_wait`.

    Sends `failed` and exits when it cannot be executed, and exits when the channel ends. Only for a process
    with one thread. Raises ValueError for a text with NUL, OSError without memory for it.
    """
    memory = _memory[0]
    (path_bytes,) = strings([os.fsencode(path)])
    arguments, variables = strings(os.fsencode(each) for each in argv), environment_strings(environment)
    pieces = (path_bytes, *arguments, *variables, going, failed)
    pointers = len(arguments) + len(variables) + 2
    calls = len(memory.kept) + 2 + _CALLS
    region = Region(calls, sum(len(each) + 8 for each in pieces) + 8 * pointers)
    where = ctypes.c_void_p(region.put(b"\0" + path_bytes[1:] + b"\0"))
    program = (where, _array(region, arguments), _array(region, variables))
    chain: list[Call] = [
        ("munmap", ctypes.c_void_p(start), ctypes.c_size_t(length))
        for start, length in memory.gaps((region.start, region.end))
    ]
    socket_ = ctypes.c_int(channel)
    chain += [
        ("recv", socket_, where, ctypes.c_size_t(len(WORD)), ctypes.c_int(0)),
        _send(region, socket_, going),
        ("execve", *program),
        _send(region, socket_, failed),
        ("_exit", ctypes.c_int(0)),
    ]
    libc.setcontext(ctypes.c_void_p(region.chain(chain)))
    raise OSError(ctypes.get_errno(), "setcontext failed")


# Those of the chain that unmap nothing.
_CALLS = 5


def _send(region: Region, channel: ctypes.c_int, content: bytes) -> Call:
    where = ctypes.c_void_p(region.put(content))
    return ("send", channel, where, ctypes.c_size_t(len(content)), ctypes.c_int(socket.MSG_NOSIGNAL))


def _array(region: Region, values: list[bytes]) -> ctypes.c_void_p:
    """A char *[] that ends with NULL."""
    addresses = [region.put(value + b"\0") for value in values]
    return ctypes.c_void_p(region.put(bytes((ctypes.c_void_p * (len(addresses) + 1))(*addresses, None))))


def _needed() -> list[int]:
    """Addresses in what has to stay: the C library, its thread's own data, the dynamic linker."""
    libc.__errno_location.restype = ctypes.c_void_p
    libc.pthread_self.restype = ctypes.c_void_p
    libc.getauxval.restype = ctypes.c_ulong
    code = ctypes.cast(libc.setcontext, ctypes.c_void_p).value
    found = (code, libc.__errno_location(), libc.pthread_self(), libc.getauxval(_AT_BASE))
    return [address for address in found if address]
