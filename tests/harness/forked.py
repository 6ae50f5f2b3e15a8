# SPDX-License-Identifier: Apache-2.0
"""Running a function in a forked child: for code that changes its process for good, or replaces it."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any

from harness.waiting import PATIENCE

_EXCEPTION_STATUS = 99


class ChildFailed(AssertionError):
    """The function raised something in the child, or did not end in time."""


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status as a shell gives it, and what it wrote to both streams."""

    status: int
    output: str


def fork() -> int:
    """os.fork without the warning that newer Pythons give where other tests have left a thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def in_child(work: Callable[[], Any], timeout: float = 20.0 * PATIENCE) -> Any:
    """Return what `work` returns in a forked child, JSON data. Raises ChildFailed with its traceback."""
    ended = run_child(lambda: os.write(1, f"\n{json.dumps(work())}".encode()), timeout)
    if ended.status != 0:
        raise ChildFailed(f"the child ended with {ended.status}:\n{ended.output}")
    return json.loads(ended.output.splitlines()[-1])


def run_child(work: Callable[[], Any], timeout: float = 20.0 * PATIENCE) -> Ended:
    """Run `work` in a forked child that may also execve or exit. Raises ChildFailed after `timeout` s."""
    reader, writer = os.pipe()
    pid = fork()
    if pid == 0:
        _be_child(work, writer)
    os.close(writer)
    output, deadline = b"", time.monotonic() + timeout
    try:
        while True:
            if not wait([reader], max(0.0, deadline - time.monotonic())):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                raise ChildFailed(f"the child did not end within {timeout:g} s:\n{output.decode()}")
            piece = os.read(reader, 1 << 16)
            if not piece:
                break
            output += piece
    finally:
        os.close(reader)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Ended(code if code >= 0 else 128 - code, output.decode(errors="replace"))


def _be_child(work: Callable[[], Any], writer: int) -> None:
    status = _EXCEPTION_STATUS
    try:
        os.dup2(writer, 1)
        os.dup2(writer, 2)
        os.close(writer)
        work()
        status = 0
    except BaseException:  # noqa: BLE001 (it must not unwind into the test runner that this is a copy of)
        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(status)
