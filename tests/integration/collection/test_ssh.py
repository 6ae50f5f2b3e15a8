# SPDX-License-Identifier: Apache-2.0
"""The forwarded socket: one for all tasks, made anew when its master has gone, and no way but the module
where it fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from integration.collection.conftest import end_masters
from integration.collection.playbooks import Controller, Run
from integration.collection.stub_agent import StubAgent

HOST_INFO = {"name": "host", "mooring.fleet.host_info": {}}


def forwarded(controller: Controller) -> list[Path]:
    return [path for path in controller.control_directory.glob("mooring-*") if path.is_socket()]


def modules_sent(run: Run) -> int:
    return run.output.count("plugins/modules/host_info.py")


def test_tasks_share_one_forwarded_socket(over_ssh: Controller) -> None:
    run = over_ssh.run([HOST_INFO, {**HOST_INFO, "loop": [1, 2, 3]}, HOST_INFO], "-vvv")

    assert run.code == 0, run.output
    assert modules_sent(run) == 0
    assert run.output.count("SSH: EXEC") == 1
    (socket,) = forwarded(over_ssh)
    assert socket.stat().st_mode & 0o077 == 0


def test_a_master_that_has_gone_is_replaced(over_ssh: Controller) -> None:
    first = over_ssh.run([HOST_INFO])
    end_masters(over_ssh)
    second = over_ssh.run([HOST_INFO, {"ansible.builtin.meta": "reset_connection"}, HOST_INFO], "-vvv")

    assert first.code == second.code == 0, second.output
    assert modules_sent(second) == 0


def test_an_agent_that_was_restarted_is_found_again(over_ssh: Controller, stub: StubAgent) -> None:
    first = over_ssh.run([HOST_INFO])
    stub.close()
    os.unlink(stub.socket)
    without = over_ssh.run([{**HOST_INFO, "ignore_errors": True}])
    successor = StubAgent(stub.socket)
    second = over_ssh.run([HOST_INFO], "-vvv")
    successor.close()

    assert first.code == second.code == 0, second.output
    assert "no agent answers at" in without.result("host")["msg"]
    assert modules_sent(second) == 0


@pytest.mark.parametrize(
    "arguments",
    ["-o ControlMaster=no", "-o ControlPath=none -o ControlPersist=60s"],
    ids=["no master", "no control path"],
)
def test_without_a_master_the_module_runs_on_the_host(over_ssh: Controller, arguments: str) -> None:
    run = over_ssh.run([HOST_INFO], "-vvv", "-e", f"ansible_ssh_args='{arguments}'")

    assert run.code == 0, run.output
    assert modules_sent(run) > 0
    assert run.result("host")["host"]["name"] == "stub"


def test_a_server_that_forwards_no_sockets_runs_the_module(over_ssh: Controller, directory: Path) -> None:
    keys = (directory / "authorized").read_text()
    (directory / "authorized").write_text(f"restrict,pty {keys}")

    run = over_ssh.run([HOST_INFO, HOST_INFO], "-vvv")

    assert run.code == 0, run.output
    assert modules_sent(run) > 0
    assert forwarded(over_ssh) == []


def test_an_unreachable_host_is_unreachable(over_ssh: Controller) -> None:
    run = over_ssh.run([HOST_INFO], "-e", "ansible_port=1")

    assert run.code == 4, run.output
    assert run.stats["unreachable"] == 1
