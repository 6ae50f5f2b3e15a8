# SPDX-License-Identifier: Apache-2.0
"""JSON of clients (RFC 8259), as far as what it says can be held by those who get it. Pure."""

from __future__ import annotations

import json
import math
from typing import Any

# What the widest field of either API holds: 64 bits, with or without a sign.
_LEAST, _MOST = -(1 << 63), (1 << 64) - 1
_MOST_DIGITS = len(str(_LEAST))


def parsed(text: str | bytes) -> Any:
    """The value of a text. Raises ValueError for what is no JSON, and for numbers and strings that nothing
    could take: numbers beyond 64 bits, NaN, strings with half of a surrogate pair.

    Of the latter those pass that stand for bytes which are no UTF-8 (PEP 383): arguments may have them.
    """
    if isinstance(text, bytes):
        text = text.decode()
    try:
        value = json.loads(text, parse_int=_whole, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if "\\u" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogateescape")
        except UnicodeEncodeError:
            raise ValueError("a string has half of a surrogate pair") from None
    return value


def _whole(text: str) -> int:
    if len(text) <= _MOST_DIGITS and _LEAST <= (value := int(text)) <= _MOST:
        return value
    raise ValueError(f"the number {text[:_MOST_DIGITS]}… has more than 64 bits")


def _finite(text: str) -> float:
    if math.isfinite(value := float(text)):
        return value
    raise ValueError(f"{text[:_MOST_DIGITS]} is no finite number")
