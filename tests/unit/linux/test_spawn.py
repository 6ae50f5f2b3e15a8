# SPDX-License-Identifier: Apache-2.0
"""Starting a program as a sibling: whose child it is, what it gets, and what is said when it cannot be."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from harness.forked import fork
from mooring_agent.linux import spawn

pytestmark = pytest.mark.skipif(not spawn.available, reason="the C library has no contexts, makecontext(3)")


def sibling(path: str, *argv: str, **environment: str) -> tuple[int, int, bytes]:
    """Have a child spawn it, which makes it a child of this process: its status, what was answered, and what
    it wrote."""
    answers, answer = os.pipe()
    output, written = os.pipe()
    child = fork()
    if child == 0:
        os.dup2(written, 1)
        pid, number = spawn.spawn_sibling(path, (path, *argv), environment)
        os.write(answer, f"{pid} {number}".encode())
        os._exit(0)
    os.close(answer)
    os.close(written)
    assert os.waitpid(child, 0)[1] == 0
    pid, number = map(int, os.read(answers, 64).split())
    with open(output, "rb") as pipe:
        said = pipe.read()
    os.close(answers)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), number, said


def test_it_is_a_child_of_the_caller_s_parent() -> None:
    assert sibling("/bin/sh", "-c", "exit 7") == (7, 0, b"")


def test_it_gets_arguments_and_environment() -> None:
    status, _, said = sibling("/bin/sh", "-c", 'echo "$1/$COLOUR"', "sh", "ä b", COLOUR="grün")
    assert (status, said.decode()) == (0, "ä b/grün\n")


def test_it_leads_a_session_of_its_own() -> None:
    _, _, said = sibling("/bin/sh", "-c", "read -r stat </proc/self/stat; echo $$; echo ${stat##*)}")
    pid, fields = said.decode().splitlines()
    assert fields.split()[3] == pid  # field 6 of proc(5) stat


@pytest.mark.parametrize(
    ("content", "number"), [(None, errno.ENOENT), (b"\0\0", errno.ENOEXEC), (b"#!/no/such\n", errno.ENOENT)]
)
def test_one_that_cannot_be_executed_has_ended(tmp_path: Path, content: bytes | None, number: int) -> None:
    program = tmp_path / "program"
    if content is not None:
        program.write_bytes(content)
        program.chmod(0o755)
    assert sibling(str(program)) == (127, number, b"")


def test_a_text_with_nul_is_not_cut_off() -> None:
    with pytest.raises(ValueError, match="NUL"):
        spawn.spawn_sibling("/bin/true", ("true", "a\0b"), {})
    with pytest.raises(ValueError, match="NUL"):
        spawn.spawn_sibling("/bin/\0true", ("true",), {})
