# SPDX-License-Identifier: Apache-2.0
"""Containers whose output goes to syslog servers: formats, ways, kills of the agent, servers that go."""

from __future__ import annotations

import platform
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.authority import Authority
from harness.claims import free_port
from harness.syslog_server import SyslogServer, parse
from harness.waiting import PATIENCE, eventually
from mooring_agent.failpoints import VARIABLE

pytestmark = [pytest.mark.root, pytest.mark.docker]

FLOOD_LINES = 200_000
_INFORMATIONAL, _ERROR = 6, 3


@pytest.fixture(autouse=True)
def _tidy(request: pytest.FixtureRequest) -> Iterator[None]:
    """Leave no container behind."""
    yield
    if "agent" in request.fixturenames:
        agent: AgentUnderTest = request.getfixturevalue("agent")
        left = agent.docker("ps", "-aq").stdout.split()
        if left:
            agent.docker("rm", "-f", "-v", *left)


def run(agent: AgentUnderTest, server: SyslogServer | str, script: str, *options: str) -> str:
    """Run a shell in the foreground whose log goes to a server, and return its id."""
    address = server if isinstance(server, str) else server.address
    given = [part for option in options for part in ("--log-opt", option)]
    log = ["--log-driver", "syslog", "--log-opt", f"syslog-address={address}", *given]
    done = agent.docker("create", *log, "busybox", "sh", "-c", script)
    identifier = done.stdout.strip()
    agent.docker("start", "-a", identifier)
    return identifier


@pytest.mark.parametrize("kind", ["udp", "tcp", "unix", "unixgram"])
def test_lines_come_one_by_one_with_their_severity(agent: AgentUnderTest, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "socket" if kind.startswith("unix") else None
    with SyslogServer(kind, path=path) as server:
        # What two pipes carry has no order: one line is written when the one before has come.
        asked = "until test -e /{}; do sleep 0.01; done"
        script = f"echo one; {asked.format(1)}; echo two >&2; {asked.format(2)}; echo; printf three"
        log = ["--log-driver", "syslog", "--log-opt", f"syslog-address={server.address}"]
        id = agent.docker("run", "-d", *log, "busybox", "sh", "-c", script).stdout.strip()
        for count in (1, 2):
            server.wait_for(count)
            agent.docker("exec", id, "touch", f"/{count}")
        got = [parse(message, modern=False) for message in server.wait_for(4)]
        assert [each.text for each in got] == ["one", "two", "", "three"]
        assert [each.severity for each in got] == [_INFORMATIONAL, _ERROR, _INFORMATIONAL, _INFORMATIONAL]
        assert {each.facility for each in got} == {3}
        assert {each.tag for each in got} == {id[:12]}
        assert {each.host for each in got} == {""}
        # What was sent is here as well.
        assert agent.docker("logs", id).stdout == "one\n\nthree"


@pytest.mark.parametrize(
    ("format", "modern"), [("rfc3164", False), ("rfc5424", True), ("rfc5424micro", True)]
)
def test_each_format_is_well_formed(agent: AgentUnderTest, format: str, modern: bool) -> None:
    options = (f"syslog-format={format}", "syslog-facility=local3", "tag={{.Name}}/{{.ImageName}}")
    with SyslogServer("tcp") as server:
        before = time.time()
        id = run(agent, server, "echo hello", *options)
        name = agent.docker("inspect", "-f", "{{.Name}}", id).stdout.strip().removeprefix("/")
        message = parse(server.wait_for(1)[0], modern=modern)
        assert (message.facility, message.severity) == (19, _INFORMATIONAL)
        assert message.tag == f"{name}/busybox"
        assert message.host == platform.node()
        assert message.text == "hello"
        if format == "rfc5424micro":
            assert "." in message.time
        if format == "rfc3164":
            seconds = range(int(before), int(time.time()) + 1)
            assert message.time in [time.strftime("%b %e %H:%M:%S", time.localtime(each)) for each in seconds]


def test_tls_with_certificates_counts_the_bytes_of_messages(agent: AgentUnderTest, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued, client = authority.server(), authority.client("client")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.ca_file))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(issued.certificate, issued.key)
    options = (
        "syslog-format=rfc5424",
        f"syslog-tls-ca-cert={authority.ca_file}",
        f"syslog-tls-cert={client.certificate}",
        f"syslog-tls-key={client.key}",
    )
    with SyslogServer("tls", tls=context, counted=True, port=free_port()) as server:
        run(agent, server, "seq 5000", *options)
        got = [parse(message, modern=True).text for message in server.wait_for(5000)]
        assert got == [str(number) for number in range(1, 5001)]
    with SyslogServer("tls", tls=context, port=server.port) as second:
        run(agent, second, "echo unseen", *options[1:2])  # shows no certificate
        assert second.messages() == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_flood_loses_no_line_to_kills_of_the_agent(
    start_agent: Callable[..., AgentUnderTest], tmp_path: Path, kind: str
) -> None:
    agent = start_agent()
    program = f'BEGIN {{ for (i = 0; i < {FLOOD_LINES}; i++) printf "%d %060d\\n", i, 0 }}'
    path = tmp_path / "socket" if kind == "unix" else None
    with SyslogServer(kind, path=path) as server:
        log = ["--log-driver=syslog", f"--log-opt=syslog-address={server.address}"]
        agent.docker("run", "-d", "--name", "flood", *log, "busybox", "awk", program)
        for part in range(1, 4):
            server.wait_for(part * FLOOD_LINES // 8, timeout=60)
            agent.kill9()
            agent.start()
        last = f"{FLOOD_LINES - 1} "

        def all_there() -> bool:
            messages = server.messages()
            return bool(messages) and parse(messages[-1], modern=False).text.startswith(last)

        eventually(all_there, timeout=60)
        order = [int(parse(message, modern=False).text.split()[0]) for message in server.messages()]
    assert set(order) == set(range(FLOOD_LINES))
    # Some come twice, each time from a line before; between those none is missing.
    turns = [index for index in range(1, len(order)) if order[index] != order[index - 1] + 1]
    assert len(turns) <= 3
    assert all(order[index] <= order[index - 1] for index in turns)


@pytest.mark.parametrize("point", ["forwarding.sent", "forwarding.settled"])
def test_a_kill_between_sending_and_keeping_the_place_loses_no_line(
    start_agent: Callable[..., AgentUnderTest], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, point: str
) -> None:
    switch = tmp_path / "point"
    monkeypatch.setenv(VARIABLE, str(switch))
    agent = start_agent()
    with SyslogServer("tcp") as server:
        switch.write_text(f"{point}:3")
        log = ["--log-driver=syslog", f"--log-opt=syslog-address={server.address}"]
        agent.docker("run", "-d", *log, "busybox", "seq", "40000", check=False)
        assert agent.process is not None
        agent.process.wait(30 * PATIENCE)
        agent.process = None
        agent.start()
        eventually(lambda: server.messages()[-1:] and server.messages()[-1].endswith(b": 40000"), timeout=30)
        texts = [parse(message, modern=False).text for message in server.messages()]
    assert set(texts) == {str(number) for number in range(1, 40_001)}


def test_a_server_that_goes_and_returns_gets_what_was_written_meanwhile(agent: AgentUnderTest) -> None:
    port = free_port()
    with SyslogServer("tcp", port=port) as server:
        log = ["--log-driver=syslog", f"--log-opt=syslog-address={server.address}"]
        agent.docker("run", "-di", "--name", "echoing", *log, "busybox", "cat")
        agent.docker("exec", "echoing", "sh", "-c", "echo before > /proc/1/fd/1")
        assert parse(server.wait_for(1)[0], modern=False).text == "before"
    started = time.time()
    for number in range(3):
        agent.docker("exec", "echoing", "sh", "-c", f"echo meanwhile {number} > /proc/1/fd/1")
    events = ["events", "--since", str(int(started) - 1), "--until", "1s", "--filter", "type=daemon"]
    eventually(lambda: "log_unreachable" in agent.docker(*events[:3], "--until", "0s", *events[5:]).stdout)
    with SyslogServer("tcp", port=port) as server:
        texts = [parse(message, modern=False).text for message in server.wait_for(3)]
        assert texts == ["meanwhile 0", "meanwhile 1", "meanwhile 2"]
        eventually(lambda: "log_reachable" in agent.docker(*events[:3], "--until", "0s", *events[5:]).stdout)
        # The rest of a container that is removed is sent before it goes.
        agent.docker("exec", "echoing", "sh", "-c", "seq 2000 > /proc/1/fd/1; printf end > /proc/1/fd/1")
        agent.docker("rm", "-f", "echoing")
        texts = [parse(message, modern=False).text for message in server.wait_for(3 + 2001)[3:]]
        assert texts == [*(str(number) for number in range(1, 2001)), "end"]


def test_a_server_that_is_not_there_holds_up_nobody(agent: AgentUnderTest) -> None:
    begun = time.monotonic()
    run(agent, f"tcp://127.0.0.1:{free_port()}", "seq 20000", "cache-max-size=64k", "cache-max-file=2")
    id = agent.docker("ps", "-lq").stdout.strip()
    assert agent.docker("logs", "--tail", "1", id).stdout == "20000\n"
    agent.docker("rm", id)
    assert time.monotonic() - begun < 20 * PATIENCE
    assert "log not sent" in agent.log_tail()


def test_what_was_rotated_away_meanwhile_is_told(agent: AgentUnderTest) -> None:
    port = free_port()
    since = str(int(time.time()))
    run(agent, f"tcp://127.0.0.1:{port}", "seq 20000", "cache-max-size=8k", "cache-max-file=2")
    with SyslogServer("tcp", port=port) as server:
        eventually(lambda: server.messages()[-1:] and server.messages()[-1].endswith(b": 20000"), timeout=30)
        numbers = [int(parse(message, modern=False).text) for message in server.messages()]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 20_000
    assert 0 < len(numbers) < 10_000
    events = ["events", "--since", since, "--until", "0s", "--filter", "event=log_lost"]
    eventually(lambda: "rotated away" in agent.docker(*events).stdout)


def test_many_containers_share_a_connection_and_each_is_heard(agent: AgentUnderTest) -> None:
    with SyslogServer("tcp") as server:
        log = ["--log-driver=syslog", f"--log-opt=syslog-address={server.address}", "--log-opt=tag={{.Name}}"]
        for number in range(20):
            agent.docker("run", "-d", "--name", f"many{number}", *log, "busybox", "seq", "100")
        got = [parse(message, modern=False) for message in server.wait_for(2000)]
        for number in range(20):
            texts = [each.text for each in got if each.tag == f"many{number}"]
            assert texts == [str(line) for line in range(1, 101)]
        assert server.connections == 1


def test_what_cannot_be_is_refused_when_the_container_is_made(agent: AgentUnderTest) -> None:
    def refusal(*options: str, driver: str = "syslog") -> str:
        given = [f"--log-opt={option}" for option in options]
        done = agent.docker("create", f"--log-driver={driver}", *given, "busybox", "true", check=False)
        assert done.returncode != 0
        return done.stderr

    assert "syslog-address" in refusal("syslog-address=gopher://x")
    assert "no such file" in refusal("syslog-address=unix:///nowhere/log").lower()
    assert "unknown log opt 'colour' for syslog log driver" in refusal("colour=red")
    assert "syslog-facility" in refusal("syslog-address=udp://127.0.0.1", "syslog-facility=local9")
    assert "{{.Nam}}" in refusal("syslog-address=udp://127.0.0.1", "tag={{.Nam}}")
    assert "tcp+tls" in refusal("syslog-address=udp://127.0.0.1", "syslog-tls-skip-verify=true")
    assert "/nowhere" in refusal("syslog-address=tcp+tls://127.0.0.1", "syslog-tls-ca-cert=/nowhere")
    assert "fluentd" in refusal(driver="fluentd")
    if not Path("/dev/log").exists():
        assert "/dev/log" in refusal()
    if not Path("/run/systemd/journal/socket").exists():
        assert "/run/systemd/journal/socket" in refusal(driver="journald")


def test_declared_containers_log_so_too_and_change_live(agent: AgentUnderTest) -> None:
    def put(log: dict[str, Any]) -> dict[str, Any]:
        spec = {"image": "busybox", "command": ["cat"], "interactive": True, "log": log}
        answer: dict[str, Any] = agent.api("PUT", "/mooring/v1/containers/declared", spec)
        return answer

    def say(text: str) -> None:
        agent.docker("exec", "declared", "sh", "-c", f"echo {text} > /proc/1/fd/1")

    with SyslogServer("udp") as server:
        put({})
        say("kept")
        forwarded = {"driver": "syslog", "options": {"syslog-address": server.address, "tag": "declared"}}
        assert put(forwarded)["actions"]
        assert put(forwarded)["changed"] is False
        say("sent")
        message = parse(server.wait_for(1)[0], modern=False)
        assert (message.tag, message.text) == ("declared", "sent")
        put({})
        say("kept again")
        put(forwarded)
        say("sent again")
        assert parse(server.wait_for(2)[1], modern=False).text == "sent again"
        assert agent.docker("logs", "declared").stdout.splitlines() == [
            "kept",
            "sent",
            "kept again",
            "sent again",
        ]


def test_labels_and_variables_are_details_of_lines(agent: AgentUnderTest) -> None:
    options = ["--log-opt=labels=a,none", "--log-opt=env-regex=^B_", "--log-opt=tag={{.ID}}/{{.ImageName}}"]
    given = ["--label", "a=1 &", "-e", "B_X=two", "-e", "C=3"]
    id = agent.docker("run", "-d", *options, *given, "busybox", "echo", "hello").stdout.strip()
    agent.docker("wait", id)
    shown = agent.docker("logs", "--details", id).stdout
    assert shown == f"B_X=two,a=1+%26,tag={id[:12]}%2Fbusybox hello\n"
    config = agent.api("GET", f"/v1.47/containers/{id}/json")["HostConfig"]["LogConfig"]
    assert config == {
        "Type": "json-file",
        "Config": {"labels": "a,none", "env-regex": "^B_", "tag": "{{.ID}}/{{.ImageName}}"},
    }
