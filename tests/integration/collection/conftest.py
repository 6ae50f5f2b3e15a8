# SPDX-License-Identifier: Apache-2.0
"""An agent (a stub of it, and the real one) and the ways in which Ansible gets to it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.waiting import eventually
from integration.collection.playbooks import Controller, Sshd
from integration.collection.stub_agent import StubAgent


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory whose path is short enough for sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="mrcol-", dir="/tmp"))
    yield path

    def gone() -> bool:
        """Masters of SSH remove their sockets themselves as they end, and who is killed writes until then."""
        shutil.rmtree(path, ignore_errors=True)
        return not path.exists()

    eventually(gone, what=f"{path} is gone")


@pytest.fixture
def stub(directory: Path) -> Iterator[StubAgent]:
    agent = StubAgent(directory / "stub.sock")
    yield agent
    agent.close()


@pytest.fixture
def local(directory: Path, stub: StubAgent) -> Controller:
    """The controller is the host, and its action plugins talk to the agent."""
    return Controller(directory, stub.socket, {"ansible_connection": "local"})


@pytest.fixture
def elsewhere(directory: Path, stub: StubAgent) -> Controller:
    """The modules run as modules."""
    return Controller(directory, stub.socket, {"ansible_connection": "elsewhere"})


@pytest.fixture
def over_ssh(directory: Path, stub: StubAgent) -> Iterator[Controller]:
    """The host is behind a real sshd."""
    sshd = Sshd(directory)
    controller = Controller(directory, stub.socket, sshd.variables)
    yield controller
    end_masters(controller)
    sshd.close()


def end_masters(controller: Controller) -> None:
    """End the connections that Ansible keeps."""
    for path in controller.control_directory.glob("*"):
        if path.is_socket() and not path.name.startswith("mooring-"):
            subprocess.run(
                ["ssh", "-o", f"ControlPath={path}", "-O", "exit", "x"], capture_output=True, timeout=10
            )


@pytest.fixture(params=["local", "elsewhere", "over_ssh"])
def controller(request: pytest.FixtureRequest) -> Controller:
    """Each of the ways."""
    controller = request.getfixturevalue(request.param)
    assert isinstance(controller, Controller)
    return controller
