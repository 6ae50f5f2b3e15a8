# SPDX-License-Identifier: Apache-2.0
"""The state directory, and what a name or a signal may be."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from mooring_agent.errors import Conflict, InvalidSpec, NotFound
from mooring_agent.oci.ending import parse_signal
from mooring_agent.oci.states import Directory, State, all_ids, check_id, is_alive, status_of
from mooring_agent.runtime.join import start_time


def test_a_state_is_kept_as_it_is_and_gone_when_removed(tmp_path: Path) -> None:
    directory = Directory(str(tmp_path), "one")
    directory.make()
    state = State("one", "/bundle", annotations={"a": "b"}, pid=7, groups=(("/sys/fs/cgroup/x", 2),))
    directory.save(state)
    assert directory.load() == state
    assert all_ids(str(tmp_path)) == ["one"]
    with pytest.raises(Conflict, match="one"):
        directory.make()
    with directory.locked():
        directory.remove()
    assert os.listdir(tmp_path) == []
    with pytest.raises(NotFound, match="one"):
        directory.load()


@pytest.mark.parametrize("id", ["", ".", "..", ".x", "a/b", "a b", "ä", "x" * 1025, "a\n"])
def test_a_name_that_is_no_directory_s_is_refused(id: str) -> None:
    with pytest.raises(InvalidSpec, match="container ID"):
        check_id(id)


def test_a_process_that_got_the_number_is_not_the_container_s(tmp_path: Path) -> None:
    directory = Directory(str(tmp_path), "one")
    directory.make()
    with subprocess.Popen(["sleep", "100"]) as process:
        state = State("one", "", pid=process.pid, start_time=start_time(process.pid), created="now")
        assert is_alive(state)
        assert not is_alive(State("one", "", pid=process.pid, start_time=state.start_time + 1))
        assert status_of(directory, state) == "running"
        process.kill()
        process.wait()
    assert status_of(directory, state) == "stopped"


@pytest.mark.parametrize(
    ("text", "number"),
    [("9", 9), ("KILL", 9), ("SIGKILL", 9), ("sigterm", 15), ("RTMIN+1", signal.SIGRTMIN + 1)],
)
def test_signals_have_numbers_and_names(text: str, number: int) -> None:
    assert parse_signal(text) == number


@pytest.mark.parametrize("text", ["", "0", "65", "INVALID", "-1", "9.5", "TERM+x"])
def test_what_is_no_signal_is_refused(text: str) -> None:
    with pytest.raises(InvalidSpec, match="unknown signal"):
        parse_signal(text)
