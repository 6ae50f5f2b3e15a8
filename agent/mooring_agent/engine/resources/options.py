# SPDX-License-Identifier: Apache-2.0
"""The types that an option of a declared resource can have.

A type turns what a user wrote into one normal value (`parse`), that value into JSON (`dump`) and into the
short text of a plan (`show`). Equivalent spellings (`"64m"`, `67108864`) parse to the same value, and
`parse(dump(v)) == v`, so that comparing two specs is comparing values. A value that means "no limit" or "not
set" parses to None.
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar, Generic, TypeVar

from mooring_agent.errors import InvalidSpec

T = TypeVar("T")

KIB, MIB, GIB, TIB, PIB = (1024**power for power in range(1, 6))
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB, "p": PIB}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgtp]?)(?:i?b)?", re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}")
_LONGEST_SHOWN = 80


def quoted(value: object) -> str:
    """Return a user's value as a message shows it: JSON, shortened."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def refusal(where: str, value: object, expected: str) -> InvalidSpec:
    """Return the error for a value that is not what `where` (such as "container web1: memory") takes."""
    return InvalidSpec(f"{where} is {quoted(value)}, expected {expected}")


class Type(ABC, Generic[T]):
    """What an option takes, and its normal form."""

    @abstractmethod
    def parse(self, value: object, where: str) -> T | None:
        """Return the normal value, or None if `value` means that nothing is set.

        `where` names the option in the InvalidSpec that is raised for anything else.
        """

    def dump(self, value: T) -> Any:
        """Return the normal value as JSON data, which `parse` turns back into the same value."""
        return value

    def show(self, value: T) -> str:
        """Return the value as a plan shows it."""
        return _plain(self.dump(value))

    def takes_live(self, before: T | None, after: T | None) -> bool:
        """Return whether something that runs takes this change of an option that is declared live."""
        return True

    def difference(self, before: T | None, after: T | None) -> str:
        """Return what a plan says about a change; None is an option that is not set."""
        shown = ["unset" if value is None else self.show(value) for value in (before, after)]
        return " → ".join(shown)


def _plain(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return quoted(value)


class Text(Type[str]):
    """A string; an integer is taken as its digits, as YAML makes one of an unquoted `1000`."""

    def __init__(self, expected: str = "a string", check: Callable[[str, str], str] | None = None) -> None:
        """`check(text, where)` returns the normal form or raises InvalidSpec."""
        self.expected = expected
        self.check = check

    def parse(self, value: object, where: str) -> str | None:
        """See `Type.parse`."""
        text = text_of(value, where, self.expected)
        return self.check(text, where) if self.check else text


def text_of(value: object, where: str, expected: str = "a string") -> str:
    """Return a string or an integer as text; refuse what YAML may have changed (booleans, decimals)."""
    if isinstance(value, bool | float):
        raise refusal(where, value, f"{expected}: put it in quotes")
    if isinstance(value, int):
        return str(value)
    if not isinstance(value, str):
        raise refusal(where, value, expected)
    if "\0" in value:
        raise InvalidSpec(
            f"{where} contains a NUL byte, which no name, argument or variable can have; remove it"
        )
    return value


class Choice(Text):
    """One of a few words."""

    def __init__(self, *words: str) -> None:
        super().__init__("one of " + ", ".join(words))
        self.words = words

    def parse(self, value: object, where: str) -> str | None:
        """See `Type.parse`."""
        if value not in self.words:
            raise refusal(where, value, self.expected)
        return str(value)


class Bool(Type[bool]):
    """True or false; the words too, since a template makes strings of them."""

    _WORDS: ClassVar = {"true": True, "yes": True, "false": False, "no": False}

    def parse(self, value: object, where: str) -> bool | None:
        """See `Type.parse`."""
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in self._WORDS:
            return self._WORDS[value.lower()]
        raise refusal(where, value, "true or false")


class Integer(Type[int]):
    """A whole number from `minimum` to `maximum`; each of `unset` means that nothing is set."""

    def __init__(
        self,
        minimum: int,
        maximum: int = 2**63 - 1,
        *,
        unset: tuple[int, ...] = (),
        what: str = "a whole number",
    ) -> None:
        self.minimum, self.maximum, self.unset = minimum, maximum, unset
        bounds = f"of at least {minimum}" if maximum >= 2**62 else f"from {minimum} to {maximum}"
        self.expected = f"{what} {bounds}" + _or_unset(unset)

    def parse(self, value: object, where: str) -> int | None:
        """See `Type.parse`."""
        if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
            number = int(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            number = value
        else:
            raise refusal(where, value, self.expected)
        if number in self.unset:
            return None
        if not self.minimum <= number <= self.maximum:
            raise refusal(where, value, self.expected)
        return number


class Number(Type[float]):
    """A decimal number of at least `minimum`; 0 means that nothing is set."""

    def __init__(self, minimum: float, what: str) -> None:
        self.minimum = minimum
        self.expected = f"{what} of at least {minimum:g}, or 0 for no limit"

    def parse(self, value: object, where: str) -> float | None:
        """See `Type.parse`."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise refusal(where, value, self.expected)
        try:
            number = float(value)
        except (ValueError, OverflowError):
            raise refusal(where, value, self.expected) from None
        if number == 0:
            return None
        if not math.isfinite(number) or number < self.minimum:
            raise refusal(where, value, self.expected)
        return number

    def show(self, value: float) -> str:
        """See `Type.show`."""
        return f"{value:g}"


class Size(Type[int]):
    """A number of bytes: an integer, or text such as "64m", "1.5g", "512MiB" (powers of 1024).

    0 means that nothing is set. -1 is kept where `unlimited` is true.
    """

    def __init__(self, minimum: int = 1, *, unlimited: bool = False) -> None:
        self.minimum, self.unlimited = minimum, unlimited
        least = f" of at least {show_size(minimum)}" if minimum > 1 else ""
        self.expected = f'a size{least} in bytes or such as "64m"' + (
            ", -1 for no limit or 0 for not set" if unlimited else ", or 0 for no limit"
        )

    def parse(self, value: object, where: str) -> int | None:
        """See `Type.parse`."""
        size = self._bytes(value, where)
        if size == 0:
            return None
        if size == -1 and self.unlimited:
            return -1
        if not self.minimum <= size < 2**63:
            raise refusal(where, value, self.expected)
        return size

    def _bytes(self, value: object, where: str) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str):
            text = value.strip()
            if _INTEGER.fullmatch(text):
                return int(text)
            if match := _SIZE.fullmatch(text):
                return int(Decimal(match[1]) * _UNITS[match[2].lower()])
        raise refusal(where, value, self.expected)

    def show(self, value: int) -> str:
        """See `Type.show`."""
        return show_size(value)


def show_size(size: int) -> str:
    """Return a number of bytes with the largest unit that divides it: 67108864 is "64m"."""
    for unit, factor in reversed(_UNITS.items()):
        if size > 0 and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


class Items(Type[tuple[T, ...]]):
    """A list of values of one type.

    `unique(value)` is the key by which two items clash, `order(value)` the one by which the normal form is
    sorted where the order has no meaning; `spread(value)` makes several given items of one (a range of
    ports).
    """

    def __init__(
        self,
        item: Type[T],
        *,
        unique: Callable[[T], object] | None = None,
        order: Callable[[T], Any] | None = None,
        spread: Callable[[object, str], Sequence[object]] | None = None,
    ) -> None:
        self.item, self.unique, self.order, self.spread = item, unique, order, spread

    def parse(self, value: object, where: str) -> tuple[T, ...] | None:
        """See `Type.parse`."""
        if not isinstance(value, list | tuple):
            raise refusal(where, value, "a list")
        values: list[T] = []
        for number, given in enumerate(value):
            here = f"{where}[{number}]"
            for one in self.spread(given, here) if self.spread else (given,):
                parsed = self.item.parse(one, here)
                if parsed is None:
                    raise refusal(here, given, "a value")
                values.append(parsed)
        self._refuse_duplicates(values, where)
        return tuple(sorted(values, key=self.order) if self.order else values)

    def _refuse_duplicates(self, values: list[T], where: str) -> None:
        if self.unique is None:
            return
        seen: dict[object, T] = {}
        for value in values:
            key = self.unique(value)
            if key in seen:
                raise InvalidSpec(
                    f"{where} names {key} twice, expected each once; remove one of "
                    f"{self.item.show(seen[key])} and {self.item.show(value)}"
                )
            seen[key] = value

    def dump(self, value: tuple[T, ...]) -> list[Any]:
        """See `Type.dump`."""
        return [self.item.dump(item) for item in value]

    def show(self, value: tuple[T, ...]) -> str:
        """See `Type.show`."""
        return "[" + ", ".join(self.item.show(item) for item in value) + "]"


class WordSet(Items[str]):
    """A list of words in which neither order nor repetition has a meaning."""

    def parse(self, value: object, where: str) -> tuple[str, ...] | None:
        """See `Type.parse`."""
        return tuple(sorted(set(super().parse(value, where) or ())))


class Pairs(Type[Mapping[str, str]]):
    """A mapping of strings, given as one or as a list of "KEY=VALUE"; the normal form is sorted by key."""

    def __init__(self, what: str) -> None:
        self.expected = f'a mapping of {what} to strings, or a list of "NAME=VALUE"'

    def parse(self, value: object, where: str) -> Mapping[str, str] | None:
        """See `Type.parse`."""
        if isinstance(value, Mapping):
            pairs = list(value.items())
        elif isinstance(value, list | tuple):
            pairs = [self._split(item, where) for item in value]
        else:
            raise refusal(where, value, self.expected)
        result: dict[str, str] = {}
        for key, text in pairs:
            if not isinstance(key, str) or not key or "=" in key or "\0" in key:
                raise refusal(f"a name in {where}", key, 'a string that is not empty and has no "="')
            if key in result:
                raise InvalidSpec(f"{where} names {key} twice, expected each once; remove one of them")
            result[key] = text_of(text, f"{where}.{key}")
        return dict(sorted(result.items()))

    def _split(self, item: object, where: str) -> tuple[str, str]:
        if not isinstance(item, str) or "=" not in item:
            raise refusal(f"an item of {where}", item, '"NAME=VALUE"')
        key, _, value = item.partition("=")
        return key, value

    def dump(self, value: Mapping[str, str]) -> dict[str, str]:
        """See `Type.dump`."""
        return dict(value)

    def difference(self, before: Mapping[str, str] | None, after: Mapping[str, str] | None) -> str:
        """Name the keys only: plans are logged, and values may be secret."""
        return changed_keys(before or {}, after or {})


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The keys that came, went and mean something else, in words: "A B added, C removed"."""
    words = {
        "added": [key for key in new if key not in old],
        "removed": [key for key in old if key not in new],
        "changed": [key for key in new if key in old and old[key] != new[key]],
    }
    return ", ".join(f"{' '.join(keys)} {word}" for word, keys in words.items() if keys)


def _or_unset(unset: tuple[int, ...]) -> str:
    return f", or {' or '.join(map(str, unset))} for no limit" if unset else ""
