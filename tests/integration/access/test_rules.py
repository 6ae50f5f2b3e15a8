# SPDX-License-Identifier: Apache-2.0
"""Who comes in and what they may do, seen from the real docker client and from users of the host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from harness.agent import AgentUnderTest

from .conftest import TlsAgent

pytestmark = [pytest.mark.root, pytest.mark.docker]

# One request as another user, in some groups; prints the answer's status and body.
_ASK = """
import http.client, os, socket, sys
uid, groups, path, method, target = sys.argv[1:]
numbers = [int(group) for group in groups.split(",")]
os.setgroups(numbers)
os.setgid(numbers[0])
os.setuid(int(uid))
connection = http.client.HTTPConnection("mooring")
connection.sock = socket.socket(socket.AF_UNIX)
try:
    connection.sock.connect(path)
except PermissionError:
    sys.exit("the socket is not open to them")
connection.request(method, target)
answer = connection.getresponse()
print(answer.status)
print(answer.read().decode())
"""
GROUP, OTHERS = 4321, 4399
READER, OWNER, STRANGER = 6001, 6002, 6003


def test_a_reader_by_certificate(tls_agent: TlsAgent) -> None:
    board, ops = tls_agent.remote("board"), tls_agent.remote("ops")
    ops.docker("run", "-d", "--name", "web", "-e", "PASSWORD=pass-word", "busybox", "sleep", "600")
    assert board.docker("ps", "--format", "{{.Names}}").stdout == b"web\n"
    shown = json.loads(board.docker("inspect", "web").stdout)[0]["Config"]["Env"]
    assert "PASSWORD=***" in shown
    for words in (("exec", "web", "true"), ("rm", "-f", "web"), ("export", "web")):
        done = board.docker(*words, check=False)
        assert done.returncode != 0
        assert b"the certificate CN=board may not" in done.stderr
    attached = board.docker("attach", "web", check=False)
    assert b"received 403" in attached.stderr  # all that docker's client tells of it
    assert ops.docker("inspect", "-f", "{{.Config.Env}}", "web").stdout.count(b"pass-word") == 1
    ops.docker("rm", "-f", "web")


def test_who_fits_no_rule(tls_agent: TlsAgent) -> None:
    done = tls_agent.remote("stranger").docker("ps", check=False)
    assert done.returncode == 1
    assert b"the certificate CN=stranger may do nothing on this host" in done.stderr


def test_who_has_no_certificate_of_the_ca(tls_agent: TlsAgent) -> None:
    none = tls_agent.remote("none", anonymous=True).docker("ps", check=False)
    foreign = tls_agent.remote("foreign", authority=tls_agent.foreign).docker("ps", check=False)
    assert none.returncode == foreign.returncode == 1
    assert b"certificate required" in none.stderr
    assert b"unknown certificate authority" in foreign.stderr


def test_a_client_without_tls_is_told(tls_agent: TlsAgent) -> None:
    remote = tls_agent.remote("ops")
    plain = {key: value for key, value in remote.environment.items() if key != "DOCKER_TLS_VERIFY"}
    plain.pop("DOCKER_CERT_PATH")
    done = subprocess.run(remote.command("ps"), env=plain, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1
    assert b"TLS" in done.stderr


@pytest.fixture
def ruled(start_agent: Callable[..., AgentUnderTest], tmp_path: Path) -> AgentUnderTest:
    """An agent with a group at its socket and rules for users and groups."""
    file = tmp_path / "agent.yaml"
    rules = [
        {"users": [READER], "allow": "read"},
        {"users": [OWNER], "groups": [str(OTHERS)], "allow": "all"},
    ]
    file.write_text(yaml.safe_dump({"socket_group": str(GROUP), "access": rules}))
    return start_agent(arguments=("--config", str(file)), image=False)


def test_users_and_groups_of_the_host(ruled: AgentUnderTest) -> None:
    def ask(uid: int, groups: str, method: str, target: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-c", _ASK, str(uid), groups, str(ruled.socket), method, target],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            return 0, done.stderr
        status, _, body = done.stdout.partition("\n")
        return int(status), body

    assert os.stat(ruled.socket).st_gid == GROUP
    assert os.stat(ruled.socket).st_mode & 0o777 == 0o660
    assert ask(READER, str(OTHERS), "GET", "/_ping") == (0, "the socket is not open to them\n")
    assert ask(READER, str(GROUP), "GET", "/containers/json")[0] == 200
    status, body = ask(READER, str(GROUP), "PUT", "/mooring/v1/volumes/x")
    assert status == 403
    assert f"uid {READER}" in json.loads(body)["message"]
    assert ask(OWNER, f"7,{GROUP}", "DELETE", "/mooring/v1/volumes/x")[0] == 200
    assert ask(STRANGER, str(GROUP), "GET", "/_ping")[0] == 403
    assert ask(STRANGER, f"{GROUP},{OTHERS}", "DELETE", "/mooring/v1/volumes/x")[0] == 200
    assert ask(0, "0", "DELETE", "/mooring/v1/volumes/x")[0] == 200


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"tls": {"listen": "127.0.0.1:0"}}, "tls.ca_file is not usable: it is missing"),
        ({"access": []}, "access has 0 rules"),
        ({"socket_group": "no-such-group"}, "socket_group is not usable"),
    ],
)
def test_settings_that_are_no_use_keep_the_agent_from_starting(
    tmp_path: Path, settings: dict[str, object], part: str
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(yaml.safe_dump(settings))
    roots = ("--data-root", str(tmp_path / "data"), "--run-root", str(tmp_path / "run"))
    done = subprocess.run(
        [sys.executable, "-m", "mooring_agent", "agent", "--config", str(file), *roots],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert part in done.stderr
    assert not (tmp_path / "run" / "mooring.sock").exists()
