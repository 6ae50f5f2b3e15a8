# SPDX-License-Identifier: Apache-2.0
"""Desired state of containers: what is, what should be, the plan between them, and its execution.

A replacement never leaves nothing running. With `stop_first` the old container is stopped and set aside under
another name, and comes back if its successor does not start; with `start_first` it is stopped only when its
successor runs. Both are on disk at every moment, and `finish_replacements` brings an interrupted one to
either end.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakValueDictionary

from ..errors import Conflict, InvalidSpec, MooringError, NotFound
from ..images.image import check_runnable
from ..images.store import ImageStore
from .background import Background
from .container import Container, vars_of
from .containers import Containers, spec_view
from .health import image_part, settled
from .healthchecks import HealthChecks
from .images import Images
from .outcome import Action, outcome
from .registry import Registry
from .resources import ContainerSpec, PortMapping, check_name, compare, merge
from .switching import Switching

logger = logging.getLogger(__name__)

# Seconds before each further try to undo a replacement; after the last one it is the next agent's.
_UNDONE_AFTER = (1, 2, 5, 10, 30, 60, 60)

_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Plan:
    """What has to be done to a container, and why. `replace` and `live` exclude each other."""

    actions: tuple[Action, ...]
    create: bool = False
    replace: bool = False
    live: bool = False
    start: bool = False
    stop: bool = False


class DesiredContainers:
    """Declares containers."""

    def __init__(
        self,
        containers: Containers,
        registry: Registry,
        images: ImageStore,
        image_service: Images,
        switching: Switching,
        health: HealthChecks,
    ) -> None:
        self._containers = containers
        self._registry = registry
        self._images = images
        self._image_service = image_service
        self._switching = switching
        self._health = health
        self._undoing = Background()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def close(self) -> None:
        """Leave what is not undone yet to the next agent."""
        self._undoing.close()

    async def put(self, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Bring the container `name` to `spec`, or say what that would take.

        The Outcome of the Mooring API.
        """
        check_name("container", name)
        # Whether its user waits for it to be healthy is no part of what it is.
        given: object = spec
        healthy = isinstance(given, dict) and given.get("state") == "healthy"
        wanted = ContainerSpec.parse({**spec, "state": "running"} if healthy else spec, name=name)
        async with self._working_on(name):
            return await self._put(name, wanted, dry_run, healthy)

    async def _put(self, name: str, wanted: ContainerSpec, dry_run: bool, healthy: bool) -> dict[str, Any]:
        existing = self._registry.find(name)
        if existing is not None and existing.name != name:
            existing = None  # the name is the beginning of another one's id
        self._switching.require_way_in(name, wanted)
        pulled = await self._pull(wanted, dry_run=dry_run)
        plan = self._plan(name, existing, wanted, pulled, tolerant=dry_run, healthy=healthy)
        before = None if existing is None else _shown(existing.spec, existing.running)
        after = _shown(wanted, wanted.state == "running")
        if dry_run:
            return outcome(plan.actions, before, after, None)
        container = await self._carry_out(name, existing, wanted, plan, healthy)
        if healthy and not plan.replace:
            await self._health.until_healthy(container, wanted.ready_timeout)
        return outcome(plan.actions, before, after, container.view())

    async def delete(
        self, name: str, *, force: bool = True, timeout: float | None = None, dry_run: bool = False
    ) -> dict[str, Any]:
        """See to it that there is no container `name`."""
        async with self._working_on(name):
            return await self._delete(name, force, timeout, dry_run)

    async def _delete(self, name: str, force: bool, timeout: float | None, dry_run: bool) -> dict[str, Any]:
        existing = self._registry.find(name)
        if existing is None:
            return outcome([], None, None, None)
        if existing.running and not force:
            raise Conflict(f"container {existing.name} is {existing.status}: stop it first, or use force")
        before = _shown(existing.spec, existing.running)
        actions = [Action("remove", "container", existing.name, "it is not wanted")]
        if existing.running:
            actions.insert(0, Action("stop", "container", existing.name, "it is not wanted"))
        if not dry_run:
            if existing.running:
                await self._containers.stop(existing.id, timeout)
            await self._containers.remove(existing.id, force=True)
        return outcome(actions, before, None, None)

    async def drain(self, name: str, timeout: float | None, *, dry_run: bool = False) -> dict[str, Any]:
        """Take a container out of the ports that it shares, and wait until its connections have ended, for
        `timeout` seconds (default: its `drain`): an Outcome, with `connections`, how many are left.

        Its shares are 0 from then on, until they are declared otherwise. Raises Conflict if it shares none.
        """
        async with self._working_on(name):
            container = self._registry.get(name)
            if not any(port.balance for port in container.spec.ports):
                raise Conflict(
                    f"container {container.name} shares no published port: give its ports a balance, or stop "
                    "it"
                )
            before = _shown(container.spec, container.running)
            ports = [replace(port, weight=0 if port.balance else 1) for port in container.spec.ports]
            wanted = merge(container.spec, {"ports": [_given(port) for port in ports]})
            actions = [
                Action("update", "container", container.name, str(one))
                for one in compare(container.spec, wanted)
            ]
            after = _shown(wanted, container.running)
            if dry_run:
                return outcome(actions, before, after, None)
            await self._containers.live.apply(container, wanted, managed=container.managed)
            seconds = container.spec.drain if timeout is None else timeout
            left = await self._switching.drain(container, seconds) if container.running else 0
            return {**outcome(actions, before, after, container.view()), "connections": left}

    async def finish_replacements(self) -> None:
        """Bring replacements that were cut off to an end: forward where the new one runs, else back.

        A switch between two that run takes its time, and goes on beside what the agent is asked for.
        """
        for new in [container for container in self._registry if container.replaces]:
            old = self._registry.find(new.replaces)
            if old is not None and new.running and new.wanted and old.running:
                self._containers.lifecycle.run_soon(self._finish_switch(new, old))
                continue
            try:
                await self._finish(new, old)
            except MooringError as error:
                logger.error("replacement unfinished container=%s error=%r", new.name, error.message)

    async def _finish_switch(self, new: Container, old: Container) -> None:
        async with self._working_on(old.name):
            try:
                if new.spec.update_order == "start_first":
                    await self._switching.take_over(new, old)
                await self._containers.stop(old.id)
                await self._take_over(new, old)
            except MooringError as error:
                logger.error("replacement undone container=%s error=%r", old.name, error.message)
                await self._undo(new, old, True)

    def _working_on(self, name: str) -> asyncio.Lock:
        """What keeps two declarations of one container apart, whichever container bears the name
        meanwhile.
        """
        return self._locks.setdefault(name, asyncio.Lock())

    async def _pull(self, wanted: ContainerSpec, *, dry_run: bool) -> str:
        """Pull the image if the policy says so; returns why a dry run would."""
        image = wanted.image
        if wanted.pull == "never" or image.startswith("sha256:") or _ID.fullmatch(image):
            return ""
        reason = await self._image_service.to_pull(image, wanted.pull)
        if not reason or dry_run:
            return reason
        try:
            await self._image_service.pull(image)
        except MooringError as error:
            error.put_before(f"image {image} is to be pulled, since {reason}: ")
            raise
        return ""

    # Planning

    def _plan(
        self,
        name: str,
        existing: Container | None,
        wanted: ContainerSpec,
        pulled: str,
        *,
        tolerant: bool,
        healthy: bool,
    ) -> Plan:
        """The plan; `pulled` says why the image would be pulled first, if it would."""
        running = wanted.state == "running"
        image_id, missing = self._image(name, wanted, pulled, tolerant, healthy)
        if existing is None:
            reason = f"it does not exist{missing}"
            actions = [Action("create", "container", name, reason)]
            if running:
                actions.append(Action("start", "container", name, "it should run"))
            return Plan(tuple(actions), create=True, start=running)
        changes = [
            change
            for change in compare(existing.spec, wanted)
            if change.field != "healthcheck"
            or image_id != existing.image_id
            or not _checks_alike(existing, wanted)
        ]
        reasons = [str(change) for change in changes if not change.live]
        if image_id and pulled:
            reasons.append(f"image {wanted.image} is pulled, since {pulled}, needs a replacement")
            missing = ""
        elif (
            image_id
            and image_id != existing.image_id
            and not any(change.field == "image" for change in changes)
        ):
            reasons.append(
                f"image {wanted.image} is now {image_id[7:19]}, was {existing.image_id[7:19]}, needs a "
                "replacement"
            )
        if reasons:
            order = (
                "the new one starts first"
                if wanted.update_order == "start_first"
                else "the old one stops first"
            )
            live = [str(change) for change in changes if change.live and change.field != "state"]
            action = Action("replace", "container", name, "; ".join([*reasons, *live, order]) + missing)
            return Plan((action,), replace=True, start=running)
        if healthy and settled(wanted, existing.image_health, name) is None:
            raise InvalidSpec(
                f'container {name} has the state "healthy" and no health check: it was made before those of '
                "images were asked; declare its healthcheck with a test, or delete it first"
            )
        actions = [
            Action("update", "container", name, str(change)) for change in changes if change.field != "state"
        ]
        live_change = bool(changes) or not existing.managed
        active = existing.running or existing.status == "restarting"
        if running and not active:
            actions.append(Action("start", "container", name, f"it is {existing.status}, and should run"))
        if not running and active:
            actions.append(Action("stop", "container", name, f"it is {existing.status}, and should not run"))
        return Plan(
            tuple(actions), live=live_change, start=running and not active, stop=not running and active
        )

    def _image(
        self, name: str, wanted: ContainerSpec, pulled: str, tolerant: bool, healthy: bool
    ) -> tuple[str, str]:
        """The image's id; a dry run takes one that is not there yet for one that will be, and says so."""
        try:
            image = self._images.get(wanted.image)
        except NotFound:
            if not tolerant:
                raise
            how = ", and is pulled unless it is declared" if pulled else ""
            return "", f"; image {wanted.image} is not on this host yet{how}"
        check_runnable(image)
        if not pulled and settled(wanted, image_part(image.config), name) is None and healthy:
            raise InvalidSpec(
                f'container {name} has the state "healthy" and no health check, of its own or of its image; '
                'give it a healthcheck, or the state "running"'
            )
        return image.id, f"; image {wanted.image} is pulled, since {pulled}" if pulled else ""

    # Execution

    async def _carry_out(
        self, name: str, existing: Container | None, wanted: ContainerSpec, plan: Plan, healthy: bool
    ) -> Container:
        if plan.create:
            return await self._create(name, wanted, start=plan.start)
        assert existing is not None
        if plan.replace:
            return await self._replace(existing, wanted, start=plan.start, healthy=healthy)
        if plan.live:
            await self._containers.live.apply(existing, wanted, managed=True)
        if plan.start:
            await self._containers.start(existing.id)
        if plan.stop:
            await self._containers.stop(existing.id)
        return existing

    async def _create(self, name: str, wanted: ContainerSpec, *, start: bool) -> Container:
        container = await self._containers.create(wanted, name=name, managed=True)
        if start:
            try:
                await self._containers.start(container.id)
            except MooringError:
                await self._containers.remove(container.id, force=True)
                raise
        return container

    async def _replace(
        self, old: Container, wanted: ContainerSpec, *, start: bool, healthy: bool
    ) -> Container:
        name, ran = old.name, old.running
        new = await self._containers.create(
            wanted, name=f"{name}.new-{old.id[:6]}", managed=True, replaces=old.id
        )
        try:
            if start and wanted.update_order == "start_first":
                await self._containers.start(new.id)
                if ran:
                    await self._switching.take_over(new, old)
                await self._containers.stop(old.id)
            else:
                await self._containers.stop(old.id)
                if start:
                    await self._containers.start(new.id)
            if healthy:
                await self._health.until_healthy(new, wanted.ready_timeout)
        except MooringError as error:
            undone = await self._undo(new, old, ran)
            kept = ", and runs on as it was" if ran else ""
            if not undone:
                kept = ", and is not as it was yet, which is tried again (see the agent's log)"
            error.put_before(f"container {name} was not replaced{kept}: ")
            raise
        await self._take_over(new, old)
        return new

    async def _undo(self, new: Container, old: Container, ran: bool) -> bool:
        """Remove what was to be the successor, and have the old one as it was, without a gap if it runs;
        whether that is done. If not it is tried again some times, beside everything else.
        """
        try:
            await self._undo_now(new, old, ran)
        except MooringError as error:
            logger.error("replacement not undone yet container=%s error=%r", old.name, error.message)
            self._undoing.start(self._undo_later(new, old, ran))
            return False
        return True

    async def _undo_later(self, new: Container, old: Container, ran: bool) -> None:
        for pause in _UNDONE_AFTER:
            await asyncio.sleep(pause)
            async with self._working_on(old.name):
                if any(self._registry.find(one.id) is not one for one in (new, old)):
                    return  # somebody has removed one of them
                try:
                    await self._undo_now(new, old, ran)
                except MooringError as error:
                    logger.error("replacement not undone container=%s error=%r", old.name, error.message)
                else:
                    logger.info("replacement undone container=%s", old.name)
                    return

    async def _undo_now(self, new: Container, old: Container, ran: bool) -> None:
        if ran:
            await self._switching.hand_back(new, old)
        await self._containers.remove(new.id, force=True)
        if ran and not old.running:
            await self._containers.start(old.id)

    async def _take_over(self, new: Container, old: Container) -> None:
        name = old.name
        if not name.endswith(_aside(old)):
            self._registry.rename(old, f"{name}{_aside(old)}")
            self._registry.rename(new, name)
            self._containers.renamed()
        await self._containers.remove(old.id, force=True)
        new.replaces = ""
        self._registry.save_resolved(new)

    async def _finish(self, new: Container, old: Container | None) -> None:
        if old is None:
            new.replaces = ""
            self._registry.save_resolved(new)
        elif old.name.endswith(_aside(old)) or (new.running and new.wanted):
            if new.running:
                await self._switching.publish(new)
                self._switching.started(new)
            if new.name.endswith(f".new-{old.id[:6]}"):
                await self._take_over(new, old)
            else:
                await self._containers.remove(old.id, force=True)
                new.replaces = ""
                self._registry.save_resolved(new)
        else:
            await self._containers.remove(new.id, force=True)
            if old.managed and old.spec.state == "running" and not old.running:
                await self._containers.start(old.id)


def _given(port: PortMapping) -> dict[str, Any]:
    return {key: value for key, value in vars_of(port).items() if value not in (None, "")}


def _checks_alike(existing: Container, wanted: ContainerSpec) -> bool:
    """Whether its health check is what it would be with another declaration, of the same image."""
    return existing.check == settled(wanted, existing.image_health, existing.name)


def _aside(old: Container) -> str:
    return f".old-{old.id[:6]}"


def _shown(spec: ContainerSpec, running: bool) -> dict[str, Any]:
    return {**spec_view(spec), "state": "running" if running else "stopped"}
