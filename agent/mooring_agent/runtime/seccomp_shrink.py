# SPDX-License-Identifier: Apache-2.0
"""The same filter in fewer instructions.

libseccomp compares the number of a system call with each one that a profile names. Most of them stand side
by side and come to the same end, so that a few dozen ranges say it all. The kernel checks, translates and
runs a filter's instructions whenever one is installed, which is on the path of each start and each exec.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

# linux/bpf_common.h: class, size or source, mode or operation
_LOAD = 0x20
_AND = 0x54
_JUMP = 0x05
_EQUAL = 0x15
_GREATER = 0x25
_GREATER_OR_EQUAL = 0x35
_TEST_BITS = 0x45
_RETURN = 0x06
_CONDITIONS = (_EQUAL, _GREATER, _GREATER_OR_EQUAL, _TEST_BITS)
# struct seccomp_data of linux/seccomp.h
_NUMBER = 0
_ARCHITECTURE = 4
_LARGEST = 0xFFFFFFFF
_LONGEST_JUMP = 255

Instruction = tuple[int, int, int, int]  # struct sock_filter: code, jt, jf, k
_FORM = struct.Struct("=HBBI")


class _Unknown(Exception):
    """The program has something that is not understood here."""


@dataclass(frozen=True)
class _Range:
    """Numbers of system calls, both ends included, for which the program goes on at `place`."""

    first: int
    last: int
    place: int


def shrink(program: bytes) -> bytes:
    """An equivalent of a filter in the form that libseccomp gives to it; others are returned as they are."""
    instructions = list(_FORM.iter_unpack(program))
    try:
        architectures = _architectures(instructions)
        other = next(one for one in range(len(architectures) + 1) if one not in architectures)
        result = [(_LOAD, 0, 0, _ARCHITECTURE)]
        for architecture in architectures:
            block = [(_LOAD, 0, 0, _NUMBER), *_search(instructions, _ranges(instructions, architecture))]
            result += [(_EQUAL, 1, 0, architecture), (_JUMP, 0, 0, len(block)), *block]
        result += [(_LOAD, 0, 0, _NUMBER), *_search(instructions, _ranges(instructions, other))]
    except _Unknown:
        return program
    return b"".join(_FORM.pack(*each) for each in result) if len(result) < len(instructions) else program


def _architectures(instructions: list[Instruction]) -> list[int]:
    """The architectures that the program knows, in its order."""
    found: dict[int, None] = {}
    place, loaded = 0, -1
    while True:
        code, _, on_false, value = instructions[place]
        place += 1
        if code == _LOAD and value in (_ARCHITECTURE, _NUMBER):
            loaded = value
        elif code == _JUMP:
            place += value
        elif code == _EQUAL and loaded == _ARCHITECTURE:
            found[value] = None
            place += on_false
        elif code in _CONDITIONS and loaded == _ARCHITECTURE:
            raise _Unknown
        else:
            return list(found)


def _ranges(instructions: list[Instruction], architecture: int) -> list[_Range]:
    """Where the program goes for the numbers of one architecture: to its end, or to a look at arguments."""
    found: list[_Range] = []
    waiting = [(0, -1, 0, _LARGEST)]  # place, what is loaded, the numbers that come there
    while waiting:
        place, loaded, first, last = waiting.pop()
        code, on_true, on_false, value = instructions[place]
        if code == _LOAD and value in (_ARCHITECTURE, _NUMBER):
            waiting.append((place + 1, value, first, last))
        elif code == _JUMP:
            waiting.append((place + 1 + value, loaded, first, last))
        elif code == _EQUAL and loaded == _ARCHITECTURE:
            skip = on_true if value == architecture else on_false
            waiting.append((place + 1 + skip, loaded, first, last))
        elif code in (_EQUAL, _GREATER, _GREATER_OR_EQUAL) and loaded == _NUMBER:
            low, high = {
                _EQUAL: (value, value),
                _GREATER: (value + 1, _LARGEST),
                _GREATER_OR_EQUAL: (value, _LARGEST),
            }[code]
            parts = (
                (first, min(last, low - 1), on_false),
                (max(first, low), min(last, high), on_true),
                (max(first, high + 1), last, on_false),
            )
            waiting += [(place + 1 + skip, loaded, begin, end) for begin, end, skip in parts if begin <= end]
        elif code in (_LOAD, _RETURN):
            found.append(_Range(first, last, place))
        else:
            raise _Unknown
    found.sort(key=lambda each: each.first)
    return _joined(found, lambda place: instructions[place] if instructions[place][0] == _RETURN else place)


def _joined(ranges: list[_Range], end: Callable[[int], object]) -> list[_Range]:
    """Neighbours that come to the same end as one."""
    result: list[_Range] = []
    for each in ranges:
        if result and end(result[-1].place) == end(each.place):
            result[-1] = _Range(result[-1].first, each.last, each.place)
        else:
            result.append(each)
    return result


def _search(instructions: list[Instruction], ranges: list[_Range]) -> list[Instruction]:
    """A binary search for the range of the number that is loaded."""
    if len(ranges) == 1:
        return _copy(instructions, ranges[0].place)
    middle = len(ranges) // 2
    below, above = _search(instructions, ranges[:middle]), _search(instructions, ranges[middle:])
    limit = ranges[middle].first
    if len(below) <= _LONGEST_JUMP:
        return [(_GREATER_OR_EQUAL, len(below), 0, limit), *below, *above]
    return [(_GREATER_OR_EQUAL, 0, 1, limit), (_JUMP, 0, 0, len(below)), *below, *above]


def _copy(instructions: list[Instruction], start: int) -> list[Instruction]:
    """All that the program may do from `start` on."""
    reached: set[int] = set()
    waiting = [start]
    while waiting:
        place = waiting.pop()
        if place not in reached:
            reached.add(place)
            waiting += _successors(instructions[place], place)
    order = sorted(reached)
    position = {place: number for number, place in enumerate(order)}
    result = []
    for number, place in enumerate(order):
        code, on_true, on_false, value = instructions[place]
        if code == _JUMP:
            value = position[place + 1 + value] - number - 1
        elif code in _CONDITIONS:
            on_true = position[place + 1 + on_true] - number - 1
            on_false = position[place + 1 + on_false] - number - 1
        result.append((code, on_true, on_false, value))
    return result


def _successors(instruction: Instruction, place: int) -> list[int]:
    code, on_true, on_false, value = instruction
    if code == _RETURN:
        return []
    if code == _JUMP:
        return [place + 1 + value]
    if code in _CONDITIONS:
        return [place + 1 + on_true, place + 1 + on_false]
    if code in (_LOAD, _AND):
        return [place + 1]
    raise _Unknown
