# SPDX-License-Identifier: Apache-2.0
"""Programs that are run for a work that may be cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mooring_agent.images.turns import Stop

_LOOK = 0.2  # seconds between two looks at whether it is wanted any more


def run_program(
    command: Sequence[str],
    stop: Stop,
    seconds: float,
    *,
    directory: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end, without a terminal or input, and return what it wrote.

    Raises subprocess.TimeoutExpired after so many seconds, Cancelled as `stop` says; then it is killed, with
    what it has started.
    """
    deadline = time.monotonic() + seconds
    with subprocess.Popen(
        command,
        cwd=directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            while True:
                with suppress(subprocess.TimeoutExpired):
                    output, errors = process.communicate(timeout=_LOOK)
                    return subprocess.CompletedProcess(command, process.returncode, output, errors)
                stop.check()
                if time.monotonic() > deadline:
                    raise subprocess.TimeoutExpired(command, seconds)
        except BaseException:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
