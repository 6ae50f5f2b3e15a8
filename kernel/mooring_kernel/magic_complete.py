# SPDX-License-Identifier: Apache-2.0
"""The editor's questions: those about magics are answered here, the others by the container."""

from __future__ import annotations

import glob
import os
import re

from .core.assist import Completions
from .core.workspace import Workspace
from .magic_line import split_cell
from .magics import MAGICS

_MAGIC_NAME = re.compile(r"\s*%(\w*)\Z")
_MAGIC_REST = re.compile(r"\s*%(\w+)[ \t]+(?:.*[ \t])?(\S*)\Z")
_HELP_NAME = re.compile(r"\s*%help[ \t]+%?(\w*)\Z")


def complete(workspace: Workspace, code: str, cursor: int) -> Completions:
    """Return what the word at the cursor may become."""
    line, in_head = _line_at(code, cursor)
    if in_head:
        found = _complete_magic(workspace, line, cursor)
        if found is not None:
            return found
    place = workspace.place()
    if place is None:
        return Completions((), cursor, cursor)
    return workspace.assistant.complete(place, code, cursor)


def _complete_magic(workspace: Workspace, line: str, cursor: int) -> Completions | None:
    match = _MAGIC_NAME.match(line)
    if match is not None:
        names = [f"%{name}" for name in sorted(MAGICS) if name.startswith(match[1])]
        return Completions(tuple(names), cursor - len(match[1]) - 1, cursor)
    match = _HELP_NAME.match(line)
    if match is not None:
        names = [name for name in sorted(MAGICS) if name.startswith(match[1])]
        return Completions(tuple(names), cursor - len(match[1]), cursor)
    match = _MAGIC_REST.match(line)
    if match is None:
        return None
    magic, prefix = MAGICS.get(match[1]), match[2]
    if magic is None or " -- " in line:
        return Completions((), cursor, cursor)
    if prefix.startswith("-"):
        candidates = sorted(name for option in magic.options for name in option.names)
    else:
        candidates = _arguments(workspace, magic.takes, prefix)
    matches = tuple(each for each in candidates if each.startswith(prefix) or f"/{prefix}" in each)
    return Completions(matches, cursor - len(prefix), cursor)


def _arguments(workspace: Workspace, takes: str, prefix: str) -> list[str]:
    if takes == "host":
        return list(workspace.fleet.hosts) if workspace.fleet else []
    if takes == "target":
        return sorted(workspace.targets())
    if takes == "file":
        home = os.path.expanduser("~")
        paths = glob.glob(glob.escape(os.path.expanduser(prefix)) + "*")
        shown = [path + ("/" if os.path.isdir(path) else "") for path in sorted(paths)]
        if prefix.startswith("~/"):
            shown = ["~" + path.removeprefix(home) for path in shown]
        return [*(["local"] if "local".startswith(prefix) else []), *shown]
    return []


def inspect(workspace: Workspace, code: str, cursor: int) -> str | None:
    """Return what is known about the thing at the cursor, None if nothing."""
    end = code.find("\n", cursor)
    line, in_head = _line_at(code, len(code) if end < 0 else end)
    match = re.match(r"\s*%(\w+)", line)
    if in_head and match is not None:
        magic = MAGICS.get(match[1])
        return None if magic is None else magic.help()
    place = workspace.place()
    return None if place is None else workspace.assistant.inspect(place, code, cursor)


def check(workspace: Workspace, code: str) -> str:
    """Return whether a console should run the text: `complete`, `incomplete`, `invalid` or `unknown`."""
    body = split_cell(code).body
    if not body:
        return "complete"
    place = workspace.place()
    return "unknown" if place is None else workspace.assistant.check(place, body)


def _line_at(code: str, cursor: int) -> tuple[str, bool]:
    """Return the line up to the cursor, and whether it is in the head of the cell, where magics are."""
    start = code.rfind("\n", 0, cursor) + 1
    before = split_cell(code[:start])
    return code[start:cursor], not before.body
