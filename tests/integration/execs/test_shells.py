# SPDX-License-Identifier: Apache-2.0
"""Terminals in containers: what a person at a shell does, and what a program asks about it."""

from __future__ import annotations

import os
import re
import time

import pytest

from harness.agent import AgentUnderTest
from harness.unix_http import ApiError
from harness.waiting import eventually

from .shells import Shell, run, settled

pytestmark = pytest.mark.root


def test_what_is_typed_is_echoed_and_run(agent: AgentUnderTest, box: str) -> None:
    with Shell(agent, box) as shell:
        assert (shell.status, shell.headers["upgrade"]) == (101, "mooring-stream")
        shell.send("echo $((6 * 7))\n")
        assert "echo $((6 * 7))\r\n42\r\n" in shell.until("42\r\n")
        shell.send("exit 7\n")
        shell.rest()
        eventually(lambda: not shell.view()["running"])
        found = shell.view()
        assert (found["exit_code"], found["pid"], found["id"]) == (7, None, shell.id)


def test_a_command_that_ends_at_once_shows_all_it_wrote(agent: AgentUnderTest, box: str) -> None:
    for _ in range(20):
        with Shell(agent, box, "echo", "at once") as shell:
            assert shell.rest() == b"at once\r\n"


def test_its_size_is_the_one_asked_for_and_changes(agent: AgentUnderTest, box: str) -> None:
    with Shell(agent, box, "sh", rows=33, cols=120) as shell:
        shell.send("stty size; trap 'echo changed' WINCH\n")
        shell.until("33 120\r\n")
        shell.call("resize", rows=50, cols=90)
        shell.send("stty size\n")
        shell.until("50 90\r\n")
    with Shell(agent, box, "stty", "size") as plain:
        assert plain.rest() == b"24 80\r\n"


@pytest.mark.parametrize("body", [{"rows": 0, "cols": 5}, {"rows": 70000, "cols": 5}, {"rows": "x"}])
def test_a_size_that_is_none_is_refused(agent: AgentUnderTest, box: str, body: dict[str, object]) -> None:
    with Shell(agent, box) as shell, pytest.raises(ApiError) as refused:
        shell.call("resize", **body)
    assert refused.value.status == 400


def test_interrupt_ends_the_command_and_not_the_shell(agent: AgentUnderTest, box: str) -> None:
    with Shell(agent, box) as shell:
        shell.send("sleep 60\n")
        eventually(lambda: shell.foreground()["command"] == "sleep")
        shell.call("signal", signal="INT", target="foreground")
        eventually(lambda: shell.foreground()["is_shell"])
        shell.send("echo status $?\n")
        shell.until("status 130\r\n")
        assert shell.view()["running"]


def test_interrupt_works_in_raw_mode_too(agent: AgentUnderTest, box: str) -> None:
    """Where a typed ^C would only be a byte."""
    with Shell(agent, box) as shell:
        shell.send("stty raw; sleep 60; stty sane; echo over\n")
        eventually(lambda: shell.foreground()["command"] == "sleep")
        assert not shell.foreground()["canonical"]
        shell.call("signal", signal="INT", target="foreground")
        shell.until("over")


@pytest.mark.parametrize("name", ["TERM", "KILL"])
def test_a_signal_to_the_foreground_spares_the_shell(agent: AgentUnderTest, box: str, name: str) -> None:
    with Shell(agent, box) as shell:
        shell.send("sleep 60\n")
        eventually(lambda: shell.foreground()["command"] == "sleep")
        shell.call("signal", signal=name, target="foreground")
        eventually(lambda: shell.foreground()["is_shell"])
        # At its prompt there is nothing in front that could be ended.
        shell.call("signal", signal=name, target="foreground")
        shell.send("echo still here\n")
        shell.until("still here\r\n")


def test_a_pipeline_gets_it_as_a_whole(agent: AgentUnderTest, box: str) -> None:
    with Shell(agent, box) as shell:
        counts = "ps | grep -c '[s]leep 6[012]'"
        shell.send("sleep 60 | sleep 61 | sleep 62; echo over $((40 + 2))\n")
        # The shell makes one after the other: those that come later would not get it.
        eventually(lambda: run(agent, box, "sh", "-c", counts)["stdout"] == "3\n", what="all three")
        assert shell.foreground()["command"] == "sleep"
        shell.call("signal", signal="KILL", target="foreground")
        shell.until("over 42\r\n")  # no echo of what was typed: the shell has seen all of them end
        assert run(agent, box, "sh", "-c", counts)["stdout"] == "0\n"


def test_the_leader_can_be_ended(agent: AgentUnderTest, box: str) -> None:
    with Shell(agent, box) as shell:
        shell.send("echo ready\n")
        shell.until("ready\r\n")
        shell.call("signal", signal="KILL", target="leader")
        shell.rest()
        eventually(lambda: shell.view()["exit_code"] == 137)
        with pytest.raises(ApiError) as refused:
            shell.call("signal", signal="KILL", target="leader")
        assert (refused.value.status, refused.value.code) == (409, "conflict")
        with pytest.raises(ApiError) as refused:
            shell.foreground()
        assert refused.value.status == 409


@pytest.mark.parametrize("target", ["leader", "foreground"])
def test_a_signal_in_the_moment_of_an_end_is_one_or_the_other(
    agent: AgentUnderTest, box: str, target: str
) -> None:
    seen = set()
    for number in range(40):
        with Shell(agent, box, "usleep", str(number * 200)) as shell:
            for name in ("INT", "TERM", "KILL"):
                body = {"signal": name, "target": target}
                seen.add(agent.request("POST", f"/mooring/v1/execs/{shell.id}/signal", body).status)
                seen.add(agent.request("GET", f"/mooring/v1/execs/{shell.id}/foreground").status)
    assert seen <= {200, 204, 409}


def test_the_foreground_says_who_is_there_and_what_it_waits_for(agent: AgentUnderTest, box: str) -> None:
    with Shell(agent, box) as shell:
        shell.until("# ")
        prompt = eventually(lambda: (seen := shell.foreground())["is_shell"] and seen)
        assert prompt["command"] == "sh"
        shell.send("cat\n")
        cat = eventually(lambda: (seen := shell.foreground())["command"] == "cat" and seen)
        assert (cat["is_shell"], cat["canonical"], cat["echo"]) == (False, True, True)
        assert cat["pgid"] != prompt["pgid"]
        eventually(lambda: shell.foreground()["waiting_for_input"])
        shell.send("\x04")
        eventually(lambda: shell.foreground()["is_shell"])
        shell.send("sleep 60\n")
        eventually(lambda: shell.foreground()["command"] == "sleep")
        assert not shell.foreground()["waiting_for_input"]
        shell.call("signal", signal="INT")
        shell.send("stty -echo; cat; stty echo\n")
        secret = eventually(lambda: (seen := shell.foreground())["command"] == "cat" and seen)
        assert not secret["echo"]  # what tells a password prompt from other input


def test_end_of_input_of_the_client_leaves_the_output_flowing(agent: AgentUnderTest, box: str) -> None:
    with Shell(agent, box, "sh", "-c", "sleep 0.3; echo late; sleep 0.3; echo later") as shell:
        shell.end_input()
        assert shell.rest() == b"late\r\nlater\r\n"


def test_a_flood_comes_whole_and_in_order(agent: AgentUnderTest, box: str) -> None:
    count = 60_000
    with Shell(agent, box, "seq", str(count)) as shell:
        seen = shell.rest(60).replace(b"\r\n", b"\n")
    assert seen == b"".join(b"%d\n" % number for number in range(1, count + 1))


def test_a_slow_reader_holds_the_writer_and_loses_nothing(agent: AgentUnderTest, box: str) -> None:
    count = 400_000
    with Shell(agent, box, "seq", str(count)) as shell:
        time.sleep(0.5)  # far more than the buffers take is waiting by now
        assert shell.view()["running"]
        pieces = shell.rest(60)
    assert pieces.replace(b"\r\n", b"\n") == b"".join(b"%d\n" % number for number in range(1, count + 1))


def test_input_faster_than_it_is_read_arrives_whole(agent: AgentUnderTest, box: str) -> None:
    with Shell(agent, box, "sh", "-c", "stty raw -echo; echo ready; head -c 300000 | md5sum") as shell:
        shell.until("ready")
        shell.send("0123456789" * 30_000)
        seen = shell.until("  -")
    expected = run(agent, box, "md5sum", stdin="0123456789" * 30_000)["stdout"].split()[0]
    assert expected in seen


def test_many_shells_at_once_do_not_mix(agent: AgentUnderTest, box: str) -> None:
    shells = [Shell(agent, box) for _ in range(12)]
    try:
        for number, shell in enumerate(shells):
            shell.send(f"x={number}; while read y; do echo mine $x $y; done\n")
        for round_ in range(3):
            for shell in shells:
                shell.send(f"r{round_}\n")
        for number, shell in enumerate(shells):
            seen = shell.until(f"mine {number} r2\r\n")
            assert set(re.findall(r"mine (\d+) r", seen)) == {str(number)}
        assert len({shell.id for shell in shells}) == len(shells)
    finally:
        for shell in shells:
            shell.close()


def test_environment_directory_and_user_are_those_asked_for(agent: AgentUnderTest, box: str) -> None:
    script = "echo $COLOUR; pwd; id -u; id -g; tty; echo $TERM"
    options = {"env": {"COLOUR": "blue"}, "workdir": "/tmp", "user": "1000:1001"}
    with Shell(agent, box, "sh", "-c", script, **options) as shell:
        lines = shell.rest().decode().split()
    assert lines[:4] == ["blue", "/tmp", "1000", "1001"]
    assert lines[4].startswith("/dev/pts/")
    assert lines[5] == "xterm"


def test_a_user_can_write_to_its_terminal(agent: AgentUnderTest, box: str) -> None:
    with Shell(
        agent, box, "sh", "-c", "echo a > /dev/tty; echo b > $(tty); echo c > /dev/stdout", user="1000"
    ) as shell:
        assert shell.rest() == b"a\r\nb\r\nc\r\n"


@pytest.mark.parametrize(
    ("argv", "options", "status", "words"),
    [
        (["no-such-command"], {}, 400, ["no-such-command", "not found"]),
        (["/etc"], {}, 400, ["/etc", "permission denied"]),
        (["sh"], {"user": "ghost"}, 500, ["ghost"]),
        (["sh"], {"workdir": "/etc/passwd"}, 500, ["/etc/passwd"]),
        ([], {}, 400, ["argv"]),
        (["sh"], {"cols": -1}, 400, ["cols"]),
        (["sh"], {"unknown": 1}, 400, ["unknown"]),
    ],
)
def test_what_cannot_be_run_is_said_instead_of_an_upgrade(
    agent: AgentUnderTest,
    box: str,
    argv: list[str],
    options: dict[str, object],
    status: int,
    words: list[str],
) -> None:
    response = agent.request(
        "POST",
        f"/mooring/v1/containers/{box}/shell",
        {"argv": argv, **options},
        headers={"Connection": "Upgrade", "Upgrade": "mooring-stream"},
    )
    message = response.json()["message"]
    assert (400 <= response.status < 600, response.status < 500 or status == 500) == (True, True)
    for word in words:
        assert word in message
    assert "\n" not in message
    assert "Errno" not in message


def test_without_an_upgrade_it_is_refused_with_how(agent: AgentUnderTest, box: str) -> None:
    response = agent.request("POST", f"/mooring/v1/containers/{box}/shell", {"argv": ["sh"]})
    assert response.status == 426
    assert "Upgrade: mooring-stream" in response.json()["message"]


def test_an_exec_that_is_not_there_is_named(agent: AgentUnderTest) -> None:
    for method, path in (("GET", ""), ("GET", "/foreground"), ("POST", "/resize"), ("POST", "/signal")):
        body = (
            {"rows": 1, "cols": 1} if path == "/resize" else {"signal": "INT"} if path == "/signal" else None
        )
        response = agent.request(method, f"/mooring/v1/execs/nowhere{path}", body)
        assert response.status == 404
        assert "nowhere" in response.json()["message"]


def test_a_stopped_container_takes_no_shell_and_ends_those_it_has(agent: AgentUnderTest, box: str) -> None:
    agent.api("PUT", "/mooring/v1/containers/brief", {"image": "busybox", "command": ["sleep", "60"]})
    try:
        with Shell(agent, "brief") as shell:
            shell.until("# ")
            agent.api("POST", "/mooring/v1/containers/brief/stop?timeout=0")
            shell.rest()
            eventually(lambda: shell.view()["exit_code"] == 137)
        refused = Shell(agent, "brief")
        assert refused.status == 409
        refused.close()
    finally:
        agent.api("DELETE", "/mooring/v1/containers/brief")


def test_a_hundred_shells_leave_no_descriptor(agent: AgentUnderTest, box: str) -> None:
    """Some end by themselves, some are left by their client, some never start."""

    def opened() -> list[int]:
        assert agent.process is not None
        keeper = agent.api("GET", "/mooring/v1/host")["keeper"]
        pids = (agent.process.pid, keeper["pid"], keeper["guardian_pid"])
        return [len(os.listdir(f"/proc/{pid}/fd")) for pid in pids]

    def some(count: int) -> None:
        left = []
        for number in range(count):
            if number % 3 == 0:
                with Shell(agent, box, "true") as shell:
                    shell.rest()
            elif number % 3 == 1:
                shell = Shell(agent, box, "sh")
                left.append(shell)
            else:
                Shell(agent, box, "no-such-command").close()
        for shell in left:
            shell.call("signal", signal="KILL", target="leader")
            shell.close()

    some(12)
    before = settled(opened)
    some(99)
    eventually(
        lambda: all(now <= then + 2 for now, then in zip(opened(), before, strict=True)), 10, str(before)
    )
