# SPDX-License-Identifier: Apache-2.0
"""What a keeper hands to the program that takes its place by execve(2): numbers of descriptors, which an
execve keeps, and what it knows of them and of its children, which stay its children.

It travels as JSON in a memory file, the number of which is the program's last argument. `messages.STATE` is
the version of its form; what a later version of the same form has added is passed over.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, fields
from typing import Any

from ..linux import syscalls
from . import messages


@dataclass(frozen=True)
class HandedChild:
    """One container's or exec's process: `children.Child` in numbers. `pipes` has the streams 1 and 2 by
    name; where there is no descriptor is -1. `owner` is one of the connections.
    """

    record: dict[str, Any]
    own: bool
    pipes: dict[str, int] = field(default_factory=dict)
    terminal: int = -1
    stdin: int = -1
    exec_streams: list[int] = field(default_factory=list)
    watch: int = -1
    owner: int = -1

    def descriptors(self) -> list[int]:
        """Those that it has."""
        single = (self.terminal, self.stdin, self.watch)
        return [*self.pipes.values(), *self.exec_streams, *(one for one in single if one >= 0)]


@dataclass(frozen=True)
class State:
    """All of it. `clients` are the connections; the one that has asked is `asked_by`, with the request `seq`.

    `unclaimed` has pids and wait statuses of reaped children whose start was not known to be over; of those
    in `expected` nobody wants the status. `next_slot` keeps names of launchers from being given twice.
    """

    run_root: str
    listener: int
    guardian: int
    clients: list[int]
    asked_by: int
    seq: int
    children: list[HandedChild]
    held: list[str]
    unclaimed: list[tuple[int, int]]
    expected: list[int]
    next_slot: int

    def descriptors(self) -> list[int]:
        """All that have to outlive the execve."""
        found = [self.listener, self.guardian, *self.clients]
        for child in self.children:
            found += child.descriptors()
        return found


def pack(state: State) -> int:
    """A memory file with the state; the descriptors in it, and itself, pass through an execve from now on."""
    content = {**vars(state), "children": [vars(child) for child in state.children], "state": messages.STATE}
    file = messages.memory_file(json.dumps(content).encode())
    for descriptor in (*state.descriptors(), file):
        os.set_inheritable(descriptor, True)
    return file


def take_back(state: State, file: int) -> None:
    """Undo `pack`: there was no execve."""
    for descriptor in state.descriptors():
        os.set_inheritable(descriptor, False)
    os.close(file)


def unpack(file: int) -> State:
    """The state that `pack` has put into `file`, which is closed, as are all descriptors that are not part
    of it but the standard ones.
    """
    content = json.loads(messages.read_memory_file(file))
    children = [HandedChild(**_known(HandedChild, child)) for child in content["children"]]
    state = State(**{**_known(State, content), "children": children})
    kept = sorted(state.descriptors())
    first = 3
    for descriptor in kept:
        if descriptor > first:
            syscalls.close_range(first, descriptor - 1)
        first = descriptor + 1
        os.set_inheritable(descriptor, False)
    syscalls.close_range(first)
    return state


def _known(kind: type, content: dict[str, Any]) -> dict[str, Any]:
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in content.items() if name in names}
