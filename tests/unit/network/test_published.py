# SPDX-License-Identifier: Apache-2.0
"""Published ports where the kernel does not do what it is asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mooring_agent.engine.resources import PortMapping
from mooring_agent.errors import MooringError
from mooring_agent.network import connections
from mooring_agent.network.published import PublishedPorts
from mooring_agent.network.publishing import Change, Target
from mooring_agent.network.store import NetworkStore
from mooring_agent.state.database import Database


def test_a_port_goes_over_even_if_datagrams_of_before_are_not_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def carried_out(_: Change) -> None:
        pass

    async def refused(*_: object) -> None:
        raise MooringError("no tracking here")

    monkeypatch.setattr(connections, "forget_datagrams_to", refused)
    monkeypatch.setattr(connections, "forget_datagrams_before", refused)
    database = Database(tmp_path / "state.db")
    ports = PublishedPorts(NetworkStore(database), lambda container_id: container_id, carried_out)

    async def switch() -> None:
        wanted = [PortMapping(53, None, "127.0.0.1", "udp")]
        [given] = await ports.publish("old", wanted, Target("10.9.8.2"), None)
        assert await ports.publish("new", wanted, Target("10.9.8.3"), "old") == [given]
        await asyncio.sleep(0)
        await ports.unpublish("new")

    asyncio.run(switch())
    assert list(ports) == []
    assert "datagrams of before stay where they went error='no tracking here'" in caplog.text
    ports.close()
    database.close()
