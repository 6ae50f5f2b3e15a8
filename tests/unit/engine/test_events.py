# SPDX-License-Identifier: Apache-2.0
"""Events: who hears what, and that nobody who does not listen grows the agent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from mooring_agent.engine import events
from mooring_agent.engine.events import Event, EventBus
from mooring_agent.engine.outcome import Action, outcome


def run(work: Callable[[EventBus], Awaitable[None]]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(work(EventBus()), 10)

    asyncio.run(bounded())


async def collect(
    bus: EventBus, found: list[str], since: float | None = None, until: float | None = None
) -> None:
    async for event in bus.subscribe(since, until):
        found.append(event.action)


def test_every_subscriber_hears_everything_in_order() -> None:
    async def work(bus: EventBus) -> None:
        heard: list[list[str]] = [[], []]
        tasks = [asyncio.ensure_future(collect(bus, found)) for found in heard]
        await asyncio.sleep(0)
        for number in range(5):
            bus.publish("container", str(number), "id", {"name": "web"})
        await asyncio.sleep(0.01)
        bus.close()
        await asyncio.gather(*tasks)
        assert heard == [["0", "1", "2", "3", "4"]] * 2

    run(work)


def test_an_event_says_what_when_and_of_whom() -> None:
    async def work(bus: EventBus) -> None:
        attributes = {"name": "web"}
        before = time.time_ns()
        bus.publish("container", "start", "abc", attributes)
        attributes["name"] = "changed"
        found = [event async for event in bus.subscribe(since=0, until=time.time())]
        assert [(event.type, event.action, event.id, dict(event.attributes)) for event in found] == [
            ("container", "start", "abc", {"name": "web"})
        ]
        assert before <= found[0].time_ns <= time.time_ns()

    run(work)


def test_the_past_is_told_from_a_moment_on_and_goes_over_into_the_present() -> None:
    async def work(bus: EventBus) -> None:
        bus.publish("container", "old", "id")
        await asyncio.sleep(0.01)
        since = time.time()
        await asyncio.sleep(0.01)
        bus.publish("container", "past", "id")
        found: list[str] = []
        task = asyncio.ensure_future(collect(bus, found, since))
        await asyncio.sleep(0.01)
        bus.publish("container", "present", "id")
        await asyncio.sleep(0.01)
        bus.close()
        await task
        assert found == ["past", "present"]

    run(work)


def test_until_ends_a_subscription_by_itself() -> None:
    async def work(bus: EventBus) -> None:
        found: list[str] = []
        begun = time.monotonic()
        task = asyncio.ensure_future(collect(bus, found, until=time.time() + 1))
        await asyncio.sleep(0.01)
        bus.publish("container", "early", "id")
        await task
        assert 0.05 < time.monotonic() - begun < 5
        bus.publish("container", "late", "id")
        assert found == ["early"]

    run(work)


def test_what_is_past_until_is_not_told() -> None:
    async def work(bus: EventBus) -> None:
        bus.publish("container", "one", "id")
        await asyncio.sleep(0.01)
        until = time.time()
        await asyncio.sleep(0.01)
        bus.publish("container", "two", "id")
        found: list[str] = []
        await collect(bus, found, 0, until)
        assert found == ["one"]

    run(work)


def test_a_listener_that_does_not_listen_is_let_go() -> None:
    async def work(bus: EventBus) -> None:
        stream = bus.subscribe()
        first = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        bus.publish("container", "first", "id")
        assert (await first).action == "first"
        for number in range(events._BACKLOG + 500):
            bus.publish("container", str(number), "id")
        assert not bus._queues
        rest = [event.action async for event in stream]
        assert rest == [str(number) for number in range(events._BACKLOG)]

    run(work)


def test_a_listener_that_leaves_is_forgotten() -> None:
    async def work(bus: EventBus) -> None:
        task = asyncio.ensure_future(collect(bus, []))
        await asyncio.sleep(0)
        assert len(bus._queues) == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not bus._queues

    run(work)


def test_the_memory_is_bounded() -> None:
    async def work(bus: EventBus) -> None:
        for number in range(events._REMEMBERED * 2):
            bus.publish("container", str(number), "id")
        found: list[str] = []
        await collect(bus, found, since=0, until=time.time())
        assert found == [str(number) for number in range(events._REMEMBERED, events._REMEMBERED * 2)]

    run(work)


def test_an_outcome_changes_something_exactly_when_there_are_actions() -> None:
    action = Action("create", "container", "web", "it does not exist")
    done = outcome([action], None, {"image": "x"}, {"id": "1"})
    assert done == {
        "changed": True,
        "actions": [{"action": "create", "kind": "container", "name": "web", "reason": "it does not exist"}],
        "before": None,
        "after": {"image": "x"},
        "result": {"id": "1"},
    }
    assert outcome([], {}, {}, None)["changed"] is False


def test_events_are_values() -> None:
    assert Event("a", "b", "c", {}, 1) == Event("a", "b", "c", {}, 1)
