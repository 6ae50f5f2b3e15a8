# SPDX-License-Identifier: Apache-2.0
"""Typed reading of a JSON body that is no declared resource; an InvalidSpec names each bad value."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import InvalidSpec


class Fields:
    """The members of one JSON object. `where` begins the sentence of an error, such as "exec"."""

    def __init__(self, body: Mapping[str, Any], where: str, known: Sequence[str]) -> None:
        """Raises InvalidSpec for a member that is not in `known`, naming the nearest that is."""
        self._body = body
        self._where = where
        for key in body:
            if key not in known:
                nearest = difflib.get_close_matches(key.lower(), known, n=1)
                hint = f'did you mean "{nearest[0]}"?' if nearest else f"expected one of {', '.join(known)}"
                raise InvalidSpec(f"{where} has no option {json.dumps(key)}; {hint}")

    def texts(self, name: str) -> list[str]:
        """A list of strings; absent is empty."""
        value = self._body.get(name)
        if value is None:
            return []
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self._refusal(name, value, "a list of strings")
        return list(value)

    def argv(self, name: str) -> list[str]:
        """A command: a list of strings that is not empty."""
        value = self.texts(name)
        if not value or not value[0]:
            raise InvalidSpec(f'{self._where} needs {name}: a list such as ["ls", "-l"]')
        return value

    def text(self, name: str, default: str = "") -> str:
        """A string; absent is `default`."""
        value = self._body.get(name)
        if value is None:
            return default
        if not isinstance(value, str):
            raise self._refusal(name, value, "a string")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """A boolean; absent is `default`."""
        value = self._body.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._refusal(name, value, "true or false")
        return value

    def integer(self, name: str, default: int, *, minimum: int, maximum: int) -> int:
        """A whole number within bounds; absent is `default`."""
        value = self._body.get(name)
        if value is None:
            return default
        if isinstance(value, bool) or not isinstance(value, int) or not minimum <= value <= maximum:
            raise self._refusal(name, value, f"a whole number from {minimum} to {maximum}")
        return value

    def seconds(self, name: str) -> float | None:
        """A time span in seconds, more than 0; absent is None."""
        value = self._body.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise self._refusal(name, value, "a number of seconds greater than 0")
        return float(value)

    def size(self, name: str) -> tuple[int, int]:
        """A terminal's [rows, columns]; absent is (0, 0)."""
        value = self._body.get(name)
        if value is None or value == []:
            return 0, 0
        if isinstance(value, list) and len(value) == 2 and all(_is_size(item) for item in value):
            return value[0], value[1]
        raise self._refusal(name, value, "[rows, columns]")

    def environment(self, name: str) -> dict[str, str]:
        """Environment variables, given as {"K": "V"} or ["K=V"]; absent is empty."""
        value = self._body.get(name)
        if value is None:
            return {}
        if isinstance(value, dict) and all(isinstance(item, str | int | float) for item in value.values()):
            pairs = {key: _plain(item) for key, item in value.items()}
        elif isinstance(value, list) and all(isinstance(item, str) and "=" in item for item in value):
            pairs = dict(item.split("=", 1) for item in value)
        else:
            raise self._refusal(name, value, 'variables as {"K": "V"} or ["K=V"]')
        for key in pairs:
            if not key or "=" in key or "\0" in key + pairs[key]:
                raise self._refusal(name, key, "names of variables without '=' and without NUL bytes")
        return pairs

    def _refusal(self, name: str, value: object, expected: str) -> InvalidSpec:
        shown = json.dumps(value)
        shown = shown if len(shown) <= 80 else shown[:79] + "…"
        return InvalidSpec(f"{self._where}: {name} is {shown}, expected {expected}")


def assignments(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Environment variables as `NAME=value` each, execve(2)'s form."""
    return tuple(f"{name}={value}" for name, value in variables.items())


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535


def _plain(value: str | float) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
