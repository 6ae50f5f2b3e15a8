# SPDX-License-Identifier: Apache-2.0
"""Health checks of running containers: which of them is due, and what becomes of its answer.

There is one heap and one timer for all of them, and a task for a probe while it runs. Starting a process is
what costs, so few start at once, and the time until the next one varies a little: checks that began together
do not stay so.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..errors import Unavailable
from .background import Background
from .container import Container
from .events import EventBus
from .health import HEALTHY, STARTING, UNHEALTHY, Check, Health, Probe, after, ended, pause
from .healthrecords import HealthRecord, HealthRecords
from .registry import Registry
from .resources.health import SECOND

logger = logging.getLogger(__name__)

_STARTS_AT_ONCE = 8
# Each that runs has two descriptors of the agent's.
_RUNNING_AT_ONCE = 512
_JITTER = 0.05
# What an agent finds overdue when it starts is spread over as many seconds at most.
_SPREAD = 5.0
# When a probe has said nothing of the container, for there was no keeper.
_AGAIN = 1.0
# Seconds between the first probes of a container that somebody waits for.
_FIRST_PAUSE = 0.25


class Asking(Protocol):
    """See `probing.Probes`."""

    def ask(
        self, container: Container, check: Check, started: Callable[[], None]
    ) -> Coroutine[Any, Any, Probe | None]:
        """Run the check once."""


@dataclass(eq=False, slots=True)
class _Watched:
    """A container whose health is checked. Moments are the loop's. `regular` is when the next probe is due by
    the check's own interval, `due` the next one of all, 0 where none is under way to be; `haste` is the pause
    between those that are made since somebody waits.
    """

    container: Container
    check: Check
    run: str
    began: float
    regular: float
    due: float = 0.0
    haste: float = _FIRST_PAUSE
    task: asyncio.Task[Probe | None] | None = None
    restarting: bool = False


class HealthChecks:
    """Checks the health of every container that has a check, from `start` on.

    `turned` is called with each container whose status is another one, `restart` is to have one started again
    that is unhealthy and whose check asks for that.
    """

    def __init__(self, registry: Registry, events: EventBus, records: HealthRecords) -> None:
        self._registry = registry
        self._events = events
        self._records = records
        self._watched: dict[str, _Watched] = {}
        # How many wait for a container's health.
        self._awaited: dict[str, int] = {}
        self._heap: list[tuple[float, int, _Watched]] = []
        self._numbers = itertools.count()
        self._timer: asyncio.TimerHandle | None = None
        self._ready: deque[_Watched] = deque()
        self._starting = self._running = 0
        self._background = Background()
        self._probes: Asking
        self.turned: Callable[[Container], None] = lambda _: None
        self.restart: Callable[[Container], Awaitable[None]]

    def start(self, probes: Asking) -> None:
        """Take up what a former agent has left, and go on with it."""
        self._probes = probes
        self._records.sweep({container.id for container in self._registry})
        for container in self._registry:
            if container.check is not None and not container.running:
                record = self._records.load(container.id)
                container.health = None if record is None else ended(record.health)
            self._follow(container)
        self._registry.followers.append(self._follow)

    def close(self) -> None:
        """Check nothing any more; probes that run are killed."""
        if self._timer is not None:
            self._timer.cancel()
        for watched in self._watched.values():
            if watched.task is not None:
                watched.task.cancel()
        self._watched.clear()
        self._background.close()

    def changed(self, container: Container) -> None:
        """Its check is another one, or it has one, or none any more: ask at once what holds now."""
        watched = self._watched.get(container.id)
        if not container.running:
            container.health = None if container.check is None else container.health
            return
        if container.check is None or watched is None:
            self._leave(container)
            container.health = None
            if container.check is None:
                self._records.remove(container.id)
                self._turned(container)
                return
            container.health = Health()
            watched = self._watch(container, container.check, asyncio.get_running_loop().time())
        else:
            self._interrupt(watched)
            watched.check = container.check
            container.health = replace(container.health or Health(), failing_streak=0)
        watched.regular = asyncio.get_running_loop().time()
        self._save(watched)
        self._schedule(watched, watched.regular)
        self._turned(container)

    async def answer(self, container: Container, seconds: float) -> None:
        """Wait until a container is not "starting" any more, or has ended, for some seconds at most.

        Meanwhile it is asked sooner than its interval says. What such a probe finds out good counts, what bad
        does not: the container has been promised more time than that.
        """
        with self._hastened(container):
            try:
                await asyncio.wait_for(container.until(lambda: not _is_starting(container)), seconds)
            except TimeoutError:
                return

    async def until_healthy(self, container: Container, seconds: float) -> None:
        """Wait until a container that has a check is healthy. Raises Unavailable when it is unhealthy, ends,
        or needs more than so many seconds.
        """
        if container.check is None:
            return
        await self.answer(container, seconds)
        health = container.health
        if container.running and health is not None and health.status == HEALTHY:
            return
        if not container.running:
            raise Unavailable(
                f"container {container.name} ended with exit code {container.exit_code} before it was "
                "healthy: see its log"
            )
        last = f", its last check {_in_words(health.log[-1])}" if health is not None and health.log else ""
        if health is not None and health.status == UNHEALTHY:
            raise Unavailable(f"container {container.name} is unhealthy{last}")
        raise Unavailable(
            f"container {container.name} is not healthy after {container.spec.ready_timeout} s{last}: see "
            "its log, or give it more time with ready_timeout"
        )

    @contextmanager
    def _hastened(self, container: Container) -> Iterator[None]:
        self._awaited[container.id] = self._awaited.get(container.id, 0) + 1
        watched = self._watched.get(container.id)
        if watched is not None:
            watched.haste = _FIRST_PAUSE
            self._hurry(watched, 0.0)
        try:
            yield
        finally:
            self._awaited[container.id] -= 1
            if not self._awaited[container.id]:
                del self._awaited[container.id]

    # Who is checked

    def _follow(self, container: Container) -> None:
        """A container runs otherwise, or is there no more."""
        if container.check is None and container.health is None:
            return
        watched = self._watched.get(container.id)
        if not container.running:
            if watched is not None:
                self._leave(container)
                container.health = ended(container.health or Health())
                self._save(watched)
            if self._registry.find(container.id) is not container:
                self._records.remove(container.id)
        elif watched is not None and watched.run == _run_of(container):
            if container.status == "paused":
                self._interrupt(watched)
            elif watched.task is None and not watched.due:
                self._schedule(watched, watched.regular)
        elif container.check is not None:
            self._leave(container)
            self._begin(container, container.check)

    def _begin(self, container: Container, check: Check) -> None:
        """It runs, since just now or for another agent already."""
        now = asyncio.get_running_loop().time()
        record = self._records.load(container.id)
        if record is not None and record.run == _run_of(container):
            container.health = record.health
            watched = self._watch(container, check, record.began)
            late = now + random.uniform(0, min(_SPREAD, check.interval / SECOND))
            watched.regular = record.due if record.due > now else late
            if container.health.status == UNHEALTHY:
                self._restart(watched)
        else:
            container.health = Health()
            watched = self._watch(container, check, now - max(0.0, time.time() - (container.started_at or 0)))
            watched.regular = now + self._pause(watched)
            self._save(watched)
        self._schedule(watched, watched.regular)
        self._hurry(watched, 0.0)

    def _watch(self, container: Container, check: Check, began: float) -> _Watched:
        watched = self._watched[container.id] = _Watched(container, check, _run_of(container), began, 0.0)
        return watched

    def _leave(self, container: Container) -> None:
        watched = self._watched.pop(container.id, None)
        if watched is not None:
            self._interrupt(watched)

    def _interrupt(self, watched: _Watched) -> None:
        """Ask nothing for now; a probe that runs is killed, and says nothing."""
        watched.due = 0.0
        if watched.task is not None:
            watched.task.cancel()
            watched.task = None

    # When it is asked

    def _pause(self, watched: _Watched) -> float:
        """Seconds until the next regular probe."""
        age = asyncio.get_running_loop().time() - watched.began
        span = pause(watched.container.health or Health(), watched.check, int(age * SECOND)) / SECOND
        return span * random.uniform(1 - _JITTER, 1 + _JITTER)

    def _schedule(self, watched: _Watched, due: float) -> None:
        if watched.due == due:
            return
        watched.due = due
        heapq.heappush(self._heap, (due, next(self._numbers), watched))
        self._set_timer()

    def _hurry(self, watched: _Watched, seconds: float) -> None:
        """Ask in some seconds, if that is sooner than regularly."""
        container = watched.container
        if container.id in self._awaited and watched.task is None and _is_starting(container):
            due = asyncio.get_running_loop().time() + seconds
            if self._wants(watched) and due < watched.due:
                self._schedule(watched, due)

    def _set_timer(self) -> None:
        if not self._heap:
            return
        first = self._heap[0][0]
        if self._timer is not None:
            if self._timer.when() <= first:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(first, self._look)

    def _look(self) -> None:
        """Some are due."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        while self._heap and self._heap[0][0] <= now:
            due, _, watched = heapq.heappop(self._heap)
            if watched.due != due or watched.task is not None:
                continue
            if self._wants(watched):
                self._ready.append(watched)
            else:
                watched.due = 0.0
        self._set_timer()
        self._ask_ready()

    def _wants(self, watched: _Watched) -> bool:
        container = watched.container
        return self._watched.get(container.id) is watched and container.status == "running"

    def _ask_ready(self) -> None:
        while self._ready and self._starting < _STARTS_AT_ONCE and self._running < _RUNNING_AT_ONCE:
            watched = self._ready.popleft()
            if not self._wants(watched):
                watched.due = 0.0
            elif watched.task is None and watched.due:
                self._ask(watched)

    def _ask(self, watched: _Watched) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        starting = True

        def has_started() -> None:
            nonlocal starting
            if starting:
                starting = False
                self._starting -= 1
                self._ask_ready()

        def over(task: asyncio.Task[Probe | None]) -> None:
            self._running -= 1
            has_started()
            if watched.task is task:
                watched.task = None
                watched.due = 0.0
                if self._wants(watched):
                    self._answered(watched, _answer(task), began)
            self._ask_ready()

        self._starting += 1
        self._running += 1
        watched.task = loop.create_task(self._probes.ask(watched.container, watched.check, has_started))
        # A task that is cancelled before it has begun would give nothing back itself.
        watched.task.add_done_callback(over)

    # What is learned

    def _answered(self, watched: _Watched, probe: Probe | None, began: float) -> None:
        now = asyncio.get_running_loop().time()
        container = watched.container
        if probe is None:
            self._schedule(watched, now + _AGAIN)
            return
        before = container.health or Health()
        regular = began >= watched.regular
        age = int((began - watched.began) * SECOND)
        health = container.health = after(before, probe, watched.check, age, extra=not regular)
        if regular or health.status != before.status:
            watched.regular = now + self._pause(watched)
        self._schedule(watched, watched.regular)
        slowest = min(watched.check.start_interval, watched.check.interval) / SECOND
        watched.haste = min(2 * watched.haste, slowest)
        self._hurry(watched, watched.haste)
        self._save(watched)
        if health.status != before.status:
            self._tell(container, before)
        if probe.exit_code != 0 and health.status == UNHEALTHY:
            self._restart(watched)

    def _tell(self, container: Container, before: Health) -> None:
        health = container.health or before
        logger.log(
            logging.WARNING if health.status == UNHEALTHY else logging.INFO,
            "health container=%s status=%s was=%s output=%r",
            *(container.name, health.status, before.status, health.output[:200]),
        )
        self._events.publish(
            "container", f"health_status: {health.status}", container.id, container.attributes
        )
        self._turned(container)

    def _turned(self, container: Container) -> None:
        container.wake()
        self.turned(container)

    def _restart(self, watched: _Watched) -> None:
        if watched.check.restart and not watched.restarting:
            watched.restarting = True
            self._background.start(self._restart_now(watched))

    async def _restart_now(self, watched: _Watched) -> None:
        try:
            await self.restart(watched.container)
        finally:
            watched.restarting = False

    def _save(self, watched: _Watched) -> None:
        health = watched.container.health
        if health is not None:
            record = HealthRecord(watched.run, watched.began, watched.regular, health)
            try:
                self._records.save(watched.container.id, record)
            except OSError as error:
                logger.warning("health not kept container=%s error=%r", watched.container.name, str(error))


def _run_of(container: Container) -> str:
    """What tells one run of a container from any other."""
    return f"{container.boot} {container.pid} {container.start_time}"


def _answer(task: asyncio.Task[Probe | None]) -> Probe | None:
    """What a probe has said; nothing, where it was cancelled or the agent has failed at it."""
    error = None if task.cancelled() else task.exception()
    if error is not None:
        logger.error("health check not made", exc_info=error)
    return None if task.cancelled() or error is not None else task.result()


def _is_starting(container: Container) -> bool:
    """Whether there may yet be an answer."""
    if container.status == "restarting":
        return True
    return container.running and container.health is not None and container.health.status == STARTING


def _in_words(probe: Probe) -> str:
    said = " ".join(probe.output.split())
    how = "did not end" if probe.exit_code < 0 else f"ended with exit code {probe.exit_code}"
    return f"{how} and said: {said}" if said else how


def is_fit(container: Container) -> bool:
    """Whether nothing speaks against new connections: it is healthy, or nobody asks."""
    return container.health is None or container.health.status == HEALTHY
