# SPDX-License-Identifier: Apache-2.0
"""What runs before a filter: system calls that the profile's author cannot have known are answered with
ENOSYS.

A C library tries a new call first and falls back to the old one on ENOSYS, and on nothing else: a filter
whose default is EPERM would break it at the next release. "Newer" is a number above all that the profile
names, as runc decides too. Classic BPF: Documentation/networking/filter.rst; `struct seccomp_data`:
include/uapi/linux/seccomp.h.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Mapping

from ..linux import seccomp

LARGEST_PROGRAM = 4096
"""BPF_MAXINSNS, include/uapi/linux/bpf_common.h."""

_LOAD, _JUMP, _JUMP_EQUAL, _JUMP_GREATER, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x05, 0x15, 0x25, 0x35, 0x06
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE = 0, 4

X32_BIT = 0x40000000
"""__X32_SYSCALL_BIT, arch/x86/include/uapi/asm/unistd.h: x32 is x86_64 with this bit in the number."""


def unknown_calls_stub(largest: Mapping[str, int], tokens: Mapping[str, int]) -> bytes:
    """Instructions to put before a filter.

    largest  architecture (a name of SCMP_ARCH_*) → the largest number of a call that the profile names
    tokens   architecture → its token
    An architecture without any number is left to the filter.
    """
    known = {name: number for name, number in largest.items() if number >= 0}
    x32 = known.pop("X32", None)
    if not known:
        return b""
    code = [_instruction(_LOAD, _OFFSET_ARCHITECTURE)]
    for name, number in known.items():
        code += _section(name, tokens[name], number, x32)
    return b"".join(code)


def _section(name: str, token: int, number: int, x32: int | None) -> list[bytes]:
    """For one architecture: not it → over the section; its call unknown → ENOSYS; else on to the filter.

    Sections stand one after another; each ends with the architecture in the accumulator again, for the next.
    """
    answer = _instruction(_RETURN, seccomp.ERRNO | errno.ENOSYS)
    tests: list[bytes]
    if name == "X86_64" and x32 is not None:
        tests = [
            _instruction(_JUMP_GREATER_EQUAL, X32_BIT, jump_true=1),
            _instruction(_JUMP_GREATER, number, jump_true=1, jump_false=2),
            _instruction(_JUMP_GREATER, x32, jump_true=0, jump_false=1),
        ]
    elif name == "X86_64":
        tests = [
            _instruction(_JUMP_GREATER_EQUAL, X32_BIT, jump_true=2),
            _instruction(_JUMP_GREATER, number, jump_true=0, jump_false=1),
        ]
    elif name in ("S390", "S390X"):
        # Number 0, once setup(2), is what the kernel makes of a number that it does not know.
        tests = [
            _instruction(_JUMP_EQUAL, 0, jump_true=1),
            _instruction(_JUMP_GREATER, number, jump_true=0, jump_false=1),
        ]
    else:
        tests = [_instruction(_JUMP_GREATER, number, jump_true=0, jump_false=1)]
    body = [_instruction(_LOAD, _OFFSET_NUMBER), *tests, answer, _instruction(_LOAD, _OFFSET_ARCHITECTURE)]
    return [_instruction(_JUMP_EQUAL, token, jump_false=len(body)), *body]


def _instruction(code: int, value: int, jump_true: int = 0, jump_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, jump_true, jump_false, value)
