# SPDX-License-Identifier: Apache-2.0
"""The tag of a container's log messages: a template in the part of Go's text/template that tags are made of.

`{{.NAME}}` is one of `FIELDS`, and `{{index .ContainerLabels "KEY"}}` a label; `-` within the braces takes
away the white space beside them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

from mooring_agent.engine.resources.declared import suggestion
from mooring_agent.engine.resources.options import refusal
from mooring_agent.errors import InvalidSpec

DEFAULT_TAG = "{{.ID}}"
_ACTION = re.compile(r"\{\{(-\s)?(.*?)(\s-)?\}\}", re.DOTALL)
_FIELD = re.compile(r"\.([A-Za-z]+)")
_LABEL = re.compile(r'\(?\s*index\s+\.ContainerLabels\s+("(?:[^"\\]|\\.)*")\s*\)?')


@dataclass(frozen=True, slots=True)
class Tagged:
    """What of a container a tag may tell. `name` has no slash, `image_id` its algorithm."""

    id: str
    name: str
    image: str
    image_id: str
    hostname: str
    command: str
    daemon: str
    labels: dict[str, str]


# The methods and fields of Docker's `logger.Info` that are text.
FIELDS: dict[str, Callable[[Tagged], str]] = {
    "ID": lambda of: of.id[:12],
    "FullID": lambda of: of.id,
    "Name": lambda of: of.name,
    "ImageID": lambda of: of.image_id[:12],
    "ImageFullID": lambda of: of.image_id,
    "ImageName": lambda of: of.image,
    "DaemonName": lambda of: of.daemon,
    "Hostname": lambda of: of.hostname,
    "Command": lambda of: of.command,
    "ContainerID": lambda of: of.id,
    "ContainerName": lambda of: f"/{of.name}",
    "ContainerImageID": lambda of: of.image_id,
    "ContainerImageName": lambda of: of.image,
}

Piece = Callable[[Tagged], str]


def parse_tag(text: str, where: str) -> tuple[Piece, ...]:
    """The pieces of a template, which say a tag one after the other. Raises InvalidSpec."""
    pieces: list[Piece] = []
    end = 0
    trimmed = False
    for action in _ACTION.finditer(text):
        _add_text(pieces, text[end : action.start()], trimmed, bool(action[1]), text, where)
        pieces.append(_action(action[2].strip(), text, where))
        end, trimmed = action.end(), bool(action[3])
    _add_text(pieces, text[end:], trimmed, False, text, where)
    return tuple(pieces)


def render_tag(pieces: tuple[Piece, ...], of: Tagged) -> str:
    """The tag of a container."""
    return "".join(piece(of) for piece in pieces)


def _add_text(pieces: list[Piece], text: str, left: bool, right: bool, whole: str, where: str) -> None:
    if "{{" in text:
        raise refusal(where, whole, "a template in which each {{ has its }}")
    text = text.lstrip() if left else text
    text = text.rstrip() if right else text
    if text:
        pieces.append(lambda _: text)


def _action(words: str, whole: str, where: str) -> Piece:
    if label := _LABEL.fullmatch(words):
        try:
            key = json.loads(label[1])
        except ValueError:
            raise refusal(where, whole, "labels whose names are in double quotes") from None
        return lambda of: of.labels.get(key, "")
    field = _FIELD.fullmatch(words)
    if field is None:
        raise refusal(
            where, whole, 'a template with fields such as {{.Name}}, and {{index .ContainerLabels "KEY"}}'
        )
    if field[1] not in FIELDS:
        raise InvalidSpec(
            f"{where} has the field {{{{.{field[1]}}}}}, which there is not; {suggestion(field[1], FIELDS)}"
        )
    return FIELDS[field[1]]
