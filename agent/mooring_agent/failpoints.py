# SPDX-License-Identifier: Apache-2.0
"""Places at which a test may have a process of Mooring die, as `kill -9` would have it.

`MOORING_FAIL_POINTS` names a file. While that holds `NAME` or `NAME:N`, the process that reaches the point
NAME (for the Nth time) removes the file and kills itself: once, so that whoever takes its place lives.
Without the variable, which is looked at when this is imported, a point is a call that does nothing.
"""

from __future__ import annotations

import _thread
import os
import signal

VARIABLE = "MOORING_FAIL_POINTS"
_file = os.environ.get(VARIABLE, "")
_counting = _thread.allocate_lock()  # the module threading would cost a launcher its import


def _nothing(_name: str) -> None:
    return


def _die(name: str) -> None:
    with _counting:
        try:
            with open(_file, encoding="utf-8") as file:
                wanted, _, count = file.read().strip().partition(":")
        except FileNotFoundError:
            return
        if wanted != name:
            return
        if count and int(count) > 1:
            with open(_file, "w", encoding="utf-8") as file:
                file.write(f"{name}:{int(count) - 1}")
            return
        os.unlink(_file)
        os.kill(os.getpid(), signal.SIGKILL)


reached = _die if _file else _nothing
