# SPDX-License-Identifier: Apache-2.0
"""`mooring apply` and `mooring plan`: a whole host's document."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from ..errors import InvalidSpec, MissingProgram
from .client import FLEET
from .containers import client_of
from .outcomes import difference, line
from .output import as_yaml


def apply(arguments: argparse.Namespace) -> int:
    """Bring the host to the document; 1 if an item failed."""
    return _put(arguments, dry_run=arguments.dry_run, diff=arguments.diff)


def plan(arguments: argparse.Namespace) -> int:
    """Say what would be done, and do nothing."""
    return _put(arguments, dry_run=True, diff=arguments.diff)


def _put(arguments: argparse.Namespace, *, dry_run: bool, diff: bool) -> int:
    document = _read(arguments.file)
    answer = client_of(arguments).call(
        "PUT", f"{FLEET}/state", document, {"dry_run": dry_run, "prune": arguments.prune}
    )
    failed = int(answer.get("failed", 0))
    if arguments.output == "json":
        print(json.dumps(answer, indent=2, ensure_ascii=False))
    elif arguments.output == "yaml":
        sys.stdout.write(as_yaml(answer))
    else:
        _tell(answer, dry_run=dry_run, diff=diff)
    return 1 if failed else 0


def _tell(answer: dict[str, Any], *, dry_run: bool, diff: bool) -> None:
    changed = failed = 0
    for item in answer["items"]:
        name = f"{item['kind']} {item['name']}"
        if item["error"]:
            failed += 1
            message = item["error"]["message"]
            told = message if message.startswith(name) else f"{name}: {message}"
            print(f"mooring: {told}", file=sys.stderr)
            continue
        changed += bool(item["changed"])
        for action in item["actions"]:
            print(line(action, dry_run=dry_run))
        if diff and item["changed"]:
            print(difference(item["before"], item["after"], name))
    same = len(answer["items"]) - changed - failed
    verb = "would change" if dry_run else "changed"
    print(f"{changed} {verb}, {same} unchanged, {failed} failed")


def _read(path: str) -> dict[str, Any]:
    """A document in YAML, of which JSON is a part. Raises InvalidSpec."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidSpec(f"{path} cannot be read: {reason}") from None
    document = _parsed(text, path)
    if not isinstance(document, dict):
        raise InvalidSpec(
            f"{path} holds no mapping: expected images, networks, volumes, cgroups and containers"
        )
    return document


def _parsed(text: str, path: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        pass  # then it is YAML
    try:
        import yaml
    except ImportError:
        raise MissingProgram(
            f"{path} is no JSON, and YAML needs the Python package PyYAML (python3-yaml); install it"
        ) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidSpec(f"{path} is no YAML: {' '.join(str(error).split())}") from None
