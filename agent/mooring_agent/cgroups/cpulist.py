# SPDX-License-Identifier: Apache-2.0
"""The kernel's list format for CPUs and memory nodes, as "0-3,8" (cpuset(7), "List format")."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ..errors import InvalidSpec

_PART = re.compile(r"(\d{1,6})(?:-(\d{1,6}))?", re.ASCII)

LARGEST = 65_535
"""No kernel has more CPUs than this (NR_CPUS is at most 8192, MAX_NUMNODES at most 1024); it bounds what a
range expands to."""


def parse_cpulist(text: str, name: str = "list") -> frozenset[int]:
    """The numbers that the list stands for; empty for an empty text. InvalidSpec names `name` when it is
    malformed."""
    numbers: set[int] = set()
    text = text.strip()
    if not text:
        return frozenset()
    for part in text.split(","):
        match = _PART.fullmatch(part.strip())
        if match is None:
            raise InvalidSpec(f'{name} is "{text}", expected numbers and ranges such as "0-3,8"')
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first or last > LARGEST:
            raise InvalidSpec(
                f'{name} is "{text}", of which "{part.strip()}" is no range of numbers from 0 to {LARGEST}'
            )
        numbers.update(range(first, last + 1))
    return frozenset(numbers)


def format_cpulist(numbers: Iterable[int]) -> str:
    """The shortest list that stands for the numbers, in the form in which the kernel prints it."""
    parts: list[str] = []
    ordered = sorted(set(numbers))
    start = 0
    for index, number in enumerate(ordered):
        if index + 1 == len(ordered) or ordered[index + 1] != number + 1:
            first = ordered[start]
            parts.append(str(first) if first == number else f"{first}-{number}")
            start = index + 1
    return ",".join(parts)
