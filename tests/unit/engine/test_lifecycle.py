# SPDX-License-Identifier: Apache-2.0
"""Waiting for the end of a container's process."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from mooring_agent.engine.lifecycle import Lifecycle


def test_an_end_in_the_same_turn_of_the_loop_is_heard() -> None:
    """A signal may be answered, and its process have ended, before the loop gets to anything else."""

    async def work() -> None:
        lifecycle: Any = object.__new__(Lifecycle)
        container: Any = SimpleNamespace(ended=[], exit_code=137)

        over = lifecycle.ended(container)
        lifecycle._tell_ended(container)

        assert await asyncio.wait_for(over, 1) == 137

    asyncio.run(work())


def test_who_gives_up_waiting_leaves_nothing() -> None:
    async def work() -> None:
        lifecycle: Any = object.__new__(Lifecycle)
        container: Any = SimpleNamespace(ended=[], exit_code=0)

        lifecycle.ended(container).cancel()
        await asyncio.sleep(0)

        assert container.ended == []

    asyncio.run(work())
