# SPDX-License-Identifier: Apache-2.0
"""One question for a container's health: a command in it, with its user, environment and directory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress

from ..errors import Conflict, MooringError, Unavailable
from .container import Container
from .execplans import ExecSpec
from .execs import Execs
from .execution import Exec
from .health import Check, Probe
from .resources.health import SECOND, spelled
from .streams import ExecStreams

# Docker's figure, in bytes.
_LONGEST_OUTPUT = 4096
# How long the end of one that got SIGKILL is waited for: it may hang in the kernel.
_KILL_GRACE = 2.0
_STUCK = "the health check of before was killed and does not end, it may hang on storage that does not answer"


class Probes:
    """Asks containers."""

    def __init__(self, execs: Execs) -> None:
        self._execs = execs
        # Those that got SIGKILL and have not ended yet, by their container.
        self._dying: dict[str, Exec] = {}

    async def ask(self, container: Container, check: Check, started: Callable[[], None]) -> Probe | None:
        """Run the check once; `started` is called when its process runs, or cannot. None where that says
        nothing of the container: it was not asked to its end, for reasons of the agent's or the keeper's.

        A cancelled one is killed.
        """
        start = time.time_ns()
        dying = self._dying.get(container.id)
        if dying is not None:
            started()
            return Probe(start, time.time_ns(), -1, f"{_STUCK}: process {dying.pid} of the host")
        try:
            process = await self._execs.create(container.id, ExecSpec(argv=check.argv, probe=True))
        except MooringError:
            started()
            return None  # it does not run any more, or is paused
        starting = asyncio.ensure_future(self._execs.start(process.id))
        try:
            streams = await asyncio.shield(starting)
        except asyncio.CancelledError:
            starting.add_done_callback(lambda task: self._give_up(process, task))
            raise
        except (Unavailable, Conflict):
            self._execs.discard(process)
            return None
        except MooringError as error:
            self._execs.discard(process)
            return Probe(start, time.time_ns(), -1, error.message) if container.running else None
        finally:
            started()
        assert streams is not None
        try:
            return await self._result(container, process, streams, check, start)
        finally:
            self._execs.kill_group(process)
            streams.close()
            self._execs.discard(process)

    async def _result(
        self, container: Container, process: Exec, streams: ExecStreams, check: Check, start: int
    ) -> Probe | None:
        output = bytearray()
        reading = asyncio.ensure_future(_read(streams, output))
        try:
            done, _ = await asyncio.wait([reading], timeout=check.timeout / SECOND)
            if not done:
                self._execs.kill_group(process)
                await asyncio.wait([reading], timeout=_KILL_GRACE)
                if not process.ended.done():
                    self._dying[container.id] = process
                    process.ended.add_done_callback(lambda _: self._dying.pop(container.id, None))
        finally:
            reading.cancel()
            with suppress(asyncio.CancelledError):
                await reading
        said = _text(output)
        if not done:
            late = f"Health check exceeded timeout ({spelled(check.timeout)})"
            return Probe(start, time.time_ns(), -1, f"{late}: {said}" if said else late)
        if not process.exit_known or not container.running:
            return None
        return Probe(start, time.time_ns(), process.exit_code or 0, said)

    def _give_up(self, process: Exec, starting: asyncio.Task[ExecStreams | None]) -> None:
        """One that has been started after nobody wanted it any more."""
        if not starting.cancelled() and starting.exception() is None:
            streams = starting.result()
            if streams is not None:
                streams.close()
            self._execs.kill_group(process)
        self._execs.discard(process)


async def _read(streams: ExecStreams, output: bytearray) -> None:
    """Read until its end, and keep the beginning: one byte more than is shown, which tells that there was."""
    async for _, piece in streams.output():
        output += piece[: _LONGEST_OUTPUT + 1 - len(output)]


def _text(output: bytearray) -> str:
    text = output[:_LONGEST_OUTPUT].decode("utf-8", "replace")
    return f"{text}..." if len(output) > _LONGEST_OUTPUT else text
