# SPDX-License-Identifier: Apache-2.0
"""Joiners that have entered a container before anybody has asked for an exec there, and lack the command.

Who runs two commands alike in a container, but for their arguments, often runs a third: health checks,
notebooks, scripts. After the second a joiner becomes ahead what the third would be, up to the word that says
which command it is. It is in the container's namespaces, and in its control groups only from the word on:
it is neither counted nor seen there.
"""

from __future__ import annotations

import asyncio
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace

from ..errors import MooringError
from ..keeper import messages
from ..keeper.client import KeeperClient
from .container import Container
from .execplans import KnownPlan
from .lifecycle import Lifecycle

# How long nobody must have asked the keeper for anything: what is under way comes first.
_QUIET_SECONDS = 0.03
# How often it is tried to find such a moment before it is done all the same.
_ATTEMPTS = 10
# How long they wait for somebody who wants them.
_PATIENCE = 10.0
# In how many containers there is one at most; a joiner has some 3 MiB of its own.
_MOST = 8
# The command travels in a message of the keeper's, of which a character may take twelve bytes at most.
_ARGUMENTS_MAX = 4096


@dataclass(frozen=True)
class _Ready:
    """A joiner by its name, and whoever will give it up."""

    joiner: str
    known: KnownPlan
    client: KeeperClient
    timer: asyncio.TimerHandle


class ExecStandby:
    """Has at most one joiner ready in a container, for an exec like the last one."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._ready: dict[str, _Ready] = {}
        self._wanted: dict[str, tuple[Container, KnownPlan]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def take(self, container: Container, known: KnownPlan, argv: tuple[str, ...]) -> str:
        """The name of a joiner for this plan and command, which now is the caller's; empty where none is."""
        ready = self._ready.get(container.id)
        if ready is None:
            return ""
        if ready.known is not known:
            self.drop(container.id)
            return ""
        if sum(map(len, argv)) + len(argv) > _ARGUMENTS_MAX:
            return ""
        del self._ready[container.id]
        ready.timer.cancel()
        return ready.joiner

    def note(self, container: Container, known: KnownPlan) -> None:
        """An exec has been started: if the one before was alike, another one may follow."""
        if known.uses > 1 and known.plan.spawn:
            self._wanted[container.id] = container, known
            self._try_soon(_ATTEMPTS)

    def drop(self, container_id: str) -> None:
        """Give up what stands by in a container."""
        self._wanted.pop(container_id, None)
        ready = self._ready.pop(container_id, None)
        if ready is not None:
            ready.timer.cancel()
            if ready.client.connected:  # else it has gone with the connection
                self._lifecycle.run_soon(self._release(ready))

    async def _release(self, ready: _Ready) -> None:
        with suppress(MooringError):
            await ready.client.request(messages.Release(ready.joiner))

    def _try_soon(self, attempts: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(_QUIET_SECONDS, self._try, attempts)

    def _try(self, attempts: int) -> None:
        self._timer = None
        loop, client = asyncio.get_running_loop(), self._lifecycle.link.client
        if loop.time() - client.asked_at < _QUIET_SECONDS and attempts > 1:
            self._try_soon(attempts - 1)
            return
        wanted, self._wanted = self._wanted, {}
        for id, (container, known) in wanted.items():
            if container.running and id not in self._ready and len(self._ready) < _MOST:
                timer = loop.call_later(_PATIENCE, self.drop, id)
                ready = _Ready(f"join-{secrets.token_hex(8)}", known, client, timer)
                self._ready[id] = ready
                self._lifecycle.run_soon(self._prepare(id, ready))

    async def _prepare(self, container_id: str, ready: _Ready) -> None:
        if self._ready.get(container_id) is not ready:
            return  # it was taken before the keeper has heard of it, so that there is none
        spec = ready.known.spec
        request = messages.PrepareExec(ready.joiner, container_id, spec.stdin, spec.stdout, spec.stderr)
        try:
            await ready.client.prepare_exec(request, replace(ready.known.plan, ahead=True).encode())
        except MooringError:  # whoever asks for one finds out, and is told
            if self._ready.get(container_id) is ready:
                self.drop(container_id)
