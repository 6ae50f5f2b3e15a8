# SPDX-License-Identifier: Apache-2.0
"""The real docker client over TLS and by SSH: streams whose ends come one by one, much data, kills."""

from __future__ import annotations

import hashlib
import random
import signal
import time

import pexpect
import pytest

from harness.waiting import PATIENCE as FACTOR
from harness.waiting import eventually

from .conftest import PATIENCE, Remote

pytestmark = [pytest.mark.root, pytest.mark.docker]

MUCH = random.Random(5).randbytes(100 << 20)


@pytest.fixture(params=["over_tls", "over_ssh"])
def remote(request: pytest.FixtureRequest) -> Remote:
    """Each of the ways."""
    found = request.getfixturevalue(request.param)
    assert isinstance(found, Remote)
    return found


def test_input_ends_before_output(remote: Remote) -> None:
    assert remote.docker("run", "-i", "--rm", "busybox", "cat", stdin=b"x\n").stdout == b"x\n"
    remote.docker("run", "-d", "--name", "long", "busybox", "sleep", "600")
    counted = remote.docker(
        "exec", "-i", "long", "sh", "-c", "cat | wc -c; exit 3", stdin=b"abc", check=False
    )
    assert (counted.stdout, counted.returncode) == (b"3\n", 3)


@pytest.mark.slow
def test_much_data_both_ways(remote: Remote) -> None:
    remote.docker("run", "-d", "--name", "long", "busybox", "sleep", "600")
    back = remote.docker("exec", "-i", "long", "cat", stdin=MUCH, timeout=110 * FACTOR)
    assert hashlib.sha256(back.stdout).digest() == hashlib.sha256(MUCH).digest()


@pytest.mark.slow
def test_much_data_in_and_little_out(remote: Remote) -> None:
    counted = remote.docker("run", "-i", "--rm", "busybox", "md5sum", stdin=MUCH, timeout=110 * FACTOR)
    assert counted.stdout.decode().split()[0] == hashlib.md5(MUCH).hexdigest()


def test_logs_are_followed_until_the_end(remote: Remote) -> None:
    remote.docker(
        "run", "-d", "--name", "ticks", "busybox", "sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.1; done"
    )
    assert remote.docker("logs", "-f", "ticks").stdout == b"1\n2\n3\n"


def test_attach_sees_what_comes(remote: Remote) -> None:
    remote.docker("run", "-di", "--name", "echo", "busybox", "cat")
    with remote.running("attach", "echo") as attached:
        assert attached.stdin is not None
        assert attached.stdout is not None
        attached.stdin.write(b"hello\n")
        attached.stdin.flush()
        assert attached.stdout.readline() == b"hello\n"
        remote.docker("kill", "echo")
        assert attached.wait(PATIENCE) == 137


def test_a_terminal(remote: Remote) -> None:
    remote.docker("run", "-d", "--name", "long", "busybox", "sleep", "600")
    command = remote.command("exec", "-it", "long", "sh")
    shell = pexpect.spawn(command[0], command[1:], env=remote.environment, timeout=PATIENCE, encoding="utf-8")
    try:
        shell.expect("# ")
        shell.sendline("echo $((6*7))")
        shell.expect("42")
        shell.sendline("exit 4")
        shell.expect(pexpect.EOF)
        shell.close()
        assert shell.exitstatus == 4
    finally:
        shell.close(force=True)


@pytest.mark.parametrize("words", [("logs", "-f", "quiet"), ("attach", "quiet"), ("events",)])
def test_a_client_that_is_killed_leaves_nothing_open(remote: Remote, words: tuple[str, ...]) -> None:
    remote.docker("run", "-di", "--name", "quiet", "busybox", "cat")
    eventually(lambda: remote.clients() == 0, what="the clients before it have gone")
    with remote.running(*words) as client:
        eventually(lambda: remote.clients() > 0, what="the client is connected")
        client.kill()
        client.wait(10)
    eventually(lambda: remote.clients() == 0, what="the agent has let go of it")
    assert remote.docker("inspect", "-f", "{{.State.Running}}", "quiet").stdout == b"true\n"


def test_a_client_that_is_stopped_holds_up_nobody(remote: Remote) -> None:
    remote.docker("run", "-d", "--name", "long", "busybox", "sleep", "600")
    with remote.running("exec", "long", "cat", "/dev/zero") as client:
        assert client.stdout is not None
        assert client.stdout.read(1 << 20) == bytes(1 << 20)
        client.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert remote.docker("run", "-i", "--rm", "busybox", "cat", stdin=b"x").stdout == b"x"
        assert time.monotonic() - begun < 20 * FACTOR
        client.kill()


def test_an_address_may_name_the_socket(over_ssh: Remote) -> None:
    there = {"DOCKER_HOST": f"{over_ssh.environment['DOCKER_HOST']}{over_ssh.agent.socket}"}
    named = Remote(over_ssh.agent, over_ssh.environment | there)
    assert named.docker("version", "-f", "{{.Server.Os}}").stdout == b"linux\n"
    elsewhere = {"DOCKER_HOST": f"{over_ssh.environment['DOCKER_HOST']}/nowhere.sock"}
    refused = Remote(over_ssh.agent, over_ssh.environment | elsewhere).docker("version", check=False)
    assert b"no agent answers on /nowhere.sock" in refused.stderr
