# SPDX-License-Identifier: Apache-2.0
"""Which of the execs that the keeper has are taken up, and which are ended."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

from mooring_agent.engine.events import EventBus
from mooring_agent.engine.execs import Execs
from mooring_agent.runtime.join import start_time


class Lifecycle:
    """Says what the keeper was asked to forget."""

    def __init__(self) -> None:
        self.forgotten: asyncio.Queue[str] = asyncio.Queue()
        self.link = SimpleNamespace(request=self._request)

    async def _request(self, message: Any) -> None:
        self.forgotten.put_nowait(message.id)

    def run_soon(self, work: Coroutine[Any, Any, Any]) -> None:
        asyncio.get_running_loop().create_task(work)


def test_a_probe_whose_answer_nobody_has_is_ended_whenever_the_keeper_comes() -> None:
    sleeps = [subprocess.Popen(["sleep", "600"], start_new_session=True) for _ in range(2)]

    async def scene() -> None:
        lifecycle: Any = Lifecycle()
        registry: Any = SimpleNamespace(find=lambda id: None)
        launching: Any = None
        execs = Execs(registry, lifecycle, launching, EventBus())
        records = [
            {
                "id": name,
                "container": "web",
                "pid": process.pid,
                "start_time": start_time(process.pid),
                "exit_code": None,
                "known": True,
                "note": json.dumps({"argv": ["sleep", "600"], **note}),
            }
            for name, process, note in zip(("of-user", "asks"), sleeps, ({}, {"probe": True}), strict=True)
        ]
        records.append({**records[1], "id": "has-asked", "exit_code": 0})
        execs.take_inventory(records)
        of_user, asks = sleeps
        assert asks.wait(10) == -9
        assert of_user.poll() is None
        assert lifecycle.forgotten.empty()
        execs.take_inventory([records[0], {**records[1], "exit_code": 137}, records[2]])
        assert {await lifecycle.forgotten.get() for _ in range(2)} == {"asks", "has-asked"}
        assert execs.ids_of("web") == ["of-user"]

    try:
        asyncio.run(asyncio.wait_for(scene(), 20))
    finally:
        for process in sleeps:
            process.kill()
            process.wait(10)
