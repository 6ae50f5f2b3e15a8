# SPDX-License-Identifier: Apache-2.0
"""Agents that are reached over TLS and by SSH, and docker's client on the way to them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from harness.agent import AgentUnderTest
from harness.authority import Authority, Issued
from harness.claims import free_port
from harness.host import need_programs
from harness.waiting import PATIENCE as FACTOR
from integration.collection.playbooks import Sshd
from integration.conftest import _started
from mooring_agent.cli import main

PATIENCE = 60.0 * FACTOR


@dataclass(frozen=True)
class Remote:
    """Docker's client with one way to one agent."""

    agent: AgentUnderTest
    environment: dict[str, str]

    def command(self, *arguments: str) -> list[str]:
        return self.agent.docker_command(*arguments)

    def docker(
        self, *arguments: str, stdin: bytes = b"", check: bool = True, timeout: float = PATIENCE
    ) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            self.command(*arguments),
            input=stdin,
            capture_output=True,
            env=self.environment,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0 or not check, (
            f"docker {' '.join(arguments)} ended with {done.returncode}: {done.stderr.decode()}\n"
            f"{self.agent.log_tail(20)}"
        )
        return done

    @contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """The client as a process with pipes, which is killed if it has not ended by itself."""
        pipe = subprocess.PIPE
        with subprocess.Popen(
            self.command(*arguments), stdin=pipe, stdout=pipe, env=self.environment
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def clients(self) -> int:
        """How many connections the agent has, of any kind."""
        process = self.agent.process
        assert process is not None
        inodes = set()
        for descriptor in Path(f"/proc/{process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                inodes.add(descriptor.readlink().name)
        # proc_net(5): accepted unix sockets have the path of the one that listens, state 3; TCP's is 1.
        unix = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        tcp = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        found = [row[6] for row in unix if row[-1] == str(self.agent.socket) and row[5] == "03"]
        found += [row[9] for row in tcp if row[3] == "01"]
        return sum(f"socket:[{inode}]" in inodes for inode in found)


def _certificates(directory: Path, authority: Authority, client: Issued | None) -> str:
    """A directory as DOCKER_CERT_PATH wants it."""
    directory.mkdir()
    shutil.copy(authority.ca_file, directory / "ca.pem")
    if client is not None:
        shutil.copy(client.certificate, directory / "cert.pem")
        shutil.copy(client.key, directory / "key.pem")
    return str(directory)


class TlsAgent:
    """An agent with TLS and rules, and its clients."""

    def __init__(self, directory: Path, agent: AgentUnderTest, authority: Authority, port: int) -> None:
        self.directory, self.agent, self.authority, self.port = directory, agent, authority, port
        self.foreign = Authority(directory / "foreign")

    def remote(self, name: str, *, authority: Authority | None = None, anonymous: bool = False) -> Remote:
        """Docker's client with the certificate of this name."""
        path = self.directory / f"client-{name}"
        if not path.exists():
            issued = None if anonymous else (authority or self.authority).client(name)
            _certificates(path, self.authority, issued)
        environment = self.agent.docker_environment() | {
            "DOCKER_HOST": f"tcp://127.0.0.1:{self.port}",
            "DOCKER_TLS_VERIFY": "1",
            "DOCKER_CERT_PATH": str(path),
        }
        return Remote(self.agent, environment)


@pytest.fixture(scope="module")
def tls_agent(
    request: pytest.FixtureRequest,
    ended_agents: list[AgentUnderTest],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[TlsAgent]:
    """An agent that certificates of a CA may reach: CN=ops may do everything, CN=board may read, and
    CN=carol has the names that begin with carol-.
    """
    need_programs("openssl")
    directory = tmp_path_factory.mktemp("tls")
    authority = Authority(directory / "ca")
    server, port = authority.server(), free_port()
    file = directory / "agent.yaml"
    settings = {
        "tls": {
            "listen": f"127.0.0.1:{port}",
            "ca_file": str(authority.ca_file),
            "certificate": str(server.certificate),
            "key": str(server.key),
        },
        "access": [
            {"certificates": ["CN=ops"], "allow": "all"},
            {"certificates": ["CN=board"], "users": ["nobody"], "allow": "read"},
            {"certificates": ["CN=carol"], "allow": "own", "prefix": "carol-"},
        ],
    }
    file.write_text(yaml.safe_dump(settings))
    with ExitStack() as stack:
        agent = _started(
            stack, ended_agents, request.node.nodeid, arguments=("--config", str(file)), directory=None
        )
        yield TlsAgent(directory, agent, authority, port)


@pytest.fixture
def over_tls(tls_agent: TlsAgent) -> Iterator[Remote]:
    """Docker's client over TLS, which may do everything."""
    yield tls_agent.remote("ops")
    _tidy(tls_agent.agent)


@pytest.fixture(scope="module")
def ssh_agent(
    request: pytest.FixtureRequest, ended_agents: list[AgentUnderTest]
) -> Iterator[tuple[AgentUnderTest, Path]]:
    """An agent, and a directory with the command `docker` for who comes by SSH, which is mooring."""
    with ExitStack() as stack:
        agent = _started(stack, ended_agents, request.node.nodeid)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mrssh-", dir="/tmp")))
        programs = directory / "bin"
        programs.mkdir()
        package = Path(main.__file__).parents[2]
        (programs / "mooring").write_text(
            f"#!{sys.executable} -I\nimport sys\nsys.path.insert(0, {str(package)!r})\n"
            "from mooring_agent.cli.main import main\nsys.exit(main())\n"
        )
        (programs / "mooring").chmod(0o755)
        (programs / "docker").symlink_to("mooring")
        yield agent, directory


@pytest.fixture
def over_ssh(ssh_agent: tuple[AgentUnderTest, Path]) -> Iterator[Remote]:
    """Docker's client by SSH, through a real sshd."""
    need_programs("sshd", "ssh")
    agent, directory = ssh_agent
    for key in ("host", "user"):
        (directory / key).unlink(missing_ok=True)
    sshd = Sshd(directory, f"SetEnv PATH={directory}/bin:/usr/bin:/bin MOORING_SOCKET={agent.socket}")
    (directory / f"known-{sshd.port}").unlink(missing_ok=True)  # another one's that had the port before
    # The client of docker takes ssh from PATH, and asks nobody for its options.
    wrapper = directory / "client"
    wrapper.mkdir(exist_ok=True)
    (wrapper / "ssh").write_text(
        f"#!/bin/sh\nexec {shutil.which('ssh')} -F none -i {directory}/user "
        f"-o UserKnownHostsFile={directory}/known-{sshd.port} "
        '-o StrictHostKeyChecking=accept-new -o LogLevel=ERROR "$@"\n'
    )
    (wrapper / "ssh").chmod(0o755)
    user = pwd.getpwuid(os.geteuid()).pw_name
    environment = agent.docker_environment() | {
        "DOCKER_HOST": f"ssh://{user}@127.0.0.1:{sshd.port}",
        "PATH": f"{wrapper}:{os.environ['PATH']}",
    }
    try:
        yield Remote(agent, environment)
    finally:
        _tidy(agent)
        sshd.close()


def _tidy(agent: AgentUnderTest) -> None:
    left = agent.docker("ps", "-aq").stdout.split()
    if left:
        agent.docker("rm", "-f", *left)
