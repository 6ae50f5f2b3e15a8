# SPDX-License-Identifier: Apache-2.0
"""A user who has the names with a prefix, beside one who may do everything: with the real docker client."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Remote, TlsAgent

pytestmark = [pytest.mark.root, pytest.mark.docker]


@pytest.fixture
def ops(tls_agent: TlsAgent) -> Iterator[Remote]:
    """Who may do everything, and has a container, a network and a volume."""
    made = tls_agent.remote("ops")
    made.docker("network", "create", "dave-net")
    made.docker("run", "-d", "--name", "dave-web", "--network", "dave-net", "-v", "dave-data:/data", *SLEEPS)
    yield made
    left = made.docker("ps", "-aq").stdout.decode().split()
    made.docker("rm", "-f", "-v", *left)
    made.docker("network", "prune", "-f")
    made.docker("volume", "prune", "-f", "-a")


SLEEPS = ("busybox", "sleep", "600")


@pytest.fixture
def carol(tls_agent: TlsAgent, ops: Remote) -> Remote:
    return tls_agent.remote("carol")


def told(remote: Remote, *arguments: str) -> str:
    return remote.docker(*arguments).stdout.decode().strip()


def refused(remote: Remote, *arguments: str) -> str:
    done = remote.docker(*arguments, check=False)
    assert done.returncode != 0, arguments
    return done.stderr.decode()


def test_an_owner_works_as_if_alone(carol: Remote, ops: Remote, tmp_path: Path) -> None:
    for words in (("ps", "-aq"), ("volume", "ls", "-q"), ("network", "ls", "-q")):
        assert told(carol, *words) == ""
    told(carol, "network", "create", "carol-net")
    told(carol, "volume", "create", "carol-data")
    options = ("--network", "carol-net", "-v", "carol-data:/data", "--restart", "always", "-m", "64m")
    told(carol, "run", "-d", "--name", "carol-web", *options, *SLEEPS)
    assert told(carol, "ps", "--format", "{{.Names}}") == "carol-web"
    assert told(carol, "volume", "ls", "-q") == "carol-data"
    assert told(carol, "network", "ls", "--format", "{{.Name}}") == "carol-net"
    assert told(carol, "exec", "carol-web", "sh", "-c", "echo x > /data/x; cat /data/x") == "x"
    assert (
        carol.docker("run", "-i", "--rm", "--name", "carol-cat", "busybox", "cat", stdin=b"y\n").stdout
        == b"y\n"
    )
    (tmp_path / "file").write_text("from outside\n")
    told(carol, "cp", str(tmp_path / "file"), "carol-web:/file")
    assert told(carol, "exec", "carol-web", "cat", "/file") == "from outside"
    assert told(
        carol,
        "run",
        "--rm",
        "--name",
        "carol-peer",
        "--network",
        "carol-net",
        "busybox",
        "nslookup",
        "carol-web",
    )
    told(carol, "create", "--name", "carol-port", "-p", "80", "busybox", "true")
    told(carol, "rm", "carol-port")
    told(carol, "update", "-m", "96m", "--memory-swap", "96m", "carol-web")
    told(carol, "rename", "carol-web", "carol-site")
    told(carol, "network", "disconnect", "carol-net", "carol-site")
    told(carol, "network", "connect", "--alias", "db", "carol-net", "carol-site")
    told(carol, "stop", "-t", "0", "carol-site")
    # The client leaves out the fraction of a second that it has now.
    until = f"{time.time():.9f}"
    events = told(carol, "events", "--since", "1h", "--until", until, "--format", "{{json .}}").splitlines()
    assert len(events) > 10
    assert not any("dave" in event for event in events)
    told(carol, "rm", "-v", "carol-site")
    told(carol, "network", "rm", "carol-net")
    told(carol, "volume", "rm", "carol-data")
    assert told(ops, "ps", "--format", "{{.Names}}") == "dave-web"


@pytest.mark.parametrize(
    "options",
    [
        ("-v", "/:/host"),
        ("-v", "dave-data:/data"),
        ("--mount", "type=bind,src=/,dst=/host"),
        ("--volumes-from", "dave-web"),
        ("--privileged",),
        ("--cap-add", "SYS_PTRACE"),
        ("--security-opt", "seccomp=unconfined"),
        ("--security-opt", "systempaths=unconfined"),
        ("--device", "/dev/null:/dev/x"),
        ("--pid", "host"),
        ("--pid", "container:dave-web"),
        ("--ipc", "host"),
        ("--uts", "host"),
        ("--userns", "host"),
        ("--cgroupns", "host"),
        ("--cgroup-parent", "x"),
        ("--network", "host"),
        ("--network", "dave-net"),
        ("--network", "container:dave-web"),
        ("--link", "dave-web"),
        ("-p", "443:443"),
        ("--ulimit", "rtprio=99"),
        ("--sysctl", "net.ipv4.ip_forward=1"),
    ],
)
def test_no_container_of_an_owner_reaches_the_host_or_others(carol: Remote, options: tuple[str, ...]) -> None:
    message = refused(carol, "create", "--name", "carol-evil", *options, *SLEEPS)
    assert "by rule 3 of access" in message or "rule 3 of access in the agent's configuration" in message
    assert told(carol, "ps", "-aq") == ""


@pytest.mark.parametrize(
    "command",
    [
        ("exec", "dave-web", "true"),
        ("logs", "dave-web"),
        ("inspect", "--type", "container", "dave-web"),
        ("cp", "dave-web:/etc/passwd", "/tmp/never"),
        ("stop", "dave-web"),
        ("rm", "dave-web"),
        ("export", "dave-web"),
        ("attach", "dave-web"),
        ("rename", "dave-web", "carol-web"),
        ("network", "inspect", "dave-net"),
        ("network", "rm", "dave-net"),
        ("volume", "inspect", "dave-data"),
        ("volume", "rm", "dave-data"),
    ],
)
def test_what_others_have_is_not_there(carol: Remote, ops: Remote, command: tuple[str, ...]) -> None:
    nobodys = tuple(word.replace("dave-", "erin-") for word in command)
    theirs = refused(carol, *command)
    assert theirs.replace("dave-", "erin-") == refused(carol, *nobodys)
    identity = told(ops, "inspect", "-f", "{{.Id}}", "dave-web")
    assert "no such container" in refused(carol, "inspect", "--type", "container", identity[:12])
    assert json.loads(told(ops, "inspect", "dave-web"))[0]["State"]["Running"]


@pytest.mark.parametrize(
    "command",
    [
        ("run", "--rm", "busybox", "true"),
        ("run", "--rm", "--name", "dave-x", "busybox", "true"),
        ("run", "--rm", "--name", "carol-x", "absent:1"),
        ("commit", "dave-web", "carol-image"),
        ("tag", "busybox", "carol-image"),
        ("save", "busybox", "-o", "/tmp/never"),
        ("system", "df"),
        ("container", "prune", "-f"),
        ("volume", "prune", "-f"),
        ("volume", "create"),
        ("network", "create", "--subnet", "192.0.2.0/24", "carol-net"),
        ("network", "create", "-d", "macvlan", "-o", "parent=lo", "carol-net"),
    ],
)
def test_the_rest_is_refused(carol: Remote, command: tuple[str, ...]) -> None:
    assert "rule 3 of access" in refused(carol, *command)
