# SPDX-License-Identifier: Apache-2.0
"""Spans of time in the words of `docker ps` (go-units' HumanDuration), which scripts look for."""

from __future__ import annotations

_MINUTE, _HOUR = 60, 3600
# Unit, its length in hours, and from how many hours on the next unit is used.
_LONGER = (
    ("hours", 1, 48),
    ("days", 24, 24 * 7 * 2),
    ("weeks", 24 * 7, 24 * 30 * 2),
    ("months", 24 * 30, 24 * 365 * 2),
)


def in_words(seconds: float) -> str:
    """Such as "3 minutes" or "About an hour"."""
    if seconds < 1:
        return "Less than a second"
    if seconds < _MINUTE:
        return _plural(int(seconds), "second")
    if seconds < _HOUR:
        minutes = int(seconds / _MINUTE)
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    hours = int(seconds / _HOUR + 0.5)
    if hours == 1:
        return "About an hour"
    for unit, length, bound in _LONGER:
        if hours < bound:
            return f"{hours // length} {unit}"
    return f"{hours // (24 * 365)} years"


def _plural(count: int, unit: str) -> str:
    return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
