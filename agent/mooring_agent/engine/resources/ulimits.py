# SPDX-License-Identifier: Apache-2.0
"""Limits of a container's processes, setrlimit(2): a mapping of names to "SOFT[:HARD]"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mooring_agent.engine.resources.declared import suggestion
from mooring_agent.engine.resources.options import Integer, Type, quoted, refusal
from mooring_agent.errors import InvalidSpec

# Docker's names, those of setrlimit(2) in small letters.
NAMES = (
    "as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss",
    "rtprio", "rttime", "sigpending", "stack",
)  # fmt: skip
UNLIMITED = -1
_EXPECTED = 'a number, "SOFT:HARD" or {soft, hard}, -1 for no limit'
_NUMBER = Integer(UNLIMITED, what="a limit")


@dataclass(frozen=True)
class Ulimit:
    """The soft and the hard limit, -1 where there is none."""

    soft: int
    hard: int

    def __str__(self) -> str:
        """Return "1024:2048", or "1024" for both."""
        return str(self.soft) if self.soft == self.hard else f"{self.soft}:{self.hard}"


class Ulimits(Type[Mapping[str, Ulimit]]):
    """The limits by name, sorted; one number stands for both of a limit."""

    def parse(self, value: object, where: str) -> Mapping[str, Ulimit] | None:
        """See `Type.parse`."""
        if isinstance(value, list | tuple):
            pairs = [self._pair(item, where) for item in value]
        elif isinstance(value, Mapping):
            pairs = list(value.items())
        else:
            raise refusal(where, value, 'a mapping of names to limits, or a list of "NAME=SOFT:HARD"')
        limits: dict[str, Ulimit] = {}
        for name, given in pairs:
            word = str(name).lower().removeprefix("rlimit_")
            if word not in NAMES:
                raise InvalidSpec(f"{where} has no limit {quoted(name)}; {suggestion(word, NAMES)}")
            if word in limits:
                raise InvalidSpec(f"{where} names {word} twice, expected each once; remove one of them")
            limits[word] = _limit(given, f"{where}.{word}")
        return dict(sorted(limits.items()))

    def _pair(self, item: object, where: str) -> tuple[str, object]:
        if isinstance(item, Mapping) and isinstance(item.get("name"), str):
            return item["name"], {key: value for key, value in item.items() if key != "name"}
        name, mark, given = item.partition("=") if isinstance(item, str) else ("", "", "")
        if not mark:
            raise refusal(f"an item of {where}", item, '"NAME=SOFT:HARD"')
        return name, given

    def dump(self, value: Mapping[str, Ulimit]) -> dict[str, Any]:
        """See `Type.dump`."""
        return {name: str(limit) for name, limit in value.items()}

    def show(self, value: Mapping[str, Ulimit]) -> str:
        """See `Type.show`."""
        return "[" + ", ".join(f"{name}={limit}" for name, limit in value.items()) + "]"


def _limit(given: object, where: str) -> Ulimit:
    if isinstance(given, Mapping):
        if set(given) - {"soft", "hard"} or "soft" not in given:
            raise refusal(where, given, _EXPECTED)
        soft, hard = given["soft"], given.get("hard")
    elif isinstance(given, str):
        soft, _, hard = given.partition(":")
        hard = hard or None
    else:
        soft, hard = given, None
    first = _number(soft, where, given)
    last = first if hard is None else _number(hard, where, given)
    if last != UNLIMITED and (first == UNLIMITED or first > last):
        raise refusal(where, given, "a soft limit that is not above the hard one")
    return Ulimit(first, last)


def _number(value: object, where: str, given: object) -> int:
    word = value.strip().lower() if isinstance(value, str) else value
    number = UNLIMITED if word == "unlimited" else _NUMBER.parse(word, where)
    if number is None:
        raise refusal(where, given, _EXPECTED)
    return number
