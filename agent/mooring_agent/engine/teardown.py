# SPDX-License-Identifier: Apache-2.0
"""The removal of all containers of a host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from ..errors import MooringError, NotFound
from .container import Container
from .containers import Containers
from .lifecycle import Lifecycle

_AT_ONCE = 64


async def remove_all(containers: Containers, lifecycle: Lifecycle) -> None:
    """Remove every container, first all processes, then the rest. Raises the first failure once all others
    are gone.

    The kernel empties a memory group at its removal for every file system that is mounted anywhere
    (mm/list_lru.c, memcg_reparent_list_lrus), so those of the containers go before the groups: one container
    after the other would be quadratic.
    """
    lifecycle.stopping = True  # what follows an end follows below
    try:
        await _for_all(containers, lambda container: lifecycle.stop(container, 0, "KILL"))
    finally:
        lifecycle.stopping = False
    await _for_all(containers, lambda container: containers.remove(container.id, force=True))


async def _for_all(containers: Containers, work: Callable[[Container], Awaitable[None]]) -> None:
    """Do it for all, several at a time. Raises the first failure, at the end."""
    remaining = iter(containers.registry)
    failures: list[MooringError] = []

    async def worker() -> None:
        for container in remaining:
            try:
                await work(container)
            except NotFound:
                continue  # its own end has removed it
            except MooringError as error:
                failures.append(error)

    await asyncio.gather(*(worker() for _ in range(_AT_ONCE)))
    if failures:
        raise failures[0]
