# SPDX-License-Identifier: Apache-2.0
"""What all declared resources share: one table of options; parsing and comparison follow.

A resource is a frozen dataclass whose fields are made by `option(TYPE, live=…)`. That line says the option's
name, type, default, and whether the kernel or the agent takes a change of it without a replacement;
everything else is derived from it.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, Self, TypeVar

from mooring_agent.engine.resources.options import Type, refusal
from mooring_agent.errors import InvalidSpec

_KEY = "mooring.option"
D = TypeVar("D", bound="Declared")
_TABLES: dict[type[Declared], Mapping[str, Option]] = {}


@dataclass(frozen=True)
class Option:
    """One option of a resource."""

    type: Type[Any]
    default: Any
    live: bool
    required: bool


def option(type: Type[Any], *, default: Any = None, live: bool = False, required: bool = False) -> Any:
    """Declare a field of a resource; `live` options are changed without a replacement."""
    metadata = {_KEY: Option(type, default, live, required)}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def options_of(resource: type[Declared]) -> Mapping[str, Option]:
    """Return the options of a resource by name, in the order of their declaration."""
    if resource not in _TABLES:
        _TABLES[resource] = {
            item.name: item.metadata[_KEY] for item in fields(resource) if _KEY in item.metadata
        }
    return _TABLES[resource]


@dataclass(frozen=True)
class FieldChange:
    """One option that differs: its values as JSON data, and whether a running thing takes the change."""

    field: str
    before: Any
    after: Any
    live: bool
    text: str

    def __str__(self) -> str:
        """Return the reason as a plan shows it: "memory 64m → 128m, live"."""
        return f"{self.text}, {'live' if self.live else 'needs a replacement'}"


@dataclass(frozen=True, kw_only=True)
class Declared:
    """A resource that a user declares, made by `parse` only: it knows what was given."""

    KIND: ClassVar[str] = "resource"

    given_fields: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    @classmethod
    def parse(cls, data: object, *, name: str | None = None) -> Self:
        """Read what a user wrote, or the `given` of a stored resource.

        A key whose value is null counts as not given. Raises InvalidSpec, in whose sentence `name` tells
        which resource is meant.
        """
        where = f"{cls.KIND} {name}" if name else cls.KIND
        return cls._parse(data, where, f"{where}: ")

    @classmethod
    def parse_part(cls, data: object, where: str) -> Self:
        """Read a resource that is part of another one, at `where` (such as "container web1: log")."""
        return cls._parse(data, where, f"{where}.")

    @classmethod
    def _parse(cls, data: object, where: str, prefix: str) -> Self:
        if not isinstance(data, Mapping):
            raise refusal(where, data, "a mapping of options to values")
        known = options_of(cls)
        for key in data:
            if key not in known:
                raise InvalidSpec(
                    f"{where} has no option {json.dumps(key, default=str)}; {suggestion(str(key), known)}"
                )
        values: dict[str, Any] = {}
        for key, declared in known.items():
            value = data.get(key)
            parsed = None if value is None else declared.type.parse(value, prefix + key)
            if parsed is not None:
                values[key] = parsed
            elif declared.required:
                raise InvalidSpec(f"{where} needs the option {key}; add it")
        resource = cls(**values, given_fields=frozenset(values))
        resource.check(prefix)
        return resource

    def check(self, prefix: str) -> None:
        """Hold what no single option can say; raises InvalidSpec, its sentence begun with `prefix`."""

    @property
    def given(self) -> dict[str, Any]:
        """The normal form of what the user gave, without defaults, as JSON data."""
        return {
            name: _dump(declared, getattr(self, name))
            for name, declared in options_of(type(self)).items()
            if name in self.given_fields
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all options as JSON data, defaults filled in, null where there is none."""
        return {
            name: _dump(declared, getattr(self, name)) for name, declared in options_of(type(self)).items()
        }

    def differing(self) -> dict[str, Any]:
        """Return as JSON data the options whose value is not the default: the normal form of a part."""
        return {
            name: _dump(declared, getattr(self, name))
            for name, declared in options_of(type(self)).items()
            if getattr(self, name) != declared.default
        }

    @property
    def hash(self) -> str:
        """The SHA-256 of the canonical JSON of `given`, in hexadecimal."""
        canonical = json.dumps(self.given, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _dump(declared: Option, value: Any) -> Any:
    return None if value is None else declared.type.dump(value)


def compare(stored: D, wanted: D) -> tuple[FieldChange, ...]:
    """Return what differs, in the order of declaration.

    An option that neither side gave is never a change, even if its default has moved since. One that a single
    side gave is compared with the default of the other: saying what holds anyway changes nothing.
    """
    changes = []
    for name, declared in options_of(type(wanted)).items():
        before, after = getattr(stored, name), getattr(wanted, name)
        if name not in stored.given_fields | wanted.given_fields or before == after:
            continue
        text = f"{name} {declared.type.difference(before, after)}"
        live = declared.live and declared.type.takes_live(before, after)
        changes.append(FieldChange(name, _dump(declared, before), _dump(declared, after), live, text))
    return tuple(changes)


def merge(spec: D, changes: Mapping[str, Any]) -> D:
    """Return the spec with some options changed, validated as a whole; null takes one back to its default."""
    return type(spec).parse({**spec.given, **changes})


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence about an unknown word: the nearest known one, or all of them."""
    names = list(known)
    nearest = difflib.get_close_matches(word.lower(), names, n=1, cutoff=0.6)
    return f'did you mean "{nearest[0]}"?' if nearest else f"expected one of {', '.join(names)}"


class Part(Type[D], Generic[D]):
    """An option that is a small resource itself; `shorthand(text, where)` reads its short spelling."""

    def __init__(
        self, resource: type[D], shorthand: Callable[[str, str], Mapping[str, Any]] | None = None
    ) -> None:
        self.resource, self.shorthand = resource, shorthand

    def parse(self, value: object, where: str) -> D | None:
        """See `Type.parse`."""
        if self.shorthand and isinstance(value, str):
            value = self.shorthand(value, where)
        return self.resource.parse_part(value, where)

    def dump(self, value: D) -> Any:
        """See `Type.dump`: what equals a default is left out, so that equal parts have one form."""
        return value.differing()

    def show(self, value: D) -> str:
        """See `Type.show`: a part has a short spelling of its own."""
        return str(value)
