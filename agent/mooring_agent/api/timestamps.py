# SPDX-License-Identifier: Apache-2.0
"""Times on the wire: RFC 3339 with nanoseconds, and Unix seconds with a fraction."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

from ..errors import InvalidSpec

# What Docker shows for "never": Go's zero time.
NEVER = "0001-01-01T00:00:00Z"

_UNIX = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]+)?")
_RFC3339 = re.compile(
    r"(\d{4}-\d{2}-\d{2})(?:[Tt ](\d{2}:\d{2}(?::\d{2})?)(?:\.(\d{1,9})\d*)?)?([Zz]|[+-]\d{2}:\d{2})?"
)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SPAN = re.compile(rf"(?:{_PART.pattern})+")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_NANOS = 1_000_000_000


def rfc3339(nanoseconds: int, *, fixed: bool = False) -> str:
    """A time in nanoseconds since 1970 as Go's RFC3339Nano; `fixed` keeps the trailing zeros, as logs do."""
    second, fraction = divmod(nanoseconds, _NANOS)
    digits = f"{fraction:09d}"
    if not fixed:
        digits = digits.rstrip("0")
    return f"{_to_the_second(second)}.{digits}Z" if digits else f"{_to_the_second(second)}Z"


def rfc3339_seconds(seconds: float | None) -> str:
    """A time in seconds since 1970 as RFC3339Nano; None is Go's zero time, as Docker shows it."""
    if seconds is None:
        return NEVER
    return rfc3339(int(seconds * 1_000_000) * 1000)


def parse(text: str, name: str) -> float | None:
    """Seconds since 1970 from "1700000000.5" or "2023-11-14T22:13:20.5Z"; empty or "0" is None.

    A time without zone is UTC. Raises InvalidSpec, naming the parameter.
    """
    text = text.strip()
    if text in ("", "0"):
        return None
    if _UNIX.fullmatch(text):
        return float(text)
    match = _RFC3339.fullmatch(text)
    if match is not None:
        date, clock, fraction, zone = match.groups()
        try:
            moment = datetime.fromisoformat(f"{date}T{clock or '00:00:00'}").replace(tzinfo=_zone(zone))
            return moment.timestamp() + (int(fraction) / 10 ** len(fraction) if fraction else 0)
        except (ValueError, OverflowError):
            pass  # told below: such as a 30th of February
    raise InvalidSpec(
        f"{name}={text!r} is no time: expected RFC 3339, such as 2024-01-31T12:00:00Z, or Unix seconds"
    )


def moment_or_span(text: str, name: str, now: float) -> float | None:
    """A time as `parse` reads it, or a span before `now` such as "10m" or "1h30m" (Go's ParseDuration)."""
    if _SPAN.fullmatch(text):
        return now - sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
    return parse(text, name)


def _zone(text: str | None) -> timezone:
    if text is None or text in "Zz":
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    span = timedelta(hours=hours, minutes=minutes)
    return timezone(-span if text[0] == "-" else span)


@lru_cache(maxsize=64)
def _to_the_second(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
