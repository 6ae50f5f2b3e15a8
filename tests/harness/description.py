# SPDX-License-Identifier: Apache-2.0
"""The published descriptions of the Docker Engine API (Swagger 2.0), and whether an answer is as they say.

`script/setup.sh` gets them from Debian's package of Docker's documentation; they are no part of this project.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from jsonschema import Draft4Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from harness.unix_http import Response

DIRECTORY = Path(sys.prefix, "share", "docker-api")
VERSIONS = ("1.41", "1.42", "1.43", "1.44", "1.45", "1.46", "1.47")
_LATER = "1.51"

_VERSION = re.compile(r"/v(\d+\.\d+)(?=/)")
_JSON_TYPES = ("application/json", "application/x-ndjson")
_WHOLE_NUMBERS = {
    "int8": (-(1 << 7), (1 << 7) - 1),
    "int32": (-(1 << 31), (1 << 31) - 1),
    "int64": (-(1 << 63), (1 << 63) - 1),
    "uint16": (0, (1 << 16) - 1),
    "uint32": (0, (1 << 32) - 1),
    "uint64": (0, (1 << 64) - 1),
}


@dataclass(frozen=True)
class Mistake:
    """What a description says and dockerd does not do: the schema at `where` (a JSON pointer in it) gets
    `members` in place of those that it has; None takes one away.
    """

    where: str
    members: dict[str, Any]
    reason: str


# Where a description is wrong itself.
MISTAKES = (
    Mistake(
        "definitions/Resources/properties/MemorySwappiness",
        {"x-nullable": True},
        "null is what was not asked for; 0 asks for it",
    ),
    Mistake(
        "paths/~1system~1df/get/responses/200/schema/properties",
        {"BuilderSize": {"type": "integer", "format": "int64"}},
        "told until 1.41 for clients of old, and never described",
    ),
)


@dataclass(frozen=True)
class Operation:
    """One call that is described; `path` is its template."""

    method: str
    path: str
    responses: dict[str, Any]


class Description:
    """The description of one version, without the mistakes.

    `later` are the definitions of a later one: dockerd shows members that a version does not know yet.
    """

    def __init__(self, document: dict[str, Any], later: dict[str, Any]) -> None:
        self.version: str = document["info"]["version"]
        for each in MISTAKES:
            _correct(document, each)
        self._definitions = {
            name: _extended(_closed(schema, document["definitions"]), _closed(later.get(name, {}), later))
            for name, schema in document["definitions"].items()
        }
        self._operations = [
            (_pattern(path), Operation(method.upper(), path, operation["responses"]))
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
        ]
        self.document = document

    @property
    def operations(self) -> list[Operation]:
        """All calls."""
        return [operation for _, operation in self._operations]

    def operation(self, method: str, target: str) -> Operation | None:
        """The call that a request makes, if it is described; of several, the one with most fixed segments."""
        path = _VERSION.sub("", urlsplit(target).path, count=1)
        found = [each for pattern, each in self._operations if each.method == method and pattern.match(path)]
        return min(found, key=lambda each: each.path.count("{"), default=None)

    def problems(self, method: str, target: str, response: Response) -> list[str]:
        """What is wrong with an answer, in words; nothing where the call is not described."""
        operation = self.operation(method, target)
        if operation is None:
            return []
        where = f"{method} {operation.path} {response.status}"
        described = operation.responses.get(str(response.status))
        if described is None:
            if response.status < 400:
                return [f"{where}: expected one of {', '.join(operation.responses)}"]
            # Which errors there are is described for some calls only; how one looks is the same for all.
            described = {"schema": {"$ref": "#/definitions/ErrorResponse"}}
        if "schema" not in described or method == "HEAD":
            return []
        kind = response.headers.get("content-type", "").partition(";")[0]
        if kind not in _JSON_TYPES:
            expected = described["schema"].get("type")
            return [] if expected == "string" else [f"{where}: the content type is {kind!r}, expected JSON"]
        schema = _closed(described["schema"], self.document["definitions"]) | {
            "definitions": self._definitions
        }
        validator = Draft4Validator(schema, format_checker=_formats())
        found = []
        for value in _values(response.body):
            if value is None and not described["schema"].get("x-nullable"):
                found.append(f"{where}: the body is null")
            found += [f"{where}: {_told(error)}" for error in validator.iter_errors(value)]
        return found


@cache
def need_description(version: str) -> Description:
    """The description of a version. The test is skipped where it is not on this machine: it takes root to get
    it, and Debian's mirror, of which the latest ones may not be had.
    """
    document = _read(version)
    if document is None:
        pytest.skip(f"needs version {version} of the API's description: script/test fetches it as root")
    later = _read(_LATER) or document
    return Description(document, later["definitions"])


def _read(version: str) -> dict[str, Any] | None:
    path = DIRECTORY / f"v{version}.yaml.gz"
    if not path.exists():
        return None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    # Through JSON, since YAML takes statuses for numbers, examples for dates, and has aliases.
    document = json.dumps(yaml.load(gzip.decompress(path.read_bytes()), Loader=loader), default=str)
    return json.loads(document)  # type: ignore[no-any-return]


def _values(body: bytes) -> Iterator[Any]:
    """The JSON values of a body: one, or one after the other."""
    text, decoder, position = body.decode(), json.JSONDecoder(), 0
    while position < len(text):
        value, position = decoder.raw_decode(text, position)
        yield value
        while position < len(text) and text[position].isspace():
            position += 1


def _pattern(path: str) -> re.Pattern[str]:
    """Template to expression; the name of an image may have slashes."""
    expression = re.escape(path).replace(r"\{name\}", ".+")
    return re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", expression) + "$")


def _correct(document: dict[str, Any], mistake: Mistake) -> None:
    """Correct it where that schema is in this version."""
    schema: Any = document
    try:
        for key in mistake.where.split("/"):
            key = key.replace("~1", "/")
            schema = schema[int(key) if isinstance(schema, list) else key]
    except (KeyError, IndexError):
        return
    for name, value in mistake.members.items():
        if value is None:
            schema.pop(name, None)
        else:
            schema[name] = value


def _closed(schema: Any, definitions: dict[str, Any]) -> Any:
    """Swagger's schema as JSON schema: nulls where they may be, and no members that are not described."""
    if isinstance(schema, list):
        return [_closed(each, definitions) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "allOf" in schema:
        merged: dict[str, Any] = {"type": "object"}
        for part in [*schema["allOf"], {k: v for k, v in schema.items() if k not in ("allOf", "x-nullable")}]:
            _merge(merged, _without_references(part, definitions))
        if "x-nullable" in schema:
            merged["x-nullable"] = schema["x-nullable"]
        return _closed(merged, definitions)
    made = {
        key: {name: _closed(each, definitions) for name, each in value.items()}
        if key in ("properties", "patternProperties")
        else _closed(value, definitions)
        for key, value in schema.items()
        if key not in ("example", "examples", "description", "x-nullable", "default", "title")
    }
    if made.get("properties") and "additionalProperties" not in made:
        made["additionalProperties"] = False
    # Go writes a list or map that has nothing in it as null, and the descriptions seldom say so.
    empty = made.get("type") == "array" or (made.get("type") == "object" and made.get("additionalProperties"))
    if schema.get("x-nullable") or empty:
        return {"anyOf": [{"type": "null"}, made]}
    return made


def _extended(schema: dict[str, Any], later: dict[str, Any]) -> dict[str, Any]:
    """A definition that lets members pass which a later version knows."""
    if schema.get("additionalProperties") is False:
        schema["properties"] = {key: {} for key in later.get("properties", {})} | schema["properties"]
    return schema


def _without_references(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        schema = definitions[schema["$ref"].rpartition("/")[2]]
    if "allOf" in schema:
        merged: dict[str, Any] = {}
        for part in schema["allOf"]:
            _merge(merged, _without_references(part, definitions))
        return merged
    return schema


def _merge(into: dict[str, Any], part: dict[str, Any]) -> None:
    into["properties"] = {**into.get("properties", {}), **part.get("properties", {})}
    into["required"] = [*into.get("required", []), *part.get("required", [])]
    if not into["required"]:
        del into["required"]
    for key, value in part.items():
        if key not in ("properties", "required"):
            into[key] = value


@cache
def _formats() -> FormatChecker:
    checker = FormatChecker(formats=())
    for name, (low, high) in _WHOLE_NUMBERS.items():
        checker.checks(name)(
            lambda value, low=low, high=high: not isinstance(value, int) or low <= value <= high
        )
    for name in ("dateTime", "date-time"):
        checker.checks(name, raises=ValueError)(_is_time)
    return checker


def _is_time(value: object) -> bool:
    """RFC 3339; dockerd leaves a time empty that has not come."""
    if not isinstance(value, str) or value == "":
        return True
    # Nanoseconds are more than datetime knows.
    return datetime.fromisoformat(re.sub(r"(\.\d{1,6})\d*", r"\1", value)).tzinfo is not None


def _told(error: ValidationError) -> str:
    while error.context:  # of several schemas, the one that is not "null"
        error = error.context[-1]
    where = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in error.absolute_path)
    return f"{where or 'the body'}: {error.message[:300]}"
