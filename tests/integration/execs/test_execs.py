# SPDX-License-Identifier: Apache-2.0
"""Commands in containers, captured: many at once, large, slow, ill-behaved."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE, eventually

from .shells import run, view

pytestmark = pytest.mark.root


def test_fifty_at_once_each_have_their_own_code_and_output(agent: AgentUnderTest, box: str) -> None:
    def one(number: int) -> dict[str, Any]:
        script = f"echo out {number}; echo err {number} >&2; exit {number}"
        return run(agent, box, "sh", "-c", script)

    with ThreadPoolExecutor(50) as pool:
        results = list(pool.map(one, range(50)))
    for number, found in enumerate(results):
        assert found == {
            "exit_code": number,
            "stdout": f"out {number}\n",
            "stderr": f"err {number}\n",
            "truncated": False,
            "timed_out": False,
        }


def test_fifty_at_once_while_the_keeper_is_killed_end_with_an_answer(agent: AgentUnderTest, box: str) -> None:
    """Each is either answered in full or refused; none hangs, and the container goes on."""
    pid = view(agent, box)["pid"]

    def one(number: int) -> Any:
        return agent.request(
            "POST",
            f"/mooring/v1/containers/{box}/exec",
            {"argv": ["sh", "-c", f"sleep 0.{number % 10}; echo {number}"]},
            timeout=40.0 * PATIENCE,
        )

    with ThreadPoolExecutor(50) as pool:
        calls = [pool.submit(one, number) for number in range(50)]
        time.sleep(0.3)
        os.kill(agent.api("GET", "/mooring/v1/host")["keeper"]["pid"], 9)
        answers = [call.result(40 * PATIENCE) for call in calls]
    for number, answer in enumerate(answers):
        if answer.status == 200:
            assert answer.json()["stdout"] == f"{number}\n"
        else:
            assert answer.status == 503
            assert "keeper" in answer.json()["message"]
    assert view(agent, box)["pid"] == pid
    agent.keeper_pids()
    assert run(agent, box, "echo", "after")["stdout"] == "after\n"


def test_large_input_and_output_are_whole(agent: AgentUnderTest, box: str) -> None:
    text = "".join(f"{number:07d}\n" for number in range(400_000))  # 3.2 MB
    found = run(agent, box, "cat", stdin=text, max_output=8 << 20)
    assert hashlib.md5(found["stdout"].encode()).digest() == hashlib.md5(text.encode()).digest()
    assert not found["truncated"]


def test_what_is_over_the_limit_is_cut_and_the_command_goes_on(agent: AgentUnderTest, box: str) -> None:
    found = run(agent, box, "sh", "-c", "seq 200000; echo end >&2; exit 3", max_output=100)
    assert (len(found["stdout"]), found["truncated"], found["exit_code"]) == (100, True, 3)
    assert found["stderr"] == "end\n"
    nothing = run(agent, box, "echo", "x", max_output=0)
    assert (nothing["stdout"], nothing["truncated"]) == ("", True)


def test_bytes_that_are_no_text_do_not_break_the_answer(agent: AgentUnderTest, box: str) -> None:
    found = run(agent, box, "printf", r"a\377\376b\0c")
    assert found["stdout"] == "a��b\0c"


def test_input_that_is_not_read_does_not_hold_it_up(agent: AgentUnderTest, box: str) -> None:
    assert run(agent, box, "true", stdin="x" * 1_000_000)["exit_code"] == 0
    assert run(agent, box, "head", "-c", "3", stdin="abc" * 300_000)["stdout"] == "abc"


def test_without_input_there_is_none(agent: AgentUnderTest, box: str) -> None:
    assert run(agent, box, "cat") == {
        "exit_code": 0,
        "stdout": "",
        "stderr": "",
        "truncated": False,
        "timed_out": False,
    }


def test_a_deadline_kills_it(agent: AgentUnderTest, box: str) -> None:
    begun = time.monotonic()
    script = "trap '' TERM INT; echo begun; sleep 600"
    found = run(agent, box, "sh", "-c", script, timeout=0.5 * PATIENCE)
    assert (found["timed_out"], found["exit_code"], found["stdout"]) == (True, 137, "begun\n")
    assert time.monotonic() - begun < 6 * PATIENCE


def test_what_it_left_in_the_background_does_not_hold_it_up(agent: AgentUnderTest, box: str) -> None:
    begun = time.monotonic()
    found = run(agent, box, "sh", "-c", "sleep 30 & echo done")
    assert found["stdout"] == "done\n"
    flood = run(agent, box, "sh", "-c", "echo first; (while :; do echo y; done) & exit 5", max_output=1000)
    assert flood["exit_code"] == 5
    assert flood["stdout"].startswith("first\n")
    assert time.monotonic() - begun < 15
    gone = ["sh", "-c", "! ps | grep -q '[e]cho first'"]
    eventually(lambda: run(agent, box, *gone)["exit_code"] == 0, what="the flood's end")


def test_a_client_that_leaves_keeps_nothing_open(agent: AgentUnderTest, box: str) -> None:
    assert agent.process is not None
    before = len(os.listdir(f"/proc/{agent.process.pid}/fd"))
    for _ in range(5):
        with pytest.raises(TimeoutError):
            agent.request("POST", f"/mooring/v1/containers/{box}/exec", {"argv": ["sleep", "1"]}, timeout=0.1)
    agent_pid = agent.process.pid
    eventually(lambda: len(os.listdir(f"/proc/{agent_pid}/fd")) <= before + 1, 10)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["no-such-command"], ["no-such-command", "not found"]),
        (["/etc/passwd"], ["/etc/passwd", "permission denied"]),
        (["./x"], ["./x", "no such file"]),
        ([""], ["argv"]),
    ],
)
def test_what_cannot_run_is_one_clear_sentence(
    agent: AgentUnderTest, box: str, argv: list[str], words: list[str]
) -> None:
    response = agent.request("POST", f"/mooring/v1/containers/{box}/exec", {"argv": argv})
    assert response.status == 400
    message = response.json()["message"]
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_word_with_a_null_byte_is_refused(agent: AgentUnderTest, box: str) -> None:
    response = agent.request("POST", f"/mooring/v1/containers/{box}/exec", {"argv": ["echo", "a\0b"]})
    assert response.status < 600
    assert "null" in response.json()["message"] or "NUL" in response.json()["message"]


def test_a_user_s_path_that_is_closed_to_it_is_passed_over(agent: AgentUnderTest, box: str) -> None:
    run(agent, box, "mkdir", "-p", "-m", "700", "/root/bin")
    found = run(agent, box, "id", "-u", user="1000", env={"PATH": "/root/bin:/bin:/usr/bin"})
    assert found["stdout"] == "1000\n"


def test_memory_does_not_grow_with_commands(agent: AgentUnderTest, box: str) -> None:
    assert agent.process is not None
    status = Path(f"/proc/{agent.process.pid}/status")

    def resident() -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon"))
        return int(line.split()[1]) << 10

    def some(count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            for number in range(count):
                argv = ["true"] if number % 4 else ["no-such-command"]
                pool.submit(agent.request, "POST", f"/mooring/v1/containers/{box}/exec", {"argv": argv})

    some(700)  # more than the finished ones that are remembered
    before = resident()
    some(500)
    assert resident() - before < 2 << 20


def test_others_are_answered_while_one_floods(agent: AgentUnderTest, box: str) -> None:
    stop = threading.Event()
    delays: list[float] = []

    def ask() -> None:
        while not stop.is_set():
            begun = time.monotonic()
            agent.request("GET", "/_ping")
            delays.append(time.monotonic() - begun)

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        while True:
            run(agent, box, "sh", "-c", "seq 3000000", max_output=1000)
            if len(delays) > 20:
                break
    finally:
        stop.set()
        asking.join()
    delays.sort()
    assert delays[len(delays) // 2] < 0.1
