# SPDX-License-Identifier: Apache-2.0
"""JSON documents that are almost right: a valid one, changed in a few places as given bytes say.

The same bytes give the same document, so that hypothesis can shrink them and a coverage-guided fuzzer can
learn which of them lead somewhere.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

_DEEP: Any = []
for _ in range(200):
    _DEEP = [_DEEP]

# What nobody expects somewhere.
STRANGE: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        255,
        65536,
        2**31 - 1,
        2**31,
        2**32 - 1,
        2**32,
        2**63 - 1,
        2**63,
        2**64,
    ),
    *(-(2**63), 10**30, 0.5, -0.5, 1e308, 1e-320),
    *(
        "",
        " ",
        "x",
        "\0",
        "a\0b",
        "\n",
        "\ud800",
        "é",
        "٣",
        "/",
        "//",
        "..",
        "../../..",
        "/..",
        "/proc/self/root",
    ),
    *(
        "0",
        "-1",
        "1e3",
        "0x10",
        "007",
        "1_0",
        "99999999999999999999999",
        "9" * 5000,
        "a" * 70000,
        "%s%n{0}",
        "=",
        ":",
    ),
    *(
        "a=b",
        "=b",
        "a:b:c:d",
        "CAP_ALL",
        "ALL",
        "SCMP_ACT_ALLOW",
        "rbind",
        "ro",
        "host",
        "none",
        "bind",
        "tmpfs",
    ),
    *([], {}, [None], [[]], [{}], {"": None}, {"x": {}}, ["x", 1, None], [""], ["a" * 300], _DEEP),
)


_CHANGES = 12  # at most; with more of them nothing is left of what was valid


def mutated(valid: Any, choices: bytes) -> Any:
    """Return a copy of `valid` with one change for each three bytes of `choices`."""
    document = copy.deepcopy(valid)
    for index in range(0, min(len(choices), 3 * _CHANGES) - 2, 3):
        where, what, how = choices[index : index + 3]
        places = list(_places(document))
        if not places:
            return document
        parent, key = places[(where * 257 + how) % len(places)]
        document = _change(document, parent, key, what, how)
    return document


def _places(value: Any, parent: Any = None, key: Any = None, depth: int = 0) -> Iterator[tuple[Any, Any]]:
    if parent is not None:
        yield parent, key
    if depth > 12:
        return
    if isinstance(value, dict):
        for name in value:
            yield from _places(value[name], value, name, depth + 1)
    elif isinstance(value, list):
        for number in range(len(value)):
            yield from _places(value[number], value, number, depth + 1)


def _change(document: Any, parent: Any, key: Any, what: int, how: int) -> Any:
    strange = copy.deepcopy(STRANGE[what % len(STRANGE)])
    if how % 8 == 0:
        if isinstance(parent, dict):
            del parent[key]
        elif parent:
            parent.pop(key)
    elif how % 8 == 1 and isinstance(parent, dict):
        parent[strange if isinstance(strange, str) else f"new{what}"] = copy.deepcopy(parent[key])
    elif how % 8 == 1:
        parent.insert(key, copy.deepcopy(parent[key]))
    elif how % 8 == 2 and isinstance(parent[key], list):
        parent[key].append(strange)
    elif how % 8 == 3 and isinstance(parent[key], dict):
        parent[key][f"unknown{what}"] = strange
    elif how % 8 == 4 and isinstance(parent[key], str):
        parent[key] = _string(parent[key], what)
    elif how % 8 == 5 and isinstance(parent[key], int):
        parent[key] = parent[key] + what - 128
    else:
        parent[key] = strange
    return document


def _string(text: str, what: int) -> str:
    text = text[:1000]  # it may be doubled many times
    cut = what % (len(text) + 1)
    return (
        text[:cut],
        text[cut:],
        text * 2,
        text[:cut] + "\0",
        text.upper(),
        f" {text}",
        text[:cut] + "/../",
    )[what % 7]


def as_bytes(document: Any) -> bytes:
    """Return the document as JSON, also with what JSON should not have."""
    return json.dumps(document).encode("utf-8", "surrogatepass")
