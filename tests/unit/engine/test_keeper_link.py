# SPDX-License-Identifier: Apache-2.0
"""What the engine hears of a keeper, and in which order."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from mooring_agent.engine.keeper_link import KeeperLink
from mooring_agent.keeper import messages
from mooring_agent.keeper.client import KeeperClient
from mooring_agent.runtime.plan import Shape


class QuietReserve:
    """No launchers."""

    left_to_keeper = 0

    def open(self, client: KeeperClient, shape: Shape) -> None:
        return

    def close(self) -> None:
        return


def test_an_end_that_overtakes_an_inventory_is_heard_after_it(tmp_path: Path) -> None:
    """The inventory was written before the end, and is read by the engine after it: the end is the news."""
    heard: list[str] = []

    async def take(records: list[dict[str, Any]]) -> None:
        heard.append(f"{records[0]['id']} runs")

    async def work() -> None:
        link = KeeperLink(
            tmp_path,
            Shape(namespaces=()),
            QuietReserve(),  # type: ignore[arg-type]
            lambda event: heard.append(f"{event.id} has ended"),
            take,
        )

        async def request(message: messages.Message, *_: Any) -> tuple[messages.Message, list[int]]:
            if not isinstance(message, messages.Inventory):
                return messages.Done(), []
            file = messages.memory_file(json.dumps([{"id": "one"}]).encode())
            link.client.on_exit(messages.Exited("one", 5, True, 0.0))
            await asyncio.sleep(0)
            return messages.Done(), [file]

        async def connect() -> None:
            link.client._connected = True
            link.client.identity = messages.Hello()

        link.client.request = request  # type: ignore[method-assign,assignment]
        link.client.connect = connect  # type: ignore[method-assign]
        link._keeps_old = True
        await link.start()
        link.client.on_exit(messages.Exited("two", 0, True, 0.0))

    asyncio.run(work())
    assert heard == ["one runs", "one has ended", "two has ended"]
