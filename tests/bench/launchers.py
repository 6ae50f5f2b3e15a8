# SPDX-License-Identifier: Apache-2.0
"""How fast the process of a container runs that is all prepared: the agent's start beside that of programs
which do nothing else. No container has a network but loopback.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from bench import peers
from bench.engine_api import EngineApi
from bench.report import Row, alternate, latency, say, timed

_SLEEP = ["sleep", "600"]
_PAUSE = 0.1
_FASTER = 1.0


def measure(socket: Path, base: Path, rootfs: Path, count: int) -> list[Row]:
    """A row for each that runs here: `runc run`, `crun run` and `lxc-start`, each of them until the process
    runs.
    """
    rows = []
    api = EngineApi(socket)
    numbers = itertools.count()

    def ours() -> float:
        identifier = api.create(f"bare{next(numbers)}", "bench", _SLEEP, "none")
        seconds = timed(lambda: api.start(identifier))
        api.remove(identifier)
        return seconds

    for name in ("runc run", "crun run", "lxc-start"):
        with ExitStack() as stack:
            try:
                program = name.partition(" ")[0]
                lxc = name == "lxc-start"
                theirs = _lxc(stack, base, rootfs) if lxc else _runtime(program, base, rootfs)
                say(f"bare start, beside {name}")
                for warm in (ours, theirs):
                    warm()
                mine, other = alternate(count, ours, theirs, pause=_PAUSE)
            except (peers.PeerMissing, subprocess.CalledProcessError) as missing:
                say(f"{name} is not measured: {missing}")
                continue
        rows.append(latency("bare start", mine, name, other, _FASTER))
    api.close()
    peers.remove_groups(peers.GROUP)
    return rows


def _runtime(program: str, base: Path, rootfs: Path) -> Callable[[], float]:
    runtime = peers.runtime(program, base, rootfs)
    numbers = itertools.count()

    def run() -> float:
        id = f"{peers.GROUP}-{next(numbers)}"
        seconds = timed(lambda: runtime.run(id))
        runtime.delete(id)
        return seconds

    return run


def _lxc(stack: ExitStack, base: Path, rootfs: Path) -> Callable[[], float]:
    container = stack.enter_context(peers.lxc(base, rootfs))[0]

    def run() -> float:
        seconds = timed(container.start)
        container.stop()
        return seconds

    return run
