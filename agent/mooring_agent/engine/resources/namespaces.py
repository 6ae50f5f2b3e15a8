# SPDX-License-Identifier: Apache-2.0
"""Whose namespaces a container has: its own, the host's, or those of another container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from mooring_agent.engine.resources import names
from mooring_agent.engine.resources.declared import suggestion
from mooring_agent.engine.resources.options import Choice, Integer, Type, quoted, refusal
from mooring_agent.errors import InvalidSpec

CONTAINER = "container:"
# The kernel's bound on the lines of uid_map, user_namespaces(7).
_MOST_RANGES = 340
_LARGEST_ID = 2**32 - 2  # (uid_t) -1 is none
_ID = Integer(0, _LARGEST_ID, what="an id")
_SIZE = Integer(1, _LARGEST_ID + 1, what="a number of ids")


class NamespaceMode(Choice):
    """One of some words, or "container:NAME" for those of another container, by its name or id."""

    def __init__(self, *words: str) -> None:
        super().__init__(*words)
        self.expected += " or container:NAME"

    def parse(self, value: object, where: str) -> str | None:
        """See `Type.parse`."""
        if isinstance(value, str) and value.startswith(CONTAINER):
            return joined(value, where)
        return super().parse(value, where)


def joined(text: str, where: str) -> str:
    """Check "container:NAME"."""
    return CONTAINER + names.resource_name("container", text.removeprefix(CONTAINER), where)


def other_container(mode: str) -> str | None:
    """The name or id of the container that a mode joins; None for other modes."""
    return mode.removeprefix(CONTAINER) if mode.startswith(CONTAINER) else None


@dataclass(frozen=True, order=True)
class IdRange:
    """`size` ids that begin with `container` inside and with `host` outside."""

    container: int
    host: int
    size: int

    def __str__(self) -> str:
        """Return "0→100000+65536"."""
        return f"{self.container}→{self.host}+{self.size}"


@dataclass(frozen=True)
class UserNamespace:
    """How a container's users are mapped to the host's.

    `mode` is "host" (they are the host's), "auto" (a range of its own that the agent chooses and keeps),
    "mapped" (by the maps) or "container:NAME" (as those of that one).
    """

    mode: str = "host"
    uid_map: tuple[IdRange, ...] = ()
    gid_map: tuple[IdRange, ...] = ()

    def __str__(self) -> str:
        """Return the mode or the map of users."""
        return self.mode if self.mode != "mapped" else ",".join(map(str, self.uid_map))


class UserMapping(Type[UserNamespace]):
    """ "host", "auto", "container:NAME", "FIRST:SIZE" of the host's ids, or {uid_map, gid_map}."""

    _EXPECTED = (
        '"host", "auto", "container:NAME", "FIRST:SIZE", or {uid_map, gid_map} with ranges {container, host, '
        "size}"
    )

    def parse(self, value: object, where: str) -> UserNamespace | None:
        """See `Type.parse`. Without gid_map the groups are mapped as the users are."""
        if value in ("host", "auto"):
            return UserNamespace(str(value))
        if isinstance(value, str) and value.startswith(CONTAINER):
            return UserNamespace(joined(value, where))
        if isinstance(value, str):
            first, mark, size = value.partition(":")
            if not mark or not all(
                part.isascii() and part.isdigit() and len(part) <= 10 for part in (first, size)
            ):
                raise refusal(where, value, self._EXPECTED)
            value = {"uid_map": [{"container": 0, "host": int(first), "size": int(size)}]}
        if not isinstance(value, Mapping) or value.get("uid_map") is None:
            raise refusal(where, value, self._EXPECTED)
        for key in value:
            if key not in ("uid_map", "gid_map"):
                raise InvalidSpec(
                    f"{where} has no option {quoted(key)}; {suggestion(str(key), ('uid_map', 'gid_map'))}"
                )
        users = _ranges(value["uid_map"], f"{where}.uid_map")
        groups = value.get("gid_map")
        return UserNamespace(
            "mapped", users, users if groups is None else _ranges(groups, f"{where}.gid_map")
        )

    def dump(self, value: UserNamespace) -> Any:
        """See `Type.dump`."""
        if value.mode != "mapped":
            return value.mode
        return {
            "uid_map": [vars(one) for one in value.uid_map],
            "gid_map": [vars(one) for one in value.gid_map],
        }

    def show(self, value: UserNamespace) -> str:
        """See `Type.show`."""
        return str(value)


def _ranges(value: object, where: str) -> tuple[IdRange, ...]:
    if not isinstance(value, list | tuple) or not 0 < len(value) <= _MOST_RANGES:
        raise refusal(where, value, f"a list of 1 to {_MOST_RANGES} ranges {{container, host, size}}")
    ranges = sorted(_range(one, f"{where}[{number}]") for number, one in enumerate(value))
    for side in ("container", "host"):
        ordered = sorted(ranges, key=lambda one: int(getattr(one, side)))
        for one, other in pairwise(ordered):
            if getattr(one, side) + one.size > getattr(other, side):
                raise InvalidSpec(
                    f"{where} has ranges that overlap on the side of the {side}, {one} and {other}; "
                    "expected each id once"
                )
    if ranges[0].container != 0:
        raise InvalidSpec(f"{where} leaves id 0 out, which is the container's root; map it")
    return tuple(ranges)


def _range(value: object, where: str) -> IdRange:
    if not isinstance(value, Mapping) or set(value) != {"container", "host", "size"}:
        raise refusal(where, value, "{container, host, size}")
    container, host = (_ID.parse(value[key], f"{where}.{key}") or 0 for key in ("container", "host"))
    size = _SIZE.parse(value["size"], f"{where}.size") or 0
    if max(container, host) + size > _LARGEST_ID + 1:
        raise refusal(f"{where}.size", size, f"ids up to {_LARGEST_ID}")
    return IdRange(container, host, size)


class ClockOffsets(Type[Mapping[str, int]]):
    """How many seconds a container's clocks go ahead of the host's, time_namespaces(7)."""

    _CLOCKS = ("boottime", "monotonic")
    _SECONDS = Integer(-(2**31), 2**31, what="a number of seconds")

    def parse(self, value: object, where: str) -> Mapping[str, int] | None:
        """See `Type.parse`."""
        if not isinstance(value, Mapping):
            raise refusal(where, value, "a mapping of monotonic and boottime to seconds")
        for clock in value:
            if clock not in self._CLOCKS:
                raise InvalidSpec(
                    f"{where} has no clock {quoted(clock)}; {suggestion(str(clock), self._CLOCKS)}"
                )
        offsets = {clock: self._SECONDS.parse(value[clock], f"{where}.{clock}") for clock in sorted(value)}
        return {clock: seconds for clock, seconds in offsets.items() if seconds is not None}

    def dump(self, value: Mapping[str, int]) -> dict[str, int]:
        """See `Type.dump`."""
        return dict(value)
