# SPDX-License-Identifier: Apache-2.0
"""Two readings of a filter, to be compared: what its instructions do, and what its profile says."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from mooring_agent.linux import seccomp
from mooring_agent.runtime.seccomp_syntax import Profile

AUDIT_X86_64 = 0xC000003E
AUDIT_I386 = 0x40000003


def interpret(program: bytes, architecture: int, number: int, arguments: Sequence[int] = ()) -> int:
    """Run the classic BPF program as the kernel does (Documentation/networking/filter.rst); answers the
    action."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    data = struct.pack("<iIQ6Q", number - (1 << 32 if number >> 31 else 0), architecture, 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator, at = 0, 0
    while True:
        code, jump_true, jump_false, value = instructions[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x15:
                at += jump_true if accumulator == value else jump_false
            case 0x25:
                at += jump_true if accumulator > value else jump_false
            case 0x35:
                at += jump_true if accumulator >= value else jump_false
            case 0x45:
                at += jump_true if accumulator & value else jump_false
            case 0x06:
                return int(value)
            case _:
                raise AssertionError(f"instruction {code:#x} is not expected")


def judge(profile: Profile, name: str, arguments: Sequence[int]) -> int:
    """The action that the selected rules mean for a call by name: one that matches, else the default."""
    padded = [*arguments, *[0] * (6 - len(arguments))]
    for rule in profile.rules:
        if rule.name == name and all(_holds(each, padded[each.argument]) for each in rule.comparisons):
            return rule.action
    return profile.default_action


def _holds(comparison: seccomp.Comparison, argument: int) -> bool:
    match comparison.operation:
        case seccomp.NOT_EQUAL:
            return argument != comparison.value
        case seccomp.LESS:
            return argument < comparison.value
        case seccomp.LESS_OR_EQUAL:
            return argument <= comparison.value
        case seccomp.EQUAL:
            return argument == comparison.value
        case seccomp.GREATER_OR_EQUAL:
            return argument >= comparison.value
        case seccomp.GREATER:
            return argument > comparison.value
        case _:
            return argument & comparison.value == comparison.value_two
