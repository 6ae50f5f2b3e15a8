# SPDX-License-Identifier: Apache-2.0
"""Several writers of one hijacked connection, whose client is slow or goes away."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.waiting import eventually
from mooring_agent.api.connection import WRITE_HIGH_WATER
from mooring_agent.api.messages import Hijack, RawStream, Reply, Request
from mooring_agent.api.router import Route

from .served import PATIENCE, Served, served

WRITERS = 3
PIECE = b"x" * 65536
PIECES = 8 * WRITE_HIGH_WATER // len(PIECE)


class Chorus:
    """A call whose writers all wait for the client."""

    def __init__(self) -> None:
        self.begun = [0] * WRITERS
        self.ended = threading.Event()

    def routes(self) -> list[Route]:
        return [Route("POST", "/chorus", self.chorus)]

    async def chorus(self, request: Request) -> Reply:
        async def write(number: int, raw: RawStream) -> None:
            for _ in range(PIECES):
                self.begun[number] += 1
                await raw.write(PIECE)

        async def serve(raw: RawStream) -> None:
            try:
                await asyncio.gather(*(write(number, raw) for number in range(WRITERS)))
            finally:
                self.ended.set()

        return Hijack(serve)


@pytest.fixture
def chorus() -> Chorus:
    return Chorus()


@pytest.fixture
def server(tmp_path: Path, chorus: Chorus) -> Iterator[Served]:
    with served(tmp_path / "s" / "w.sock", chorus.routes()) as running:
        yield running


def test_all_go_on_when_the_client_does(server: Served, chorus: Chorus) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/chorus", Connection="Upgrade", Upgrade="tcp")
        wire.head()
        eventually(lambda: all(chorus.begun), what="each has begun")
        assert max(chorus.begun) < PIECES, "they wait for the client"
        assert len(wire.rest()) == WRITERS * PIECES * len(PIECE)
    assert chorus.ended.wait(PATIENCE)
    assert chorus.begun == [PIECES] * WRITERS


def test_nobody_waits_for_a_client_who_has_gone(server: Served, chorus: Chorus) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/chorus", Connection="Upgrade", Upgrade="tcp")
        wire.head()
        eventually(lambda: all(chorus.begun), what="each has begun")
    assert chorus.ended.wait(PATIENCE)
    assert max(chorus.begun) < PIECES
