# SPDX-License-Identifier: Apache-2.0
"""A whole host's document: ordered by dependencies, in parallel where that may be, answered item by item."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from ..errors import MooringError
from .resources import Item, identity, order, phases

logger = logging.getLogger(__name__)

Put = Callable[..., Awaitable[dict[str, Any]]]
Delete = Callable[..., Awaitable[dict[str, Any]]]
# Items worked on at a time. Starts are short; what limits them is the host's processors.
_PARALLEL = 8


class Documents:
    """Applies documents. `put`, `delete` and `managed` are by kind: how to declare, how to remove, what was
    declared.
    """

    def __init__(
        self, put: dict[str, Put], delete: dict[str, Delete], managed: dict[str, Callable[[], Iterable[str]]]
    ) -> None:
        self._put = put
        self._delete = delete
        self._managed = managed

    async def apply(self, document: dict[str, Any], *, dry_run: bool, prune: bool) -> dict[str, Any]:
        """The answer of PUT /mooring/v1/state. One item's failure stops nothing but what is said to depend on
        it.

        `prune` removes what was declared once and is not named any more, dependants first.
        """
        items = order(document)
        gate = asyncio.Semaphore(_PARALLEL)
        answers: list[dict[str, Any]] = []
        for phase in phases(items):
            answers += await asyncio.gather(*(self._one(item, dry_run, gate) for item in phase))
        if prune:
            answers += await self._prune(
                {(item.kind, identity(item.kind, item.name)) for item in items}, dry_run
            )
        failed = sum(answer["error"] is not None for answer in answers)
        return {"changed": any(answer["changed"] for answer in answers), "failed": failed, "items": answers}

    async def _one(self, item: Item, dry_run: bool, gate: asyncio.Semaphore) -> dict[str, Any]:
        async with gate:
            return await _answered(
                item.kind, item.name, self._put[item.kind](item.name, item.spec, dry_run=dry_run)
            )

    async def _prune(self, named: set[tuple[str, str]], dry_run: bool) -> list[dict[str, Any]]:
        answers = []
        leaving = frozenset(name for name in self._managed["container"]() if ("container", name) not in named)
        for kind in ("container", "cgroup", "volume", "network", "image"):
            # A dry run leaves the containers, whose groups and volumes the real one then finds unused.
            of_containers = {"leaving": leaving} if dry_run and kind in ("cgroup", "volume") else {}
            for name in list(self._managed[kind]()):
                if (kind, identity(kind, name)) not in named:
                    work = self._delete[kind](name, dry_run=dry_run, **of_containers)
                    answers.append(await _answered(kind, name, work))
        return answers


async def _answered(kind: str, name: str, work: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    try:
        done = await work
    except MooringError as error:
        return _failed(kind, name, error.message, error.code)
    except OSError as error:
        logger.exception("item failed kind=%s name=%s", kind, name)
        return _failed(kind, name, f"{kind} {name}: {error.strerror}", MooringError.code)
    return {
        "kind": kind,
        "name": name,
        "changed": done["changed"],
        "actions": done["actions"],
        "before": done["before"],
        "after": done["after"],
        "error": None,
    }


def _failed(kind: str, name: str, message: str, code: str) -> dict[str, Any]:
    return {
        "kind": kind,
        "name": name,
        "changed": False,
        "actions": [],
        "before": None,
        "after": None,
        "error": {"message": message, "code": code},
    }
