# SPDX-License-Identifier: Apache-2.0
"""Devices in version 2: a BPF program of type CGROUP_DEVICE (cgroup-v2.rst, "Device controller").

The kernel runs it for every mknod and open of a device node with a `struct bpf_cgroup_dev_ctx` {access_type,
major, minor}: the kind in the lower half of access_type, the access asked for in its upper half. It answers 1
to allow.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from ...linux import bpf
from ..devices import DeviceRule

# BPF_DEVCG_* of include/uapi/linux/bpf.h.
_KINDS = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}

# Operations (Documentation/bpf/standardization/instruction-set.rst); 32-bit forms throughout.
_LOAD_WORD, _AND, _SHIFT_RIGHT, _MOVE, _MOVE_REGISTER, _EXIT = 0x61, 0x54, 0x74, 0xB4, 0xBC, 0x95
_JUMP, _JUMP_UNEQUAL, _JUMP_ANY_BIT = 0x05, 0x56, 0x46
_RESULT, _CONTEXT, _KIND, _WANTED, _MAJOR, _MINOR = 0, 1, 2, 3, 4, 5

NAME = "mooring_devices"


def program(rules: Iterable[DeviceRule]) -> bytes:
    """The rules as instructions. Each kind of access is decided by the last rule that matches it; by default
    all is allowed.

    From the last rule to the first: one that allows takes its accesses off what is wanted, and when nothing
    is left the answer is 1; one that denies any of what is left answers 0.
    """
    code = [
        _instruction(_LOAD_WORD, _KIND, _CONTEXT, 0),
        _instruction(_MOVE_REGISTER, _WANTED, _KIND),
        _instruction(_AND, _KIND, immediate=0xFFFF),
        _instruction(_SHIFT_RIGHT, _WANTED, immediate=16),
        _instruction(_LOAD_WORD, _MAJOR, _CONTEXT, 4),
        _instruction(_LOAD_WORD, _MINOR, _CONTEXT, 8),
    ]
    for rule in reversed(list(rules)):
        code += _rule(rule)
    code += _answer(allow=True)
    return b"".join(code)


def _rule(rule: DeviceRule) -> list[bytes]:
    bits = sum(_ACCESS[letter] for letter in set(rule.access))
    if rule.allow:
        body = [
            _instruction(_AND, _WANTED, immediate=~bits),
            # Something is still wanted: over the answer, to the next rule.
            _instruction(_JUMP_UNEQUAL, _WANTED, offset=2, immediate=0),
            *_answer(allow=True),
        ]
    else:
        body = [
            _instruction(_JUMP_ANY_BIT, _WANTED, offset=1, immediate=bits),
            _instruction(_JUMP, offset=2),
            *_answer(allow=False),
        ]
    tests: list[tuple[int, int]] = []
    if rule.kind != "a":
        tests.append((_KIND, _KINDS[rule.kind]))
    if rule.major is not None:
        tests.append((_MAJOR, rule.major))
    if rule.minor is not None:
        tests.append((_MINOR, rule.minor))
    code = []
    for index, (register, value) in enumerate(tests):
        beyond = len(tests) - index - 1 + len(body)
        code.append(_instruction(_JUMP_UNEQUAL, register, offset=beyond, immediate=value))
    return code + body


def _answer(*, allow: bool) -> list[bytes]:
    return [_instruction(_MOVE, _RESULT, immediate=int(allow)), _instruction(_EXIT)]


def _instruction(
    operation: int, target: int = 0, source: int = 0, offset: int = 0, immediate: int = 0
) -> bytes:
    return struct.pack("=BBhI", operation, target | source << 4, offset, immediate & 0xFFFFFFFF)


def attach(directory: str, instructions: bytes) -> None:
    """Put the program on the group in place of the ones that are on it; at no moment is there none. Raises
    OSError."""
    cgroup = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        former = bpf.device_programs(cgroup)
        new = bpf.load_device_program(instructions, NAME)
        try:
            bpf.attach_device_program(cgroup, new)
        finally:
            os.close(new)
        for program_id in former:
            old = bpf.program_by_id(program_id)
            try:
                bpf.detach_device_program(cgroup, old)
            finally:
                os.close(old)
    finally:
        os.close(cgroup)
