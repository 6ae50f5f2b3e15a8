# SPDX-License-Identifier: Apache-2.0
"""Good requests of which one member is bad: where members are, by a description, and what is put there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

# A list's element and a map's value on the way to a member.
ELEMENT, VALUE = "[]", "{}"

VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    1,
    -1,
    1 << 31,
    1 << 63,
    -(1 << 64),
    10**400,
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    " ",
    "\0",
    "\n",
    "\ud800",  # half of a pair: JSON can say it, UTF-8 cannot
    "\U0010ffff",
    "x" * 5000,
    "a:b:c:d:e",
    "/",
    "../..",
    "=",
    "-1",
    "1e400",
    "٣",  # a digit that is none in ASCII
    "999999999999999999999999",
    [],
    [None],
    [[]],
    ["\0"],
    [""],
    [{}],
    {},
    {"": ""},
    {"\0": None},
    {"\ud800": {}},
    {"x": []},
)
# As they stand in a query.
TEXTS: tuple[str, ...] = (
    "",
    "%00",
    "%ff",
    "%0a",
    "%",
    "%ED%A0%80",
    "-1",
    "0",
    "1.5",
    "1e400",
    "nan",
    "inf",
    "99999999999999999999999999",
    "9" * 5000,
    "1_0",
    "%D9%A3",
    "true",
    "..%2f..",
    "x" * 5000,
    "[]",
    "{}",
    "null",
    "%7b%22label%22:%5b%22%5c%00%22%5d%7d",
    "%7b%22name%22:%7b%22(%22:true%7d%7d",
    "%7b%22until%22:%5b%2299999999999999999999%22%5d%7d",
    "%7b%22since%22:%5b%22%5cud800%22%5d%7d",
    "%5b" * 3000,
)


def sites(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield the way to each member that a schema describes, ELEMENT and VALUE included."""
    if "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    yield ()
    for part in schema.get("allOf", ()):
        yield from (way for way in sites(part, definitions) if way)
    for name, member in schema.get("properties", {}).items():
        yield from ((name, *way) for way in sites(member, definitions))
    for key, step in (("items", ELEMENT), ("additionalProperties", VALUE)):
        if isinstance(schema.get(key), dict):
            yield from ((step, *way) for way in sites(schema[key], definitions))


def placed(way: tuple[str, ...], value: Any, body: Any) -> Any:
    """Return a good body with a bad member in it; a map's value goes by a name that ports have."""
    if not way:
        return value
    step, *rest = way
    if step == ELEMENT:
        return [placed(tuple(rest), value, {})]
    if step == VALUE:
        return {"80/tcp": placed(tuple(rest), value, {})}
    inside = body.get(step, {}) if isinstance(body, dict) else {}
    return {**(body if isinstance(body, dict) else {}), step: placed(tuple(rest), value, inside)}
