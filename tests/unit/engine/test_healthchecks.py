# SPDX-License-Identifier: Apache-2.0
"""When containers are asked, in an event loop whose clock is turned by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.clock import Clock
from mooring_agent.engine.container import Container
from mooring_agent.engine.events import EventBus
from mooring_agent.engine.health import Check, Health, Probe
from mooring_agent.engine.healthchecks import HealthChecks
from mooring_agent.engine.healthrecords import HealthRecords
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.errors import Unavailable


class Registry:
    def __init__(self) -> None:
        self.all: dict[str, Container] = {}
        self.followers: list[Callable[[Container], None]] = []

    def __iter__(self) -> Any:
        return iter(self.all.values())

    def find(self, id: str) -> Container | None:
        return self.all.get(id)

    def tell(self, container: Container) -> None:
        for follower in self.followers:
            follower(container)


class Asked:
    """Answers as `answers` says, after `lasting` seconds, of which starting takes the first half."""

    def __init__(self) -> None:
        self.moments: dict[str, list[float]] = {}
        self.answers: Callable[[Container], int | None] = lambda _: 0
        self.lasting = 0.01
        self.starting = self.most_starting = self.running = self.most_running = self.cancelled = 0

    async def ask(self, container: Container, check: Check, started: Callable[[], None]) -> Probe | None:
        self.moments.setdefault(container.id, []).append(asyncio.get_running_loop().time())
        self.starting += 1
        self.running += 1
        self.most_starting = max(self.starting, self.most_starting)
        self.most_running = max(self.running, self.most_running)
        try:
            try:
                await asyncio.sleep(self.lasting / 2)
            finally:
                self.starting -= 1
                started()
            await asyncio.sleep(self.lasting / 2)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        code = self.answers(container)
        return None if code is None else Probe(1, 2, code, f"said {code}")


class World:
    """Health checks of containers that are none."""

    def __init__(self, directory: Path) -> None:
        self.registry = Registry()
        self.asked = Asked()
        self.turns: list[tuple[str, str]] = []
        self.restarted: list[str] = []
        self.directory = directory
        self.checks = self.agent()

    def agent(self) -> HealthChecks:
        self.registry.followers.clear()
        registry: Any = self.registry
        checks = HealthChecks(registry, EventBus(), HealthRecords(self.directory))
        checks.turned = lambda one: self.turns.append((one.name, one.health.status if one.health else ""))

        async def restart(container: Container) -> None:
            self.restarted.append(container.name)

        checks.restart = restart
        return checks

    def make(self, name: str, *, run: bool = True, **check: Any) -> Container:
        options = {"image": "web", "restart": "always"} | ({"healthcheck": check} if check else {})
        spec = ContainerSpec.parse(options)
        made = Container(name, name, spec, "", 0.0, False, (), (), "/", "", "TERM")
        made.settle_check()
        self.registry.all[name] = made
        if run:
            self.run(made)
        return made

    def run(self, container: Container) -> None:
        container.status, container.wanted = "running", True
        container.pid, container.started_at = (container.pid or 1) + 1, time.time()
        self.registry.tell(container)

    def end(self, container: Container) -> None:
        container.status = "exited"
        self.registry.tell(container)


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    def run(scene: Callable[[World], Awaitable[None]]) -> None:
        async def whole() -> None:
            world = World(tmp_path / "health")
            world.checks.start(world.asked)
            try:
                await scene(world)
            finally:
                world.checks.close()
                await asyncio.sleep(0)

        with asyncio.Runner(loop_factory=Clock) as runner:
            runner.run(whole())

    return run


Play = Callable[[Callable[[World], Awaitable[None]]], None]


def test_it_is_asked_after_an_interval_and_at_every_one(play: Play) -> None:
    async def scene(world: World) -> None:
        began = asyncio.get_running_loop().time()
        made = world.make("web", test="true", interval=10)
        assert made.health == Health()
        await asyncio.sleep(105)
        moments = world.asked.moments["web"]
        assert len(moments) == 10 or len(moments) == 9
        for before, following in zip([began, *moments], moments, strict=False):
            assert 9.4 <= following - before <= 10.6
        assert world.turns == [("web", "healthy")]

    play(scene)


def test_in_the_start_period_it_is_asked_sooner(play: Play) -> None:
    async def scene(world: World) -> None:
        world.asked.answers = lambda _: 1
        made = world.make("web", test="true", interval=100, start_period=50, start_interval=5, retries=2)
        await asyncio.sleep(49)
        assert len(world.asked.moments["web"]) in (9, 10)
        assert made.health is not None
        assert (made.health.status, made.health.failing_streak) == ("starting", 0)
        await asyncio.sleep(300)
        assert made.health.status == "unhealthy"

    play(scene)


def test_a_container_without_a_check_costs_nothing(play: Play) -> None:
    async def scene(world: World) -> None:
        made = world.make("web")
        assert made.health is None
        assert not world.checks._heap
        assert not world.checks._watched
        assert world.checks._timer is None
        assert list(world.directory.iterdir()) == []
        await world.checks.until_healthy(made, 5)

    play(scene)


def test_hundreds_share_one_timer_and_few_start_at_once(play: Play) -> None:
    async def scene(world: World) -> None:
        world.asked.lasting = 0.1
        for number in range(300):
            world.make(f"c{number}", test="true", interval=30)
        before = len(asyncio.all_tasks())
        assert before <= 2
        await asyncio.sleep(300)
        assert all(8 <= len(moments) <= 11 for moments in world.asked.moments.values())
        assert 1 <= world.asked.most_starting <= 8
        # What began in one moment has come apart.
        late = sorted(moments[-1] for moments in world.asked.moments.values())
        assert late[-1] - late[0] > 5

    play(scene)


def test_those_that_hang_do_not_keep_the_others_waiting(play: Play) -> None:
    async def scene(world: World) -> None:
        async def hang(container: Container, check: Check, started: Callable[[], None]) -> Probe | None:
            if container.name.startswith("bad"):
                started()
                await asyncio.sleep(1000)
            return await ask(container, check, started)

        ask = world.asked.ask
        world.asked.ask = hang  # type: ignore[method-assign]
        for number in range(100):
            world.make(f"bad{number}", test="true", interval=1)
        made = world.make("good", test="true", interval=1)
        await asyncio.sleep(3)
        assert made.health is not None
        assert made.health.status == "healthy"

    play(scene)


def test_who_waits_is_answered_sooner_and_failures_meanwhile_do_not_count(play: Play) -> None:
    async def scene(world: World) -> None:
        world.asked.answers = lambda _: 0 if asyncio.get_running_loop().time() > began + 8 else 1
        began = asyncio.get_running_loop().time()
        made = world.make("web", test="true", interval=30, retries=1)
        await world.checks.until_healthy(made, 20)
        assert 8 < asyncio.get_running_loop().time() - began < 14
        assert made.health is not None
        assert (made.health.status, made.health.failing_streak) == ("healthy", 0)
        assert len(world.asked.moments["web"]) >= 5
        asked = len(world.asked.moments["web"])
        await asyncio.sleep(25)
        assert len(world.asked.moments["web"]) == asked, "nobody waits any more"

    play(scene)


def test_waiting_ends_with_an_unhealthy_one_with_its_end_and_in_time(play: Play) -> None:
    async def scene(world: World) -> None:
        world.asked.answers = lambda _: 7
        made = world.make("web", test="true", interval=1, retries=2)
        with pytest.raises(
            Unavailable, match="web is unhealthy, its last check ended with exit code 7 and said"
        ):
            await world.checks.until_healthy(made, 20)
        slow = world.make("slow", test="true", interval=100)
        with pytest.raises(
            Unavailable, match="slow is not healthy after 30 s, its last check ended with exit code 7"
        ):
            await world.checks.until_healthy(slow, 20)
        asyncio.get_running_loop().call_later(1, world.end, slow)
        slow.exit_code = 3
        with pytest.raises(Unavailable, match="slow ended with exit code 3 before it was healthy"):
            await world.checks.until_healthy(slow, 20)

    play(scene)


def test_a_probe_ends_with_its_container_and_with_a_pause(play: Play) -> None:
    async def scene(world: World) -> None:
        world.asked.lasting = 5
        made = world.make("web", test="true", interval=1)
        await asyncio.sleep(2)
        made.status = "paused"
        world.registry.tell(made)
        await asyncio.sleep(10)
        assert (world.asked.cancelled, world.asked.running) == (1, 0)
        assert made.health == Health()
        made.status = "running"
        world.registry.tell(made)
        await asyncio.sleep(1)
        assert world.asked.running == 1
        world.end(made)
        await asyncio.sleep(0)
        assert (world.asked.cancelled, world.asked.running) == (2, 0)
        assert made.health is not None
        assert made.health.status == "unhealthy"
        await asyncio.sleep(100)
        assert len(world.asked.moments["web"]) == 2
        world.run(made)
        assert made.health == Health()

    play(scene)


def test_probes_cut_off_before_they_began_leave_room_for_others(play: Play) -> None:
    async def scene(world: World) -> None:
        loop = asyncio.get_running_loop()
        for number in range(20):
            made = world.make(f"c{number}", test="true", interval=100)
            world.checks.changed(made)  # it is due, and ends in the same round of the loop
            loop.call_at(loop.time() + loop._clock_resolution / 2, world.end, made)  # type: ignore[attr-defined]
            await asyncio.sleep(1)
        assert not world.asked.moments
        world.make("web", test="true", interval=10)
        await asyncio.sleep(15)
        assert len(world.asked.moments["web"]) == 1

    play(scene)


def test_what_says_nothing_is_asked_again(play: Play) -> None:
    async def scene(world: World) -> None:
        world.asked.answers = lambda _: None if len(world.asked.moments["web"]) < 4 else 0
        made = world.make("web", test="true", interval=30)
        await asyncio.sleep(38)
        assert made.health is not None
        assert made.health.status == "healthy"
        assert len(made.health.log) == 1

    play(scene)


def test_an_unhealthy_one_is_restarted_where_that_is_asked_for(play: Play) -> None:
    async def scene(world: World) -> None:
        world.asked.answers = lambda _: 1
        world.make("ask", test="true", interval=1, retries=2, on_unhealthy="restart")
        world.make("not", test="true", interval=1, retries=2)
        await asyncio.sleep(2.9)
        assert world.restarted == ["ask"]

    play(scene)


def test_the_next_agent_goes_on(play: Play) -> None:
    async def scene(world: World) -> None:
        made = world.make("web", test="true", interval=30)
        other = world.make("other", test="true", interval=30)
        ran = world.make("ran", test="true", interval=30)
        await asyncio.sleep(100)
        known = made.health
        world.end(ran)
        world.checks.close()
        made.health = other.health = ran.health = None
        (world.directory / "stranger").write_text("[]")
        # The one is the same run as before, the other one is not.
        other.pid = 99
        world.turns.clear()
        asked = len(world.asked.moments["web"])

        world.checks = world.agent()
        world.checks.start(world.asked)

        assert made.health == known
        assert other.health == Health()
        assert ran.health is not None
        assert (ran.health.status, len(ran.health.log)) == ("unhealthy", 3)
        assert sorted(path.name for path in world.directory.iterdir()) == ["other", "ran", "web"]
        await asyncio.sleep(32)
        assert len(world.asked.moments["web"]) == asked + 1
        assert world.turns == [("other", "healthy")]
        del world.registry.all["web"]
        world.end(made)
        assert not (world.directory / "web").exists()

    play(scene)


def test_another_check_is_asked_at_once(play: Play) -> None:
    async def scene(world: World) -> None:
        world.asked.answers = lambda _: 1
        made = world.make("web", test="true", interval=10, retries=5)
        await asyncio.sleep(25)
        assert made.health is not None
        assert made.health.failing_streak == 2

        made.spec = ContainerSpec.parse({"image": "web", "healthcheck": {"test": "x", "interval": 50}})
        made.settle_check()
        world.checks.changed(made)
        await asyncio.sleep(1)
        assert made.health.failing_streak == 1
        asked = len(world.asked.moments["web"])
        await asyncio.sleep(40)
        assert len(world.asked.moments["web"]) == asked

        made.spec = ContainerSpec.parse({"image": "web", "healthcheck": {"test": "NONE"}})
        made.settle_check()
        world.checks.changed(made)
        await asyncio.sleep(100)
        assert made.health is None
        assert len(world.asked.moments["web"]) == asked
        assert not (world.directory / "web").exists()

        made.spec = ContainerSpec.parse({"image": "web", "healthcheck": {"test": "y", "interval": 50}})
        made.settle_check()
        world.checks.changed(made)
        world.asked.answers = lambda _: 0
        await asyncio.sleep(1)
        assert made.health is not None
        assert made.health.status == "healthy"

    play(scene)


def test_nothing_is_told_of_a_namespace_of_fields(play: Play) -> None:
    """A follower is told of every container, and most have no check."""

    async def scene(world: World) -> None:
        stranger: Any = SimpleNamespace(check=None, health=None)
        world.registry.tell(stranger)

    play(scene)
