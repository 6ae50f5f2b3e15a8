# SPDX-License-Identifier: Apache-2.0
"""Work that goes on beside requests, and whose failure nobody waits for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from ..errors import MooringError

logger = logging.getLogger(__name__)


class Background:
    """Runs coroutines in the background until it is closed; what they raise is logged."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do it beside everything else."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def close(self) -> None:
        """Cancel what is not done yet."""
        for task in self._tasks:
            task.cancel()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, MooringError):
            logger.warning("background work failed error=%r", error.message)
        elif error is not None:
            logger.error("background work failed", exc_info=error)


async def within(future: asyncio.Future[int], seconds: float) -> bool:
    """Wait for the future for some seconds; whether it is done. It goes on otherwise."""
    done, _ = await asyncio.wait([future], timeout=seconds)
    return bool(done)
