# SPDX-License-Identifier: Apache-2.0
"""How a body of Docker's API becomes a spec: one rule a key, and no key without a rule.

A value that asks for nothing (null, "", 0, false, [] or {}) is accepted for every key, for clients send all
of them; whatever asks for something is taken over, kept for `docker inspect`, or refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ...errors import InvalidSpec, NotSupported

_LONGEST_SHOWN = 100


@dataclass
class Draft:
    """What the rules fill in: our spec, and what only Docker's clients ask for again."""

    spec: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    volumes: list[dict[str, Any]] = field(default_factory=list)
    networks: list[dict[str, Any]] = field(default_factory=list)
    links: list[tuple[str, str]] = field(default_factory=list)
    mac: str = ""
    ports: list[dict[str, Any]] = field(default_factory=list)
    volume_specs: dict[str, dict[str, Any]] = field(default_factory=dict)
    volume_driver: str = ""
    auto_remove: bool = False
    no_network: bool = False


Rule = Callable[[Draft, Any, str], None]
Rules = Mapping[str, Rule]


def apply(rules: Rules, body: Mapping[str, Any], draft: Draft, prefix: str = "") -> None:
    """Put every key of a body through its rule. Raises InvalidSpec or NotSupported, naming the key."""
    for key, value in canonical(body, rules).items():
        where = prefix + key
        rule = rules.get(key)
        if rule is not None:
            rule(draft, value, where)
        elif asks(value):
            raise NotSupported(f"option {where}={shown(value)} is not known to this agent; leave it out")


def canonical(body: Mapping[str, Any], known: Iterable[str]) -> dict[str, Any]:
    """The body with its keys as they are documented: dockerd, being Go, takes them in any case."""
    spelling = {key.lower(): key for key in known}
    return {spelling.get(key.lower(), key): value for key, value in body.items()}


def asks(value: object) -> bool:
    """Whether a value asks for anything at all."""
    return not (value is None or value is False or value == 0 or value in ("", [], {}))


def shown(value: object) -> str:
    """A value as a message shows it."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…"


def refused(where: str, value: object, expected: str) -> InvalidSpec:
    """The error for a value of the wrong kind."""
    return InvalidSpec(f"option {where} is {shown(value)}, expected {expected}")


def unsupported(where: str, value: object, hint: str = "leave it out") -> NotSupported:
    """The error for something that this agent does not do."""
    return NotSupported(f"option {where}={shown(value)} is not supported by this agent; {hint}")


# -- readers: the type of a value, None for nothing asked

Reader = Callable[[Any, str], Any]


def text(value: Any, where: str) -> str | None:
    """A string."""
    if value is None or isinstance(value, str):
        return value or None
    raise refused(where, value, "a string")


def boolean(value: Any, where: str) -> bool | None:
    """true or false."""
    if value is None or isinstance(value, bool):
        return value or None
    raise refused(where, value, "true or false")


def integer(value: Any, where: str) -> int | None:
    """A whole number."""
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value or None
    raise refused(where, value, "a whole number")


def texts(value: Any, where: str) -> list[str] | None:
    """A list of strings."""
    if value is None or (isinstance(value, list) and all(isinstance(item, str) for item in value)):
        return value or None
    raise refused(where, value, "a list of strings")


def mapping(value: Any, where: str) -> dict[str, Any] | None:
    """An object."""
    if value is None or isinstance(value, dict):
        return value or None
    raise refused(where, value, "an object")


def objects(value: Any, where: str) -> list[dict[str, Any]] | None:
    """A list of objects."""
    if value is None or (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
        return value or None
    raise refused(where, value, "a list of objects")


def pairs(value: Any, where: str) -> dict[str, str] | None:
    """An object of strings."""
    found = mapping(value, where)
    if found is None or all(isinstance(item, str) for item in found.values()):
        return found
    raise refused(where, value, "an object whose values are strings")


# -- kinds of rules


def takes(option: str, reader: Reader) -> Rule:
    """The value becomes an option of our spec."""

    def rule(draft: Draft, value: Any, where: str) -> None:
        found = reader(value, where)
        if found is not None:
            draft.spec[option] = found

    return rule


def kept(reader: Reader) -> Rule:
    """The value changes nothing that the kernel does, and is shown again as it was given."""

    def rule(draft: Draft, value: Any, where: str) -> None:
        found = reader(value, where)
        if found is not None:
            draft.extra[where.rpartition(".")[2]] = found

    return rule


def both(*rules: Rule) -> Rule:
    """Several rules for one value."""

    def rule(draft: Draft, value: Any, where: str) -> None:
        for each in rules:
            each(draft, value, where)

    return rule


def only(*accepted: object, hint: str = "leave it out", zero: bool = True) -> Rule:
    """Nothing but these values, which say what holds anyway. With `zero` false 0 and [] ask for something."""

    def rule(draft: Draft, value: Any, where: str) -> None:
        nothing = not asks(value) if zero else value is None
        if not nothing and not any(value == each and type(value) is type(each) for each in accepted):
            raise unsupported(where, value, hint)

    return rule


NEVER = only()
