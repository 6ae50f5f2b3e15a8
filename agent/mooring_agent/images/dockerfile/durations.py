# SPDX-License-Identifier: Apache-2.0
"""Durations as Go writes them: `1m30s`, `1.5h`, `500ms`."""

from __future__ import annotations

import re
from fractions import Fraction

from .errors import DockerfileError

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE = re.compile(rf"\+?(?:0|(?:{_PART.pattern})+)")
_LONGEST = (1 << 63) - 1
_LONGEST_TEXT = 60


def parse_duration(flag: str, text: str) -> int:
    """Nanoseconds: 0, which stands for the default, or a millisecond at least. Raises DockerfileError."""
    if len(text) > _LONGEST_TEXT or not _WHOLE.fullmatch(text):
        raise DockerfileError(f"{flag}={text} is no duration: expected one as 30s, 1m30s or 500ms")
    parts = _PART.findall(text)
    # Go drops what is below a nanosecond.
    total = sum(int(Fraction(number.rstrip(".")) * _NANOSECONDS[unit]) for number, unit in parts)
    if total > _LONGEST:
        raise DockerfileError(f"{flag}={text} is too long: expected 2^63 nanoseconds (292 years) at most")
    if 0 < total < _NANOSECONDS["ms"]:
        raise DockerfileError(f"{flag}={text} is too short: expected 1ms at least, or 0 for the default")
    return total
