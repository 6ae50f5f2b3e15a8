# SPDX-License-Identifier: Apache-2.0
"""Executing at a word after the memory has been given away: what is run, what is left meanwhile, and what
happens without a word."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.forked import fork
from harness.waiting import eventually
from mooring_agent.linux import lean

pytestmark = pytest.mark.skipif(not lean.available, reason="the C library has no contexts, makecontext(3)")


@dataclass
class Waiting:
    """A process that waits for its word: its pid, the other end of its channel, what it writes."""

    pid: int
    channel: socket.socket
    output: int

    def packets(self) -> list[bytes]:
        """What it says until the channel ends."""
        return list(iter(lambda: self.channel.recv(64), b""))

    def status(self) -> int:
        """How it ended."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def said(self) -> bytes:
        """What the program wrote."""
        with open(self.output, "rb", closefd=False) as output:
            return output.read()


@contextmanager
def waiting(path: str, *argv: str, environment: Mapping[str, str] = {}) -> Iterator[Waiting]:
    """A child that is to run `path`."""
    before = list(lean._memory)
    lean.survey()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(20)
    output, written = os.pipe()
    pid = fork()
    if pid == 0:
        ours.close()
        os.dup2(written, 1)
        os.close(written)
        lean.execute_at_word(theirs.fileno(), path, (path, *argv), environment, b"going", b"failed")
    theirs.close()
    os.close(written)
    lean._memory[:] = before
    with ours:
        yield Waiting(pid, ours, output)
    os.close(output)


def test_it_runs_the_program_at_the_word() -> None:
    script = 'echo "$1/$COLOUR/$#"'
    with waiting("/bin/sh", "-c", script, "sh", "ä b", environment={"COLOUR": "grün"}) as process:
        process.channel.send(lean.WORD)
        assert process.packets() == [b"going"]
        assert process.said().decode() == "ä b/grün/1\n"
        assert process.status() == 0


def test_it_keeps_its_identity() -> None:
    with waiting("/bin/sh", "-c", "echo $$") as process:
        process.channel.send(lean.WORD)
        assert process.packets() == [b"going"]
        assert int(process.said()) == process.pid
        process.status()


def test_what_waits_has_nothing_but_the_c_library() -> None:
    def files() -> set[str]:
        lines = Path(f"/proc/{process.pid}/maps").read_text().splitlines()
        return {os.path.basename(line.split(None, 5)[5]) for line in lines if "/" in line}

    def anonymous() -> int:
        status = Path(f"/proc/{process.pid}/status").read_text()
        return int(next(line for line in status.splitlines() if line.startswith("RssAnon")).split()[1])

    with waiting("/bin/true") as process:
        eventually(lambda: len(files()) <= 2, what="its memory to be given away")
        assert not any("python" in name for name in files())
        # KiB; a forked Python has some thousands. Its files may have gone before the rest.
        eventually(lambda: anonymous() < 512, what="all of its memory to be given away")
        process.channel.send(lean.WORD)
        assert process.packets() == [b"going"]
        assert process.status() == 0


def test_without_a_word_nothing_is_executed(tmp_path: Path) -> None:
    with waiting("/usr/bin/touch", str(tmp_path / "touched")) as process:
        process.channel.close()
        assert process.status() == 0
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("content", [None, b"\0\0", b"#!/no/such\n"])
def test_one_that_cannot_be_executed_says_so(tmp_path: Path, content: bytes | None) -> None:
    program = tmp_path / "program"
    if content is not None:
        program.write_bytes(content)
        program.chmod(0o755)
    with waiting(str(program)) as process:
        process.channel.send(lean.WORD)
        assert process.packets() == [b"going", b"failed"]
        assert process.status() == 0


def test_long_arguments_arrive_whole() -> None:
    longest = "ä" * 60_000  # one argument may have 128 KiB, execve(2)
    with waiting("/bin/sh", "-c", 'for each; do echo "${#each}"; done', "sh", *[longest] * 10) as process:
        process.channel.send(lean.WORD)
        assert process.packets() == [b"going"]
        assert len(set(process.said().splitlines())) == 1
        process.status()


def test_a_text_with_nul_is_not_cut_off() -> None:
    lean.survey()
    for path, argument, variable in [("/bin/\0", "a", "b"), ("/bin/true", "a\0", "b"), ("/a", "a", "\0")]:
        with pytest.raises(ValueError, match="NUL"):
            lean.execute_at_word(-1, path, (argument,), {"NAME": variable}, b"", b"")


def test_relative_paths_and_processes_that_were_not_memory_wait_with_python() -> None:
    before = list(lean._memory)
    try:
        lean._memory.clear()
        assert not lean.can_wait("/bin/true")
        lean.survey()
        assert lean.can_wait("/bin/true")
        assert not lean.can_wait("./true")
    finally:
        lean._memory[:] = before


_BOUNDS = st.lists(st.integers(1, 1000), min_size=4, max_size=20, unique=True).map(sorted)


@given(_BOUNDS, st.data())
def test_what_goes_and_what_stays_is_everything_once(bounds: list[int], data: st.DataObject) -> None:
    pairs = list(zip(bounds[0::2], bounds[1::2], strict=False))
    mine = data.draw(st.sampled_from(pairs))
    memory = lean.Memory(min(bounds), max(bounds), tuple(pair for pair in pairs if pair != mine))
    gone = {at for start, length in memory.gaps(mine) for at in range(start, start + length)}
    kept = {at for start, end in pairs for at in range(start, end)}
    assert not gone & kept
    assert gone | kept == set(range(min(bounds), max(bounds)))
    assert all(length > 0 for _, length in memory.gaps(mine))
