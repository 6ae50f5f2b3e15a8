# SPDX-License-Identifier: Apache-2.0
"""The image service beside a store that somebody else is changing."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

from mooring_agent.engine.events import EventBus
from mooring_agent.engine.images import Images
from mooring_agent.engine.peers import Peers
from mooring_agent.images.registry.client import Registries
from mooring_agent.images.registry.settings import RegistriesSettings
from mooring_agent.state.database import Database
from unit.images.houses import House
from unit.images.repositories import layer

_LIMIT = 10.0


async def _nothing() -> None: ...


def test_the_loop_does_not_wait_for_who_changes_images(tmp_path: Path) -> None:
    house = House(tmp_path)
    image = house.add("127.0.0.1:9/web:1", layer(1))
    database = Database(tmp_path / "state.db")
    registries = Registries(RegistriesSettings.parse({}))
    peers = Peers(house.store, database)
    images = Images(house.store, registries, peers, database, EventBus(), _nothing, lambda: ())
    held, let_go = threading.Event(), threading.Event()

    def change() -> None:
        with house.store.state.lock:
            held.set()
            let_go.wait(_LIMIT)

    async def scenario() -> None:
        pull = asyncio.ensure_future(images.pull("127.0.0.1:9/web:1"))
        await asyncio.sleep(0)  # it asks what the name points to
        assert await images.list() == (image,)
        assert await images.get(image.id) == image
        assert changing.is_alive()
        let_go.set()
        pull.cancel()
        await asyncio.wait([pull], timeout=_LIMIT)
        await images.close()

    changing = threading.Thread(target=change)
    changing.start()
    try:
        assert held.wait(_LIMIT)
        asyncio.run(scenario())
    finally:
        let_go.set()
        changing.join(_LIMIT)
        database.close()
        house.snapshots.close()
