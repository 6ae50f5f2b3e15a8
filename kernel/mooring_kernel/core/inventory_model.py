# SPDX-License-Identifier: Apache-2.0
"""Groups and hosts of an inventory, in whichever format it was written."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from .errors import InventoryError

_RANGE = re.compile(r"\[([0-9]+|[A-Za-z]):([0-9]+|[A-Za-z])(?::([0-9]+))?\]")
_MAX_HOSTS = 10000


@dataclass
class Group:
    """A group: its variables, its own hosts and the groups below it."""

    name: str
    variables: dict[str, Any] = field(default_factory=dict)
    hosts: list[str] = field(default_factory=list)
    children: list[str] = field(default_factory=list)


class Groups:
    """All groups by name, and the variables of each host. `all` is above every other group."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.hosts: dict[str, dict[str, Any]] = {}
        self._groups: dict[str, Group] = {"all": Group("all"), "ungrouped": Group("ungrouped")}

    def group(self, name: str) -> Group:
        """Return the group of this name, a new one if it is named for the first time."""
        return self._groups.setdefault(name, Group(name))

    def __contains__(self, name: str) -> bool:
        return name in self._groups

    def add_hosts(self, group: str, pattern: str, variables: dict[str, Any]) -> None:
        """Put the host, or the hosts of a range such as `web[01:20]`, into a group. Raises InventoryError."""
        for name in expand(pattern, self.source):
            self.hosts.setdefault(name, {}).update(variables)
            members = self.group(group).hosts
            if name not in members:
                members.append(name)
        if len(self.hosts) > _MAX_HOSTS:
            raise InventoryError(f"{self.source} names more than {_MAX_HOSTS} hosts")

    def add_child(self, parent: str, child: str) -> None:
        """Put a group below another. Raises InventoryError if that would make a circle."""
        self.group(child)
        if parent == child or parent in self._below(child):
            raise InventoryError(f"{self.source}: the group {parent} is below itself, through {child}")
        children = self.group(parent).children
        if child not in children:
            children.append(child)

    def of_host(self, host: str) -> list[Group]:
        """Return the groups of a host in the order in which their variables are overlaid: outer ones first.

        Ansible's order: by depth, then by `ansible_group_priority`, then by name; `all` is the outermost.
        """
        names = {"all"}
        new = [group.name for group in self._groups.values() if host in group.hosts]
        if not [name for name in new if name != "all"]:
            new.append("ungrouped")
        while new:
            names.update(new)
            new = [
                group.name
                for group in self._groups.values()
                if group.name not in names and names.intersection(group.children)
            ]
        depths = self._depths()
        return sorted(
            (self._groups[name] for name in names),
            key=lambda group: (depths.get(group.name, 1), _priority(group), group.name),
        )

    def _depths(self) -> dict[str, int]:
        depths = {"all": 0}
        pending = [(name, 1) for name in self._groups if name != "all"]
        while pending:
            name, depth = pending.pop()
            if depths.get(name, -1) < depth:
                depths[name] = depth
                pending += [(child, depth + 1) for child in self._groups[name].children]
        return depths

    def _below(self, name: str) -> Iterator[str]:
        for child in self.group(name).children:
            yield child
            yield from self._below(child)


def _priority(group: Group) -> int:
    text = str(group.variables.get("ansible_group_priority", 1))
    return int(text) if text.lstrip("-").isdigit() else 1


def expand(pattern: str, source: str) -> list[str]:
    """Return the names that a pattern stands for: `db[1:3]` is db1, db2, db3. Raises InventoryError."""
    match = _RANGE.search(pattern)
    if match is None:
        if not pattern or any(character in pattern for character in "[]/ \t"):
            raise InventoryError(f"{source}: {pattern!r} is not the name of a host")
        return [pattern]
    begin, end, step = match[1], match[2], int(match[3] or 1)
    values = _values(begin, end, step)
    if not values:
        raise InventoryError(f"{source}: the range {match[0]} of {pattern!r} is empty")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for value in values for name in expand(f"{before}{value}{after}", source)]


def _values(begin: str, end: str, step: int) -> list[str]:
    if step < 1:
        return []
    if begin.isdigit() and end.isdigit():
        width = len(begin) if begin.startswith("0") else 0
        numbers = range(int(begin), int(end) + 1, step)
        return [str(number).zfill(width) for number in numbers[: _MAX_HOSTS + 1]]
    letters = string.ascii_letters
    if begin.isalpha() and end.isalpha():
        return list(letters[letters.index(begin) : letters.index(end) + 1 : step])
    return []
