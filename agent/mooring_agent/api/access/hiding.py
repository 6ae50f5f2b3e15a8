# SPDX-License-Identifier: Apache-2.0
"""Answers for those who may only read, without what passwords are found in.

Of environment variables the names stay and the values go, and so do the instructions in the build cache,
which have a build's arguments in them, and those that an image has for builds upon it, which set variables.
Of the options by which a volume is mounted the names stay as well: a server's may have a password.
"""

from __future__ import annotations

import json
from typing import Any

from ..messages import JSON, Response, encode

HIDDEN = "***"
# In the Docker API and in images; in the Mooring API.
_ENVIRONMENTS = ("Env", "env")
_INSTRUCTIONS = ("Description", "description", "OnBuild")
_DRIVER_OPTIONS = ("Options", "driver_opts")
_MOUNT_OPTIONS = "o"
_KEYS = (*_ENVIRONMENTS, *_INSTRUCTIONS, *_DRIVER_OPTIONS)


def without_values(reply: Response) -> Response:
    """The same answer with every environment's values, and what else may have secrets, hidden."""
    if reply.content_type != JSON or not any(f'"{name}"'.encode() in reply.body for name in _KEYS):
        return reply
    return Response(reply.status, encode(hidden(json.loads(reply.body))), JSON, reply.headers)


def hidden(document: Any) -> Any:
    """A JSON document with every environment's values, and what else may have secrets, hidden. Pure."""
    if isinstance(document, list):
        return [hidden(each) for each in document]
    if isinstance(document, dict):
        return {key: _hidden_at(key, value) for key, value in document.items()}
    return document


def _hidden_at(key: str, value: Any) -> Any:
    if key in _ENVIRONMENTS:
        return _names_of(value)
    if key in _INSTRUCTIONS and isinstance(value, str | list):
        return HIDDEN if isinstance(value, str) else [HIDDEN] * len(value)
    if key in _DRIVER_OPTIONS and isinstance(value, dict) and isinstance(value.get(_MOUNT_OPTIONS), str):
        words = value[_MOUNT_OPTIONS].split(",")
        return value | {_MOUNT_OPTIONS: ",".join(_name_of(word) for word in words)}
    return hidden(value)


def _name_of(word: str) -> str:
    name, mark, _ = word.partition("=")
    return f"{name}={HIDDEN}" if mark else word


def _names_of(environment: Any) -> Any:
    if isinstance(environment, dict):
        return dict.fromkeys(environment, HIDDEN)
    if isinstance(environment, list):
        return [
            f"{each.partition('=')[0]}={HIDDEN}" if isinstance(each, str) else HIDDEN for each in environment
        ]
    return environment  # such as a label that is called so
