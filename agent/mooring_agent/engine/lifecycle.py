# SPDX-License-Identifier: Apache-2.0
"""The life of a container's process: start, end, restart by policy, stop, freeze; whatever dies in between.

Requests of users take the container's lock; news from the keeper does not, since a stop waits for it. What
follows an end, which has to come before the next start, takes it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from ..cgroups.group import Group
from ..errors import Conflict, Ended, MooringError, NotFound, Unavailable
from ..failpoints import reached
from ..keeper import messages
from ..keeper.client import KeeperClient, KeeperLost, KeeperRefused, StartRefused
from ..linux.boot import boot_id
from .attaching import Attaching
from .background import Background, within
from .berthing import Berthing
from .container import Container
from .events import EventBus
from .freezing import Freezing
from .joining import Joining
from .keeper_link import KeeperLink
from .launching import Launching
from .registry import Registry
from .resources import signal_number
from .restarts import count_so_far, pause, restarts, restarts_unhealthy
from .switching import Switching

logger = logging.getLogger(__name__)

_UNKNOWN_EXIT = 255
_KILL_TIMEOUT = 10.0
_KILL_SOON = 2.0
LAUNCH_ATTEMPTS = 3  # a launcher ends with its keeper
_REMOVE_GROUP_TIMEOUT = 5.0
_SIGKILL = 9
# How often something is tried with a container that ends meanwhile, and how long the news of an end may take.
_ATTEMPTS = 5
_NEWS_WITHIN = 5.0

T = TypeVar("T")


class Lifecycle:
    """Starts and ends containers. `remove` is called for those that are to vanish with their end
    (auto-remove).
    """

    def __init__(
        self,
        registry: Registry,
        launching: Launching,
        berthing: Berthing,
        switching: Switching,
        events: EventBus,
        joining: Joining,
        attaching: Attaching,
    ) -> None:
        self._registry = registry
        self._attaching = attaching
        self._joining = joining
        self._launching = launching
        self.berthing = berthing
        self.switching = switching
        self._events = events
        self._boot = boot_id()
        self._launches: dict[str, messages.Exited | None] = {}
        # Those that have ended and of whose last run something is left to clear away.
        self._unsettled: set[str] = set()
        self._ending: set[str] = set()
        self._background = Background()
        self.run_soon = self._background.start
        self.freezing = Freezing(registry, self._group, self._publish)
        self.link: KeeperLink
        self.remove: Callable[[Container], Awaitable[None]]
        self.stopping = False

    # Requests

    def prepare(self, container: Container) -> None:
        """Begin with what a start of a container that has just been made will need."""
        if self.link.client.connected and not self.stopping:
            self.berthing.prepare(container, self.link.client)

    async def start(self, container: Container) -> None:
        """Run it, unless it runs. Raises what kept it from running; then nothing half started is left."""
        async with container.lock:
            await self._start_by_hand(container)

    async def stop(
        self, container: Container, timeout: float | None = None, signal: str | None = None
    ) -> None:
        """Ask it to end, and kill it when it has not after `timeout` seconds (default: its own
        stop_timeout).
        """
        if container.id in self._ending:
            # Somebody else waits for its end, and may be more patient.
            patience = container.spec.stop_timeout if timeout is None else timeout
            await self._end(container, signal_number(signal or container.stop_signal), patience)
        async with container.lock:
            await self._stop_by_hand(container, timeout, signal)

    async def restart(self, container: Container, timeout: float | None = None) -> None:
        """Stop it if it runs, then start it; it keeps its published ports."""
        async with container.lock:
            await self._stop_by_hand(container, timeout, None)
            await self._start_by_hand(container)

    async def kill(self, container: Container, signal: str) -> None:
        """Send a signal to its first process. Raises Conflict when it does not run."""
        number = signal_number(signal)
        if not container.running:
            raise Conflict(f"container {container.name} is not running: there is nothing to send a signal to")
        if number in (_SIGKILL, signal_number(container.stop_signal)):
            self._set_wanted(container, False)
        if number == _SIGKILL and container.status == "paused":
            await self.freezing.thaw(container)
        await self._signal(container, number)
        self._publish(container, "kill", signal=str(number))

    async def end_unhealthy(self, container: Container) -> None:
        """End a container that is unhealthy, for its restart policy to start it again; nothing for one that
        is not, or whose policy would not.
        """
        async with container.lock:
            if not restarts_unhealthy(container):
                return
            logger.warning("restarted since it is unhealthy container=%s", container.name)
            container.failing = True
            self._registry.save_run(container)
            reached("unhealthy.saved")
            await self._ask_to_end(container, signal_number(container.stop_signal), None)

    def ended(self, container: Container) -> asyncio.Future[int]:
        """The next end of its process, from this call on, not from when it is awaited: the exit code."""
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def forget(_: object) -> None:
            if future in container.ended:
                container.ended.remove(future)

        container.ended.append(future)
        future.add_done_callback(forget)
        return future

    async def unless_ended(self, container: Container, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` makes of a container; once more if that had ended before the news came. Raises Ended
        if they do not come in time, or it ends again and again.
        """
        for _ in range(_ATTEMPTS - 1):
            end = self.ended(container)
            try:
                return await attempt()
            except Ended:
                if not await within(end, _NEWS_WITHIN):
                    raise
            finally:
                end.cancel()
        return await attempt()

    async def release(self, container: Container) -> None:
        """Undo what a run leaves: published ports, the control group, the keeper's record."""
        await self.berthing.forget(container)
        await self.switching.give_back(container)
        await self._remove_group(container)
        self._unsettled.discard(container.id)
        await self._forget(container)
        self._tell_ended(container)

    async def dispose(self, id: str) -> None:
        """End a process that belongs to no container: one that was removed while the keeper was away."""
        await self.link.request(messages.Signal(id, _SIGKILL))

    def close(self) -> None:
        """Do nothing any more; containers run on."""
        self.stopping = True
        for container in self._registry:
            self._cancel_restart(container)
        self._background.close()
        self.switching.close()
        self.link.close()

    # Starting

    async def _start_by_hand(self, container: Container) -> None:
        if container.status == "paused":
            raise Conflict(f"container {container.name} is paused: unpause it instead of starting it")
        if container.running:
            return
        self._cancel_restart(container)
        container.restart_count = 0
        await self._start(container)

    async def _start(self, container: Container) -> None:
        self._set_wanted(container, True)
        await self._clear_last_run(container)
        for attempt in range(1, LAUNCH_ATTEMPTS + 1):
            client = await self.link.ready()
            if container.running:  # an earlier attempt had worked, as the keeper's successor has told
                return
            try:
                return await self._launch(container, client)
            except MooringError as error:
                if isinstance(error, KeeperLost | Ended) and attempt < LAUNCH_ATTEMPTS:
                    continue  # a launcher ends with its keeper
                if isinstance(error, KeeperLost):
                    raise
                container.error = error.message
                container.exit_code = (
                    error.exit_code if isinstance(error, StartRefused) else container.exit_code
                )
                container.wanted = False
                self._registry.save_run(container)
                raise

    async def _launch(self, container: Container, client: KeeperClient) -> None:
        self._launches[container.id] = None
        try:
            self._attaching.complete(container)
            await self.switching.publish(container)
            reached("start.published")
            try:
                with self._joining.surroundings(container) as around:
                    launched = await self.berthing.start(container, client, around)
            except KeeperLost:
                raise
            except MooringError as error:
                if isinstance(error, StartRefused | Unavailable):
                    await self._remove_group(container)
                await self.switching.give_back(container)
                raise
            reached("start.launched")
            container.status, container.error, container.exit_code = "running", "", None
            container.pid, container.start_time = launched.pid, launched.start_time
            container.boot = self._boot
            container.started_at, container.finished_at, container.oom_killed = time.time(), None, False
            container.failing = False
            self._registry.save_run(container)
            reached("start.saved")
        finally:
            early = self._launches.pop(container.id)
            if not container.running:
                self.berthing.sources.volumes.release(container.id)
        self._publish(container, "start")
        self.switching.started(container)
        container.wake()
        if early is not None:
            self.process_ended(container, early.exit_code, early.known, early.finished_at)

    # News from the keeper

    def exited(self, event: messages.Exited) -> bool:
        """A process has ended; False when it is not a container's."""
        container = self._registry.find(event.id)
        if container is None:
            return False
        if event.id in self._launches:
            self._launches[event.id] = event
        elif container.running:
            self.process_ended(container, event.exit_code, event.known, event.finished_at)
        return True

    def process_ended(self, container: Container, exit_code: int, known: bool, finished_at: float) -> None:
        """Take note of an end, and see what has to follow."""
        container.exit_code, container.exit_known, container.finished_at = exit_code, known, finished_at
        unknown = "its exit code is not known: nobody was left to see the process end"
        container.error = "" if known else unknown
        container.pid = None
        container.status = "restarting" if restarts(container) else "exited"
        container.oom_killed = self._oom_killed(container)
        self.berthing.sources.volumes.release(container.id)
        self._unsettled.add(container.id)
        self._registry.save_run(container)
        reached("end.saved")
        self._publish(container, "die", exitCode=str(exit_code))
        self._tell_ended(container)
        container.wake()
        if not self.stopping:
            self.settle(container)

    def settle(self, container: Container) -> None:
        """Do what follows an end, soon: a former agent may have been killed before it got to it."""
        self._unsettled.add(container.id)
        self.run_soon(self._follow_up(container))

    def found_running(self, container: Container, record: dict[str, Any]) -> None:
        """The keeper says that the container's process is there.

        One whose start was given up, and told to have failed, because the keeper did not answer, is ended.
        One that was to be frozen or thawed when an agent was killed is what its control group says, and goes
        on if it stood still for that agent only.
        """
        if not container.running and not container.wanted:
            self.run_soon(self.stop(container, 0, "KILL"))
        container.pid, container.start_time, container.boot = record["pid"], record["start_time"], self._boot
        if not container.running:
            container.status, container.exit_code = "running", None
            container.started_at = container.started_at or time.time()
            self._registry.save_run(container)
        if self.freezing.found(container):
            self.run_soon(self.freezing.let_go(container))

    def found_missing(self, container: Container) -> None:
        """A container that should run, and of which the keeper knows nothing."""
        rebooted = container.boot != self._boot
        self.process_ended(container, _UNKNOWN_EXIT, False, time.time())
        if rebooted:
            container.error = "the host was started again while it ran"
            self._registry.save_run(container)

    def should_come_back(self, container: Container) -> bool:
        """Whether a container that does not run ought to, when an agent starts.

        One that was between two tries goes on with them.
        """
        if not container.wanted or container.running:
            return False
        if container.status == "restarting":
            if container.id not in self._unsettled:
                self._schedule_restart(container)
            return False
        policy = container.spec.restart.name
        if policy != "no":
            return policy != "on-failure"
        return container.managed and container.boot != self._boot and container.spec.state == "running"

    # What follows an end

    async def _follow_up(self, container: Container) -> None:
        try:
            async with container.lock:
                if container.id not in self._unsettled:
                    return  # it was started again, or removed, before this had its turn
                try:
                    await self._clear_last_run(container)
                    reached("end.cleared")
                    await self._forget(container)
                    reached("end.forgotten")
                finally:
                    if container.status == "restarting":
                        container.restart_count = count_so_far(container)
                        self._schedule_restart(container)
                if container.status == "exited":
                    await self.switching.give_back(container)
                else:
                    await self.switching.rest(container)
            if container.auto_remove and container.status == "exited":
                await self.remove(container)
        except MooringError as error:
            logger.error("follow-up failed container=%s error=%r", container.name, error.message)

    async def _clear_last_run(self, container: Container) -> None:
        """Remove the control group of a run that has ended: the next one's is to have its name."""
        if container.id in self._unsettled:
            await self._remove_group(container)
            self._unsettled.discard(container.id)

    def _schedule_restart(self, container: Container) -> None:
        container.status = "restarting"
        self._registry.save_run(container)
        container.restart_timer = asyncio.get_running_loop().call_later(
            pause(container.restart_count), lambda: self.run_soon(self._restart_now(container))
        )

    async def _restart_now(self, container: Container) -> None:
        async with container.lock:
            if not container.wanted or container.status != "restarting":
                return
            container.restart_count += 1
            try:
                await self._start(container)
            except MooringError as error:
                logger.error("restart failed container=%s error=%r", container.name, error.message)
                container.wanted = True
                if restarts(container):
                    self._schedule_restart(container)
                else:
                    await self._rest(container)

    async def _rest(self, container: Container) -> None:
        """It will not be started again."""
        container.status = "exited" if container.started_at else "created"
        self._registry.save_run(container)
        self._tell_ended(container)
        container.wake()
        await self.switching.give_back(container)

    def _tell_ended(self, container: Container) -> None:
        """Answer those who wait for an end: there was one, or there will be none."""
        for future in container.ended:
            if not future.done():
                future.set_result(container.exit_code or 0)
        container.ended.clear()

    def _cancel_restart(self, container: Container) -> None:
        if container.restart_timer is not None:
            container.restart_timer.cancel()
            container.restart_timer = None

    # Ending

    async def _stop_by_hand(self, container: Container, timeout: float | None, signal: str | None) -> None:
        self._set_wanted(container, False)
        self._cancel_restart(container)
        if not container.running:
            if container.status == "restarting":
                await self._rest(container)
            return
        if container.status == "paused":
            await self.freezing.thaw(container)
        await self._ask_to_end(container, signal_number(signal or container.stop_signal), timeout)
        self._publish(container, "stop")

    async def _ask_to_end(self, container: Container, number: int, timeout: float | None) -> None:
        patience = container.spec.stop_timeout if timeout is None else timeout
        self._ending.add(container.id)
        try:
            if timeout != 0 and number != _SIGKILL:
                await self.switching.leave(container)
            if container.running:
                await self._end(container, number, patience)
        finally:
            self._ending.discard(container.id)

    async def _end(self, container: Container, number: int, patience: float) -> None:
        over = self.ended(container)
        try:
            await self._signal(container, number)
            reached("stop.signalled")
            if number != _SIGKILL and not await within(over, patience):
                await self._signal(container, _SIGKILL)
            if not await within(over, _KILL_SOON):
                # It may be frozen, by whomever: this thaws it.
                group = self._group(container)
                await asyncio.to_thread(group.kill)
                if not await within(over, _KILL_TIMEOUT):
                    raise Unavailable(
                        f"container {container.name} cannot be stopped: process {container.pid} did not end "
                        f"{_KILL_TIMEOUT:g} s after SIGKILL; it may hang on storage that does not answer"
                    )
        finally:
            over.cancel()

    async def _signal(self, container: Container, number: int) -> None:
        for _ in range(LAUNCH_ATTEMPTS):
            try:
                await self.link.request(messages.Signal(container.id, number))
            except KeeperLost:
                continue
            except KeeperRefused:
                return  # it has ended, and the news is on its way
            return

    async def _forget(self, container: Container) -> None:
        """Let the keeper drop the record of an end. A keeper that is lost is asked again when it is back."""
        with suppress(KeeperLost):
            await self.link.request(messages.Forget(container.id))

    async def _remove_group(self, container: Container) -> None:
        group = self._group(container)
        if container.spec.pid != "private":  # its end is not that of its processes
            await asyncio.to_thread(group.kill)
        try:
            group.remove(0)
        except NotFound:
            return
        except MooringError:
            await asyncio.to_thread(group.remove, _REMOVE_GROUP_TIMEOUT)

    def _oom_killed(self, container: Container) -> bool:
        try:
            return self._group(container).oom_kills() > 0
        except (MooringError, OSError):
            return False  # the group has gone with the boot that it was of

    def _group(self, container: Container) -> Group:
        return self._launching.hierarchy.group(container.group)

    def _set_wanted(self, container: Container, wanted: bool) -> None:
        if container.wanted != wanted:
            container.wanted = wanted
            self._registry.save_run(container)

    def _publish(self, container: Container, action: str, **attributes: str) -> None:
        self._events.publish("container", action, container.id, {**container.attributes, **attributes})
