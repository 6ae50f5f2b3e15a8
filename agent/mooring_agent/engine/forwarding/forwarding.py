# SPDX-License-Identifier: Apache-2.0
"""Sends on what containers write, to whom their log drivers say."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
from collections.abc import Awaitable, Callable, Iterable, Mapping

from ...errors import MooringError, NotFound, Unavailable
from ...images.store import ImageStore
from ...linux.inotify import DirectoryWatch
from ..container import Container
from ..events import EventBus
from ..launching import Launching
from ..resources.logdrivers import JOURNALD, LogOptions, SyslogAddress
from . import journal, links, syslog
from .backlog import Backlog, end_of, save_places
from .onhost import LOCAL_SYSLOG, address_of, check_receiver, tls_context
from .origin import Encoder, attributes_of, origin_of
from .receiver import Receiver
from .shipment import Shipment

logger = logging.getLogger(__name__)

_PLACES = "sent"
# How long the removal of a container waits for the rest of its log to be sent.
_FINISH_WITHIN = 3.0
_TLS = "syslog-tls-"


class Forwarding:
    """The logs that are sent on, and to whom. A receiver is there while a container's log goes to it.

    `watch` is what tells of changes in directories.
    """

    def __init__(
        self,
        launching: Launching,
        events: EventBus,
        images: ImageStore,
        watch: Callable[[], DirectoryWatch],
    ) -> None:
        self._launching = launching
        self._events = events
        self._images = images
        self._watch = watch
        self._shipments: dict[str, Shipment] = {}
        self._receivers: dict[tuple[str, ...], Receiver] = {}

    def check_host(self, name: str, log: LogOptions) -> None:
        """Raise what keeps a container from having this log driver here."""
        check_receiver(name, log)

    def attributes(self, container: Container) -> dict[str, str]:
        """What a container's log options want to be told with its output."""
        return attributes_of(container, self._image_labels(container))

    async def start(self, containers: Iterable[Container]) -> None:
        """Go on where a former agent was."""
        for container in containers:
            try:
                await self.begin(container)
            except MooringError as error:
                logger.error("log not sent container=%s error=%r", container.name, error.message)

    async def begin(self, container: Container) -> None:
        """Send on what a container writes, and what a former agent has not sent of it. Raises Unavailable."""
        if not container.spec.log.forwarded or container.id in self._shipments:
            return
        directory = self._launching.log_directory(container)
        receiver = self._receiver(container.spec.log)
        backlog = Backlog(directory, self._state(container))
        shipment = Shipment(container, backlog, receiver, lambda: self._encoder(container))
        self._shipments[container.id] = shipment
        receiver.users += 1
        try:
            shipment.watch = self._watch().wake(directory, shipment)
        except OSError as error:
            await self._end(shipment)
            raise Unavailable(
                f"log of container {container.name} cannot be followed to be sent on: {error.strerror}"
            ) from None
        container.wakers.add(shipment)
        shipment.set()

    async def finish(self, container: Container) -> None:
        """Send what is left of the log of one that has ended and is to be removed, within some seconds."""
        shipment = self._shipments.get(container.id)
        if shipment is None:
            return
        await self._send_rest(shipment)
        await self._end(shipment)

    async def change(self, container: Container, before: LogOptions) -> None:
        """Its log driver or its options are others than before. From then on, the new ones hold."""
        shipment = self._shipments.get(container.id)
        if shipment is not None:
            if not container.spec.log.forwarded:
                await self._send_rest(shipment)
            await self._end(shipment, before)
        if not container.spec.log.forwarded:
            _remove(self._state(container))
        else:
            if not before.forwarded:
                save_places(self._state(container), end_of(self._launching.log_directory(container)))
            await self.begin(container)

    async def close(self) -> None:
        """Send nothing more; the next agent goes on."""
        await asyncio.gather(*(receiver.close() for receiver in self._receivers.values()))
        self._receivers.clear()
        self._shipments.clear()

    # What receivers report

    def unreachable(self, receiver: str, error: str) -> None:
        """See `Reports`."""
        logger.warning("log receiver unreachable receiver=%s error=%r", receiver, error)
        self._events.publish("daemon", "log_unreachable", receiver, {"name": receiver, "error": error})

    def reachable(self, receiver: str) -> None:
        """See `Reports`."""
        logger.info("log receiver reachable again receiver=%s", receiver)
        self._events.publish("daemon", "log_reachable", receiver, {"name": receiver})

    def lost(self, shipment: Shipment, what: str) -> None:
        """See `Reports`."""
        container = shipment.container
        logger.warning("log not sent container=%s reason=%r", container.name, what)
        self._events.publish("container", "log_lost", container.id, {**container.attributes, "reason": what})

    # Inside

    def _state(self, container: Container) -> str:
        return str(self._launching.directory(container) / _PLACES)

    def _image_labels(self, container: Container) -> Mapping[str, str]:
        try:
            return self._images.get(container.image_id).config.get("Labels") or {}
        except NotFound:
            return {}  # it is there no more

    def _receiver(self, log: LogOptions) -> Receiver:
        key = _key(log)
        if key not in self._receivers:
            name, connect = _way_to(log)
            self._receivers[key] = Receiver(name, connect, self)
        return self._receivers[key]

    async def _send_rest(self, shipment: Shipment) -> None:
        if not await shipment.receiver.finish(shipment, _FINISH_WITHIN):
            self.lost(shipment, f"{shipment.receiver.name} did not take the rest of its log")

    async def _end(self, shipment: Shipment, log: LogOptions | None = None) -> None:
        """Send no more of a log, which had these options; a receiver to which nothing goes is left."""
        container, receiver = shipment.container, shipment.receiver
        del self._shipments[container.id]
        container.wakers.discard(shipment)
        self._watch().remove(shipment.watch, shipment)
        receiver.forget(shipment)
        receiver.users -= 1
        if not receiver.users:
            self._receivers.pop(_key(log or container.spec.log), None)
            await receiver.close()

    def _encoder(self, container: Container) -> Encoder:
        log = container.spec.log
        origin = origin_of(container, self._image_labels(container), platform.node(), os.getpid())
        if log.driver == JOURNALD:
            return journal.encoder(origin)
        transport = log.address_transport
        return syslog.encoder(
            log.options,
            origin,
            stream=transport in ("tcp", "tcp+tls", "unix"),
            secured=transport == "tcp+tls",
        )


def _key(log: LogOptions) -> tuple[str, ...]:
    """What is the same for all logs that can go over one link."""
    if log.driver == JOURNALD:
        return (JOURNALD,)
    secured = (f"{name}={value}" for name, value in sorted(log.options.items()) if name.startswith(_TLS))
    return (log.driver, str(address_of(log)), *secured)


def _way_to(log: LogOptions) -> tuple[str, Callable[[], Awaitable[links.Link]]]:
    """What a receiver is called, and what makes a link to it."""
    if log.driver == JOURNALD:
        return JOURNALD, lambda: links.journal(journal.SOCKET)
    address = address_of(log) or SyslogAddress("unixgram", path=LOCAL_SYSLOG)

    async def connect() -> links.Link:
        tls = await asyncio.to_thread(tls_context, log) if address.transport == "tcp+tls" else None
        return await links.connect(address, tls)

    return str(address), connect


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
