# SPDX-License-Identifier: Apache-2.0
"""Groups of this host for tests: named `mrgt-<hex>`, removed with whatever runs in them."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from harness.waiting import PATIENCE
from mooring_agent.cgroups.group import Group
from mooring_agent.cgroups.hierarchy import Hierarchy, detect

Spawn = Callable[..., subprocess.Popen[bytes]]

_JOIN = """
import os, sys
count = int(sys.argv[1])
for path in sys.argv[2:2 + count]:
    with open(path, "wb", buffering=0) as file:
        file.write(b"0")
os.write(1, b"in\\n")
os.execvp(sys.argv[2 + count], sys.argv[2 + count:])
"""


@pytest.fixture(scope="session")
def hierarchy() -> Hierarchy:
    """Return what this host has."""
    return detect()


@pytest.fixture
def parent(hierarchy: Hierarchy) -> Iterator[Group]:
    """Return a group made for this test."""
    group = hierarchy.group(f"mrgt-{secrets.token_hex(4)}")
    group.create()
    try:
        yield group
    finally:
        group.kill(5 * PATIENCE)
        group.remove(5 * PATIENCE)


@pytest.fixture
def group(parent: Group) -> Group:
    """Return a group inside the one of this test."""
    inside = parent.hierarchy.group(f"{parent.path}/a")
    inside.create()
    return inside


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Return a function that runs a program inside a group, which it joins by itself; back when it is in."""
    running: list[subprocess.Popen[bytes]] = []

    def start(group: Group, *argv: str) -> subprocess.Popen[bytes]:
        files = [str(path) for path in group.attach_self_paths()]
        process = subprocess.Popen(
            [sys.executable, "-S", "-c", _JOIN, str(len(files)), *files, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"in\n"
        return process

    yield start
    for process in running:
        # Its children too: they hold the pipes open.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=10 * PATIENCE)
