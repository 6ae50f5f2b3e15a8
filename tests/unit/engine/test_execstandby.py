# SPDX-License-Identifier: Apache-2.0
"""How many joiners stand by, and which of them the keeper hears of."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

from mooring_agent.engine.execplans import ExecSpec, KnownPlan
from mooring_agent.engine.execstandby import _MOST, _QUIET_SECONDS, ExecStandby
from mooring_agent.keeper import messages
from mooring_agent.runtime.plan import JoinPlan, Process

_PLAN = JoinPlan(1, 1, (), Process(("true",), ()), spawn=True)


class FakeClient:
    """A keeper that does what it is asked."""

    connected = True
    asked_at = 0.0

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def prepare_exec(self, request: messages.PrepareExec, plan: bytes) -> None:
        assert JoinPlan.decode(plan).ahead
        self.asked.append(request)

    async def request(self, message: messages.Message) -> None:
        self.asked.append(message)


def with_standby(work: Callable[[ExecStandby, FakeClient], Awaitable[None]]) -> None:
    async def run() -> None:
        client = FakeClient()
        tasks: set[asyncio.Task[Any]] = set()
        lifecycle: Any = SimpleNamespace(
            link=SimpleNamespace(client=client), run_soon=lambda one: tasks.add(asyncio.create_task(one))
        )
        await work(ExecStandby(lifecycle), client)
        await asyncio.gather(*tasks)

    asyncio.run(run())


def container(number: int) -> Any:
    return SimpleNamespace(id=f"c{number}", running=True)


def known() -> KnownPlan:
    spec: Any = None
    return KnownPlan(spec, ExecSpec(("true",)), _PLAN, uses=2)


async def quiet() -> None:
    await asyncio.sleep(3 * _QUIET_SECONDS)


def test_many_that_are_wanted_at_once_are_not_more_than_may_be() -> None:
    async def work(standby: ExecStandby, client: FakeClient) -> None:
        for number in range(3 * _MOST):
            standby.note(container(number), known())

        await quiet()

        assert len({request.container for request in client.asked}) == _MOST == len(client.asked)
        for number in range(_MOST):
            standby.drop(f"c{number}")

    with_standby(work)


def test_one_that_is_taken_before_the_keeper_has_heard_of_it_is_never_made() -> None:
    async def work(standby: ExecStandby, client: FakeClient) -> None:
        plan = known()
        standby.note(container(1), plan)
        joiner = ""
        while not joiner:
            await asyncio.sleep(0)
            standby._try(1)
            joiner = standby.take(container(1), plan, ("true",))

        await quiet()

        assert client.asked == []

    with_standby(work)
