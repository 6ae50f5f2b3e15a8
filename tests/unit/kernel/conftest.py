# SPDX-License-Identifier: Apache-2.0
"""The stand-in of an agent, and what cells show."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring_kernel.core.client import Client
from mooring_kernel.core.shell import ShellSession
from mooring_kernel.core.transport import LocalTransport
from unit.kernel.shell_bench import TIMING, Open, Shell
from unit.kernel.stand_in import StandIn


@pytest.fixture(scope="session")
def shells() -> Iterator[Path]:
    """A directory with each of the shells under its own name."""
    with tempfile.TemporaryDirectory(prefix="mrsh-") as name:
        directory = Path(name)
        for shell in ("bash", "dash", "ash"):
            target = shutil.which("busybox" if shell == "ash" else shell)
            assert target is not None, f"the tests need {shell}"
            os.symlink(target, directory / shell)
        yield directory


@pytest.fixture
def agent() -> Iterator[StandIn]:
    with tempfile.TemporaryDirectory(prefix="mrst-") as name:
        work = Path(name, "work")
        work.mkdir()
        stand_in = StandIn(Path(name, "agent.sock"), cwd=str(work))
        yield stand_in
        stand_in.close()


@pytest.fixture
def client(agent: StandIn) -> Client:
    return Client("here", LocalTransport(str(agent.path)))


@pytest.fixture(params=["bash", "dash", "ash"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def open_shell(client: Client, shells: Path, name: str) -> Iterator[Open]:
    sessions = []

    def open_one() -> Shell:
        session = ShellSession.open(client, "web1", shell=str(shells / name), timing=TIMING)
        sessions.append(session)
        return Shell(session)

    yield open_one
    for session in sessions:
        session.close()


@pytest.fixture
def shell(open_shell: Open) -> Shell:
    return open_shell()
