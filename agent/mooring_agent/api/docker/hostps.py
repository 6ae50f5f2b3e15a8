# SPDX-License-Identifier: Apache-2.0
"""What `docker top CONTAINER ARGUMENTS` shows: what the host's ps(1) says of a container's processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress

from ...errors import InvalidSpec, MissingProgram, Unavailable

_SECONDS = 10.0
# One argument may be as long, MAX_ARG_STRLEN of linux/binfmts.h.
_LONGEST_ARGUMENT = 128 << 10
_LONGEST_SAID = 200
# Another column that is called PID would be taken for it.
_CALLED_PID = re.compile(r"(?:^|\s)(\S*)=\s*(PID\S*)")


class PsFailed(InvalidSpec):
    """ps has refused its arguments."""


def words(arguments: str) -> list[str]:
    """The arguments of a ps_args, split at white space, as dockerd does. Raises InvalidSpec."""
    if "\0" in arguments:
        raise InvalidSpec("ps_args has a NUL byte, which no argument can have; remove it")
    for column, title in _CALLED_PID.findall(arguments):
        if column.rpartition(",")[2].removeprefix("-o") != "pid":
            raise InvalidSpec(f'specifying "{column}={title}" is not allowed: it hides the column PID')
    return arguments.split()


def table(output: str, pids: Iterable[int]) -> tuple[list[str], list[list[str]]]:
    """The titles of what ps wrote, and the rows of these processes; the last column has spaces. Raises
    InvalidSpec where there is no column PID. Pure.
    """
    lines = output.splitlines()
    titles = lines[0].split() if lines else []
    if "PID" not in titles:
        raise InvalidSpec("Couldn't find PID field in ps output: give ps_args with which ps shows it")
    column, wanted = titles.index("PID"), {str(pid) for pid in pids}
    rows: list[list[str]] = []
    inside = False
    for line in lines[1:]:
        cells = line.split(None, len(titles) - 1)
        if len(cells) <= column:
            continue
        # Threads of a process follow it, and have "-" for a number.
        inside = cells[column] in wanted or (cells[column] == "-" and inside)
        if inside:
            rows.append([cell.rstrip() for cell in cells])
    return titles, rows


async def run(arguments: Sequence[str], pids: Sequence[int]) -> str:
    """What ps writes, of these processes alone where it can. Raises MissingProgram, PsFailed, Unavailable."""
    chosen = "-q" + ",".join(map(str, pids))
    if len(chosen) < _LONGEST_ARGUMENT:
        try:
            return await _run([*arguments, chosen])
        except PsFailed:
            pass  # some arguments, as dockerd knows too, cannot be together with a choice of processes
    return await _run(arguments)


async def _run(arguments: Sequence[str]) -> str:
    try:
        process = await asyncio.create_subprocess_exec(
            "ps",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "COLUMNS": "10000"},
            cwd="/",
        )
    except FileNotFoundError:
        raise MissingProgram(
            "this host has no program ps, which ps_args are for: install procps, or leave them out"
        ) from None
    try:
        async with asyncio.timeout(_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise Unavailable(f"ps has not ended within {_SECONDS:g} s; leave ps_args out") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(signal.SIGKILL)
            await process.wait()
    if process.returncode != 0:
        said = errors.decode(errors="replace").strip().partition("\n")[0][:_LONGEST_SAID]
        raise PsFailed(f"ps: {said or f'it ended with {process.returncode}'}: give other ps_args")
    return output.decode(errors="replace")
