# SPDX-License-Identifier: Apache-2.0
"""Containers that are made before anybody has asked for them, and lack a name and the word to start.

Who makes two containers alike often makes a third: replicas, workers, the same job again. So after the
second, one more is made ahead: its address, its layer, its process up to the execve. It becomes the next
container with the same spec. The more have been alike in a row, the more stand by. They are nobody's until
then: no list shows them, and they give way to whatever they would be in the way of.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable

from ..errors import MooringError
from ..images.image import Image
from ..keeper.client import KeeperClient
from ..network.traffic import PLAIN_TERMS
from .berthing import Berthing
from .confinement import is_plain
from .container import Container
from .resources import ContainerSpec
from .terms import terms_of

logger = logging.getLogger(__name__)

# How long nobody must have asked the keeper for anything: a start that is under way comes first.
_QUIET_SECONDS = 0.03
# How often it is tried to find such a moment, and a launcher.
_ATTEMPTS = 10
# How long they wait for somebody who wants them.
_PATIENCE = 10.0
# One for every two in a row, and at most so many.
_MOST = 12


class Standby:
    """Has some containers ready, all of one spec. `make` gives the container for a spec, without a name;
    `equip` makes what it needs; `discard` undoes that.
    """

    def __init__(
        self,
        berthing: Berthing,
        make: Callable[[ContainerSpec, Image], Container],
        equip: Callable[[Container, Image], None],
        discard: Callable[[Container], None],
    ) -> None:
        self._berthing = berthing
        self._make = make
        self._equip = equip
        self._discard = discard
        self._last: tuple[ContainerSpec, Image] | None = None
        self._in_a_row = 0
        self._ready: list[Container] = []
        self._timer: asyncio.TimerHandle | None = None
        self._undoing: set[asyncio.Task[None]] = set()

    def take(self, spec: ContainerSpec, image: Image) -> Container | None:
        """One that stands by, if there is one for this spec and image: now it is the caller's."""
        if not self._ready or not _alike(self._ready[0].spec, self._ready[0].image_id, spec, image):
            return None
        container = self._ready.pop(0)
        self._berthing.renew(container)
        return container

    def note(self, spec: ContainerSpec, image: Image, client: KeeperClient) -> None:
        """A container has been made: if the one before was alike, another one may follow."""
        alike = self._last is not None and _alike(self._last[0], self._last[1].id, spec, image)
        self._in_a_row = self._in_a_row + 1 if alike else 1
        self._last = spec, image
        if not alike:
            self.vacate_soon()
        elif _can_be_made_ahead(spec):
            self._try_after(_QUIET_SECONDS, client, _ATTEMPTS)

    async def vacate(self) -> None:
        """Undo all that stands by: somebody needs what it has, or the agent is about to end."""
        self.vacate_soon()
        while self._undoing:
            await asyncio.wait(self._undoing)

    def vacate_soon(self) -> None:
        """`vacate` without waiting for it; nobody gets any of them from now on."""
        self._cancel()
        ready, self._ready = self._ready, []
        if ready:
            task = asyncio.get_running_loop().create_task(self._undo(ready))
            self._undoing.add(task)
            task.add_done_callback(self._undoing.discard)

    async def _undo(self, containers: list[Container]) -> None:
        for container in containers:
            try:
                await self._berthing.forget(container)
                self._discard(container)
            except (MooringError, OSError, sqlite3.Error) as error:
                logger.warning(
                    "container that stood by is not undone id=%s error=%r", container.id, str(error)
                )

    def _try_after(self, seconds: float, client: KeeperClient, attempts: int) -> None:
        self._cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._try, client, attempts)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _try(self, client: KeeperClient, attempts: int) -> None:
        wanted = min(self._in_a_row // 2, _MOST)
        if self._last is not None and len(self._ready) < wanted and client.connected and attempts:
            quiet = asyncio.get_running_loop().time() - client.asked_at >= _QUIET_SECONDS
            done = quiet and self._prepare(*self._last, client)
            self._try_after(_QUIET_SECONDS, client, _ATTEMPTS if done else attempts - 1)
        else:
            self._timer = asyncio.get_running_loop().call_later(_PATIENCE, self.vacate_soon)

    def _prepare(self, spec: ContainerSpec, image: Image, client: KeeperClient) -> bool:
        """Begin with one; False where no launcher waits for it, or what it needs is not to be had."""
        container = self._make(spec, image)
        if not self._berthing.has_waiting(container, client):
            return False
        try:
            self._equip(container, image)
        except (MooringError, OSError, sqlite3.Error):
            self._discard(container)  # whoever asks for one finds out, and is told
            return False
        if not self._berthing.prepare(container, client, 2 * _PATIENCE):
            self._discard(container)
            return False
        self._ready.append(container)
        return True


def _alike(spec: ContainerSpec, image_id: str, other: ContainerSpec, image: Image) -> bool:
    return image_id == image.id and spec == other and spec.given_fields == other.given_fields


def _can_be_made_ahead(spec: ContainerSpec) -> bool:
    """Whether nothing of it could be anybody else's by the time that it is wanted."""
    return (
        is_plain(spec)
        and not (spec.volumes or spec.cgroup or spec.tty)
        and terms_of(spec) is PLAIN_TERMS
        and all(not network.is_static and network.name != "host" for network in spec.networks)
    )
