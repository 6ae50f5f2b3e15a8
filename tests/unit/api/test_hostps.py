# SPDX-License-Identifier: Apache-2.0
"""What ps says of some processes, and which arguments it is given."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.docker.hostps import table, words
from mooring_agent.errors import InvalidSpec

OUTPUT = """USER       PID COMMAND
root        10 sleep 1  2
root         - -
root        11 other
root         - -
app         12 last one
"""


def test_rows_are_those_of_the_processes_and_their_threads() -> None:
    titles, rows = table(OUTPUT, [10, 12])
    assert titles == ["USER", "PID", "COMMAND"]
    assert rows == [["root", "10", "sleep 1  2"], ["root", "-", "-"], ["app", "12", "last one"]]


@pytest.mark.parametrize("output", ["", "USER COMMAND\nroot x\n"])
def test_without_the_column_nothing_can_be_told(output: str) -> None:
    with pytest.raises(InvalidSpec, match="Couldn't find PID field"):
        table(output, [1])


@given(st.text(), st.sets(st.integers(1, 99)))
def test_any_output_is_read_or_refused(output: str, pids: set[int]) -> None:
    try:
        titles, rows = table(output, pids)
    except InvalidSpec:
        return
    assert all(len(row) <= len(titles) for row in rows)


@pytest.mark.parametrize("arguments", ["aux", "-o pid,args", "-o pid=PID,args", "-ef  --forest"])
def test_arguments_that_are_taken(arguments: str) -> None:
    assert words(arguments) == arguments.split()


@pytest.mark.parametrize("arguments", ["-o user=PID", "-ocomm=PID", "-o ppid=PID", "-o pid,uid=PIDX", "a\0b"])
def test_arguments_that_are_refused(arguments: str) -> None:
    with pytest.raises(InvalidSpec):
        words(arguments)
