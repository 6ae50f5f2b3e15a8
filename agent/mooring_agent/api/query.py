# SPDX-License-Identifier: Apache-2.0
"""Typed reading of a query string: every bad value is an InvalidSpec that names the parameter."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from typing import Any
from urllib.parse import parse_qs

from ..errors import InvalidSpec
from .jsontext import parsed

_TRUE = frozenset({"1", "t", "true", "yes", "y", "on"})
_FALSE = frozenset({"", "0", "f", "false", "no", "n", "off", "none"})

# Enough for any call; more is a mistake or an attack on the parser.
_MAX_FIELDS = 1000

_WHOLE = re.compile(r"[+-]?[0-9]{1,18}")

Filters = dict[str, tuple[str, ...]]


class Query:
    """The parameters of one request. One given twice counts with its first value, as in Go's FormValue."""

    __slots__ = ("_values",)

    def __init__(self, raw: str = "") -> None:
        self._values: dict[str, list[str]] = {}
        if raw:
            try:
                self._values = parse_qs(
                    raw, keep_blank_values=True, errors="strict", max_num_fields=_MAX_FIELDS
                )
            except ValueError as error:
                raise InvalidSpec(f"the query string cannot be read: {error}") from None

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def text(self, name: str, default: str = "") -> str:
        """A parameter as it was given; `default` when absent."""
        values = self._values.get(name)
        return values[0] if values else default

    def many(self, name: str) -> list[str]:
        """All values of a parameter that may be repeated."""
        return list(self._values.get(name, ()))

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean: 1, true, yes… or 0, false, no… in any case; an empty one is false."""
        if name not in self._values:
            return default
        value = self._values[name][0].strip().lower()
        if value in _TRUE:
            return True
        if value in _FALSE:
            return False
        raise InvalidSpec(f"{name}={self._values[name][0]!r} is not a boolean: expected true or false")

    def integer(self, name: str, default: int | None = None, *, minimum: int | None = None) -> int | None:
        """A whole number; absent or empty gives `default`."""
        text = self.text(name).strip()
        if not text:
            return default
        # Of ASCII's digits, as many as 64 bits hold: what is larger is none for the kernel or the database.
        if not _WHOLE.fullmatch(text):
            raise InvalidSpec(f"{name}={text[:40]!r} is not a whole number of at most 18 digits")
        value = int(text)
        if minimum is not None and value < minimum:
            raise InvalidSpec(f"{name}={value} is too small: expected {minimum} or more")
        return value

    def number(
        self, name: str, default: float | None = None, *, minimum: float | None = None
    ) -> float | None:
        """A finite number; absent or empty gives `default`."""
        text = self.text(name).strip()
        if not text:
            return default
        try:
            value = float(text)
        except ValueError:
            raise InvalidSpec(f"{name}={text!r} is not a number") from None
        if not math.isfinite(value):
            raise InvalidSpec(f"{name}={text!r} is not a finite number")
        if minimum is not None and value < minimum:
            raise InvalidSpec(f"{name}={text} is too small: expected {minimum:g} or more")
        return value

    def filters(self, known: Collection[str]) -> Filters:
        """Docker's `filters` parameter: {"name": {"value": true}}, or in the older form {"name": ["value"]}.

        Raises InvalidSpec for what is neither, and for a filter that is not in `known`.
        """
        text = self.text("filters")
        if not text:
            return {}
        try:
            document = parsed(text)
        except ValueError as error:
            raise InvalidSpec(f"filters is not JSON ({error})") from None
        if not isinstance(document, dict):
            raise InvalidSpec('filters is not a JSON object: expected one such as {"name": ["web"]}')
        chosen: Filters = {}
        for name, values in document.items():
            if name not in known:
                raise InvalidSpec(f"invalid filter '{name}': expected one of {', '.join(sorted(known))}")
            chosen[name] = _filter_values(name, values)
        return {name: values for name, values in chosen.items() if values}

    def replaced(self, **values: str) -> Query:
        """The same parameters, with others in the place of these."""
        query = Query()
        query._values = self._values | {name: [value] for name, value in values.items()}
        return query

    def to_dict(self) -> dict[str, str]:
        """First value of each parameter, for logs."""
        return {name: values[0] for name, values in self._values.items()}


def _filter_values(name: str, values: Any) -> tuple[str, ...]:
    if isinstance(values, dict):
        if all(isinstance(state, bool) for state in values.values()):
            return tuple(value for value, wanted in values.items() if wanted)
    elif isinstance(values, list) and all(isinstance(value, str) for value in values):
        return tuple(values)
    raise InvalidSpec(f'filter {name!r} is malformed: expected a list of strings or {{"value": true}}')
