# SPDX-License-Identifier: Apache-2.0
"""The agent's settings: those of the command line, then those of its file, then the defaults."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..config import LOG_LEVELS, STORAGE_DRIVERS
from ..errors import InvalidSpec

DEFAULT_FILE = Path("/etc/mooring/agent.yaml")

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class _Key:
    """What a key of the file holds; `choices` are the texts that it may be."""

    kind: type
    expected: str
    choices: tuple[str, ...] = ()


_KEYS = {
    "data_root": _Key(str, "a directory"),
    "run_root": _Key(str, "a directory"),
    "socket": _Key(str, "a path"),
    "socket_group": _Key(str, "the name of a group, or its number in quotes"),
    "cgroup_parent": _Key(str, "a name"),
    "network_prefix": _Key(str, "a network such as 10.210.0.0/16"),
    "name": _Key(str, "a name"),
    "pool": _Key(int, "a number"),
    "pool_memory": _Key(int, "a number of mebibytes"),
    "storage_driver": _Key(str, f"one of {', '.join(STORAGE_DRIVERS)}", STORAGE_DRIVERS),
    "log_level": _Key(str, f"one of {', '.join(LOG_LEVELS)}", LOG_LEVELS),
    "registries": _Key(Mapping, "a mapping from a registry to its settings"),
    "peers": _Key(Mapping, "a mapping such as {listen: …, address: …, members: […], tls: {…}}"),
    "tls": _Key(Mapping, "a mapping such as {listen: …, ca_file: …, certificate: …, key: …}"),
    "access": _Key(list, "a list of rules such as {users: […], groups: […], allow: read}"),
}


def agent_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """All settings that are given, by key. Raises InvalidSpec naming the file and the key."""
    named: str | None = arguments.config
    path = Path(named) if named is not None else DEFAULT_FILE
    found = read_settings(path) if named is not None or path.exists() else {}
    return found | {key: value for key, value in vars(arguments).items() if key in _KEYS}


def read_settings(path: Path) -> dict[str, Any]:
    """Read the settings of a file; a key without a value counts as not given."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InvalidSpec(
            f"the agent's configuration {path} cannot be read ({error.strerror}): "
            "expected a YAML file that the agent may read"
        ) from None
    if len(content) > _MAX_BYTES:
        raise InvalidSpec(f"the agent's configuration {path} is larger than {_MAX_BYTES} bytes: shorten it")
    try:
        document = yaml.safe_load(content)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # Not the text itself: it may hold a password.
        mark = getattr(error, "problem_mark", None)
        where = f" in line {mark.line + 1}" if mark is not None else ""
        raise InvalidSpec(
            f"the agent's configuration {path} is not YAML: it cannot be read on{where}"
        ) from None
    return check_settings({} if document is None else document, str(path))


def check_settings(document: Any, where: str) -> dict[str, Any]:
    """Return the settings of a document, each of its kind; raises InvalidSpec. Pure."""
    if not isinstance(document, Mapping):
        raise InvalidSpec(f"{where} is not usable: expected a mapping of {', '.join(_KEYS)}")
    for key in document:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(_KEYS)}"
            raise InvalidSpec(f"{where} has an unknown key {key!r}: {hint}")
    found = {}
    for key, known in _KEYS.items():
        value = document.get(key)
        if value is None:
            continue
        # A bool is an int to Python, but no number.
        usable = isinstance(value, known.kind) and not isinstance(value, bool)
        if not usable or (known.choices and value not in known.choices):
            raise InvalidSpec(f"{where}: {key} is not usable: expected {known.expected}")
        found[key] = value
    return found
