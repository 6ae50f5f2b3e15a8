# SPDX-License-Identifier: Apache-2.0
"""Containers whose output goes to a real journal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.host import need_programs
from harness.journald import PROGRAM, Journald
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.docker]

FLOOD_LINES = 20_000


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    """Return a journal of this test's own."""
    need_programs(PROGRAM, "journalctl", "nsenter", "unshare")
    journal = Journald(tmp_path)
    yield journal
    journal.close()


@pytest.fixture
def agent(journald: Journald, start_agent: Callable[..., AgentUnderTest]) -> AgentUnderTest:
    """Return an agent that has that journal."""
    return start_agent(program=(*journald.enter, sys.executable, "-m", "mooring_agent"))


def test_an_entry_tells_all_of_a_line(agent: AgentUnderTest, journald: Journald) -> None:
    long = 40_000
    words = "echo one; sleep 0.2; echo two >&2; sleep 0.2"
    script = f"{words}; head -c {long} /dev/zero | tr '\\0' x; echo; printf end"
    options = [
        *("--log-driver", "journald", "--log-opt", "tag={{.Name}}!", "--log-opt", "labels=com.example.who"),
        *(
            "--log-opt",
            "env=LINES_OF_ITS_OWN",
            "-e",
            "LINES_OF_ITS_OWN=a\nb",
            "--label",
            "com.example.who=me",
        ),
    ]
    id = agent.docker("run", "-d", "--name", "talks", *options, "busybox", "sh", "-c", script).stdout.strip()
    agent.docker("wait", "talks")

    def entries() -> list[dict[str, str]]:
        found = journald.entries(f"CONTAINER_ID_FULL={id}")
        assert found
        assert found[-1]["MESSAGE"] == "end"
        return found

    one, two, *parts, end = eventually(entries)
    assert one["MESSAGE"] == "one"
    assert one["PRIORITY"] == "6"
    assert two["MESSAGE"] == "two"
    assert two["PRIORITY"] == "3"
    for entry in (one, two, end):
        assert entry["CONTAINER_ID"] == id[:12]
        assert entry["CONTAINER_NAME"] == "talks"
        assert entry["CONTAINER_TAG"] == entry["SYSLOG_IDENTIFIER"] == "talks!"
        assert entry["IMAGE_NAME"] == "busybox"
        assert entry["COM_EXAMPLE_WHO"] == "me"
        assert entry["LINES_OF_ITS_OWN"] == "a\nb"
        assert "CONTAINER_PARTIAL_MESSAGE" not in entry
    assert [part.get("CONTAINER_PARTIAL_MESSAGE") for part in parts] == ["true", "true", None]
    assert "".join(part["MESSAGE"] for part in parts) == "x" * long
    assert agent.docker("logs", "talks").stdout.startswith("one\n")


def test_what_is_too_long_for_a_datagram_arrives(agent: AgentUnderTest, journald: Journald) -> None:
    labels = [part for number in range(20) for part in ("--label", f"l{number}={'v' * 20_000}")]
    options = ["--log-driver", "journald", "--log-opt", "labels-regex=^l"]
    agent.docker("run", "--name", "wide", *options, *labels, "busybox", "echo", "hello")
    found = eventually(lambda: journald.entries("CONTAINER_NAME=wide"))
    assert found[0]["MESSAGE"] == "hello"
    assert found[0]["L19"] == "v" * 20_000


def test_no_line_is_lost_to_a_killed_agent(agent: AgentUnderTest, journald: Journald) -> None:
    program = f"BEGIN {{ for (i = 0; i < {FLOOD_LINES}; i++) print i }}"
    agent.docker("run", "-d", "--name", "flood", "--log-driver", "journald", "busybox", "awk", program)
    eventually(lambda: journald.entries("CONTAINER_NAME=flood"))
    agent.kill9()
    agent.start()
    eventually(lambda: journald.entries("CONTAINER_NAME=flood", f"MESSAGE={FLOOD_LINES - 1}"), timeout=30)
    found = [int(entry["MESSAGE"]) for entry in journald.entries("CONTAINER_NAME=flood")]
    assert set(found) == set(range(FLOOD_LINES))


def test_a_journal_that_goes_and_returns_gets_what_was_written_meanwhile(
    agent: AgentUnderTest, journald: Journald
) -> None:
    agent.docker("run", "-di", "--name", "echoing", "--log-driver", "journald", "busybox", "cat")
    agent.docker("exec", "echoing", "sh", "-c", "echo before > /proc/1/fd/1")
    eventually(lambda: journald.entries("MESSAGE=before"))
    journald.kill()
    agent.docker("exec", "echoing", "sh", "-c", "echo meanwhile > /proc/1/fd/1")
    eventually(lambda: "log receiver unreachable receiver=journald" in agent.log_tail())
    journald.start()
    eventually(lambda: journald.entries("CONTAINER_NAME=echoing", "MESSAGE=meanwhile"))
