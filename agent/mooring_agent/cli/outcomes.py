# SPDX-License-Identifier: Apache-2.0
"""What a declaration did, told to people."""

from __future__ import annotations

import difflib
import json
import sys
from typing import Any


def report(outcome: dict[str, Any], *, dry_run: bool) -> None:
    """A line for each action; one that says so if there was none."""
    for action in outcome["actions"]:
        print(line(action, dry_run=dry_run))
    if not outcome["changed"]:
        print("unchanged")


def line(action: dict[str, Any], *, dry_run: bool) -> str:
    """One action and its reason."""
    would = "would " if dry_run else ""
    reason = f": {action['reason']}" if action.get("reason") else ""
    return f"{would}{action['action']} {action['kind']} {action['name']}{reason}"


def difference(before: Any, after: Any, name: str) -> str:
    """A unified diff of the two as sorted JSON, empty if they are the same."""
    lines = difflib.unified_diff(
        _lines(before), _lines(after), f"{name} (before)", f"{name} (after)", lineterm=""
    )
    text = "\n".join(lines)
    return _coloured(text) if text and sys.stdout.isatty() else text


def _lines(value: Any) -> list[str]:
    return (
        [] if value is None else json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False).splitlines()
    )


def _coloured(text: str) -> str:
    colours = {"+": "32", "-": "31", "@": "36"}
    return "\n".join(
        f"\x1b[{colours[row[0]]}m{row}\x1b[0m" if row[:1] in colours else row for row in text.split("\n")
    )
