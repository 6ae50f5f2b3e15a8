# SPDX-License-Identifier: Apache-2.0
"""Inventories in INI, as `ansible.builtin.ini` reads them."""

from __future__ import annotations

import ast
import re
import shlex
from typing import Any

from .errors import InventoryError
from .inventory_model import Groups

_SECTION = re.compile(r"\[([^\]:]+)(?::(\w+))?\]\s*(?:[#;].*)?\Z")


def parse(text: str, source: str) -> Groups:
    """Read the groups and hosts. Raises InventoryError."""
    groups = Groups(source)
    name, kind = "ungrouped", "hosts"
    children: list[tuple[str, str]] = []
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        where = f"{source}, line {number}"
        if line.startswith("["):
            match = _SECTION.match(line)
            if match is None or (match[2] or "hosts") not in ("hosts", "vars", "children"):
                raise InventoryError(f"{where}: {line!r} is not [group], [group:vars] or [group:children]")
            name, kind = match[1].strip(), match[2] or "hosts"
            groups.group(name)
        elif kind == "hosts":
            _read_host(groups, name, line, where)
        elif kind == "vars":
            key, value = _assignment(line, where)
            groups.group(name).variables[key] = _evaluated(value)
        else:
            children.append((name, _words(line, where)[0]))
    for parent, child in children:
        if child not in groups:
            raise InventoryError(
                f"{source}: the group {parent} has the child {child}, which is no group here"
            )
        groups.add_child(parent, child)
    return groups


def _read_host(groups: Groups, group: str, line: str, where: str) -> None:
    pattern, *settings = _words(line, where)
    variables: dict[str, Any] = {}
    for setting in settings:
        key, value = _assignment(setting, where)
        variables[key] = _evaluated(value)
    address, colon, port = pattern.rpartition(":")
    if colon and port.isdigit() and "[" not in port and ":" not in address:
        pattern = address
        variables.setdefault("ansible_port", int(port))
    groups.add_hosts(group, pattern, variables)


def _words(line: str, where: str) -> list[str]:
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise InventoryError(f"{where}: {str(error).lower()} in {line!r}") from None


def _assignment(text: str, where: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise InventoryError(f"{where}: {text!r} is not NAME=VALUE")
    return key.strip(), value.strip()


def _evaluated(value: str) -> Any:
    """Return a value as Ansible takes it: a Python literal where it is one, else the text."""
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
        return value
