# SPDX-License-Identifier: Apache-2.0
"""Who may talk to the agent and to the keeper."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.forked import in_child
from harness.waiting import PATIENCE

from .attackers import Declare, run

pytestmark = pytest.mark.root

NOBODY = 65534


def _as_nobody(path: Path, kind: socket.SocketKind) -> str:
    """Connect as a user who is nobody, with the directories on the way open to all; tell what happened."""

    def connect() -> str:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with socket.socket(socket.AF_UNIX, kind) as client:
            client.settimeout(5.0 * PATIENCE)
            try:
                client.connect(str(path))
                client.send(b'["Hello",1,{"protocol":1}]')
                return "answered" if client.recv(4096) else "closed"
            except OSError as error:
                return type(error).__name__

    answer: str = in_child(connect)
    return answer


def test_the_agent_s_socket_is_its_owner_s_and_group_s(agent: AgentUnderTest) -> None:
    """Whoever talks to the agent is root on the host: mode 0660, as dockerd's, and nobody else gets in."""
    assert stat.S_IMODE(agent.socket.stat().st_mode) == 0o660
    assert agent.socket.stat().st_uid == 0
    assert _as_nobody(agent.socket, socket.SOCK_STREAM) == "PermissionError"


def test_nobody_else_gets_to_what_the_agent_keeps(agent: AgentUnderTest, declare: Declare) -> None:
    """Its state has the environments of containers; a volume may have a program that runs as root."""
    declare("keeps", env={"PASSWORD": "pass-word"}, volumes=["open-to-none:/v"])
    run(agent, "keeps", "sh", "-c", "touch /v/program; chmod 4755 /v/program")
    root = agent.config.data_root

    def looked_at() -> list[str]:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        names = ("state.db", "state.db-wal", "images/index.json", "volumes/open-to-none/_data/program")
        return [name for name in names if os.access(root / name, os.F_OK)]

    assert (root / "volumes/open-to-none/_data/program").stat().st_mode & stat.S_ISUID
    assert in_child(looked_at) == []


def test_the_keeper_s_socket_is_its_owner_s_alone(agent: AgentUnderTest) -> None:
    """The keeper forks what it is told to: its directory is closed, and its socket is too."""
    directory = agent.config.run_root / "keeper"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert stat.S_IMODE((directory / "socket").stat().st_mode) & 0o077 == 0
    assert _as_nobody(directory / "socket", socket.SOCK_SEQPACKET) == "PermissionError"


def test_the_keeper_asks_the_kernel_who_is_there(agent: AgentUnderTest) -> None:
    """If the modes were opened by mistake, a stranger is still turned away: by SO_PEERCRED."""
    path = agent.config.run_root / "keeper/socket"
    modes = [(each, stat.S_IMODE(each.stat().st_mode)) for each in (path.parent, path, agent.base)]
    try:
        path.parent.chmod(0o711)
        path.chmod(0o666)
        told = _as_nobody(path, socket.SOCK_SEQPACKET)
    finally:
        for each, mode in modes:
            each.chmod(mode)
    assert told in ("closed", "ConnectionResetError", "BrokenPipeError")
    assert agent.api("GET", "/mooring/v1/host")["keeper"]["pid"] == agent.keeper_pids()[0]


def test_a_container_reaches_neither(agent: AgentUnderTest, declare: Declare) -> None:
    """Not even with the host's network: there is no abstract socket and no port, and no file."""
    declare("near", networks=["host"])
    for path in (agent.socket, agent.config.run_root / "keeper/socket"):
        assert run(agent, "near", "ls", str(path))["exit_code"] != 0
    listening = run(agent, "near", "sh", "-c", "netstat -lnx | grep mooring")
    # The name of a socket may be seen in the host's network namespace; nothing of it can be opened.
    for word in listening["stdout"].split():
        assert not word.startswith("@")


def test_what_the_agent_keeps_is_closed_to_others(agent: AgentUnderTest, declare: Declare) -> None:
    """Other users of the host read neither logs nor state, and write nothing."""
    declare("files")
    for path in (agent.config.run_root / "keeper", agent.config.run_root / "stage"):
        assert path.stat().st_mode & 0o077 == 0, path
    data = agent.config.data_root
    for path in (data, data / "containers", data / "overlay", data / "volumes", data / "images"):
        if path.exists():
            assert path.stat().st_mode & 0o022 == 0, path
    assert (data / "state.db").stat().st_mode & 0o022 == 0
    for log in data.glob("containers/*/log"):
        assert log.stat().st_mode & 0o077 == 0


def test_setuid_programs_of_containers_are_no_way_up_on_the_host(
    agent: AgentUnderTest, declare: Declare
) -> None:
    """A user of the host started a setuid program from a container's files (CVE-2021-41091, CVE-2021-41103).

    A user who is nobody cannot come as far as the layers.
    """
    declare("suid")
    run(agent, "suid", "sh", "-c", "cp /bin/busybox /tmp/up && chmod 4755 /tmp/up")
    found = list((agent.config.data_root / "overlay").glob("l/*/tmp/up"))
    assert found

    def look() -> list[str]:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return [str(path) for path in found if os.access(path, os.X_OK)]

    assert in_child(look) == []
