# SPDX-License-Identifier: Apache-2.0
"""What the commands print: tables for people, JSON and YAML for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ..errors import MissingProgram

FORMATS = ("table", "json", "yaml")
_UNITS = ("B", "kB", "MB", "GB", "TB")


def show(value: Any, output: str, header: Sequence[str] = (), rows: Sequence[Sequence[str]] = ()) -> None:
    """Print `value` as JSON or YAML, or the rows that were made of it as a table."""
    if output == "json":
        print(json.dumps(value, indent=2, ensure_ascii=False))
    elif output == "yaml":
        sys.stdout.write(as_yaml(value))
    else:
        table(header, rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as they need, two spaces apart."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join(cells).rstrip())


def as_yaml(value: Any) -> str:
    """YAML. Raises MissingProgram where the library is not installed."""
    try:
        import yaml
    except ImportError:
        raise MissingProgram(
            "YAML needs the Python package PyYAML (python3-yaml); install it or use json"
        ) from None
    text: str = yaml.safe_dump(value, sort_keys=False, allow_unicode=True, default_flow_style=False)
    return text


def size(count: int | None) -> str:
    """Bytes for the eye, in decimal units as Docker shows images."""
    if count is None:
        return "-"
    amount = float(count)
    for unit in _UNITS:
        if amount < 1000 or unit == _UNITS[-1]:
            return f"{count}B" if unit == "B" else f"{amount:.3g}{unit}"
        amount /= 1000
    return f"{count}B"


def age(moment: str | None) -> str:
    """How long ago an RFC 3339 time was: "3m", "2h", "5d"."""
    if not moment:
        return "-"
    seconds = max(0, int(time.time() - datetime.fromisoformat(moment).timestamp()))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def short_id(identity: str) -> str:
    """The first digits of an id, without its algorithm."""
    return identity.removeprefix("sha256:")[:12]
