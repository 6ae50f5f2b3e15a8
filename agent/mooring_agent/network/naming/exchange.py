# SPDX-License-Identifier: Apache-2.0
"""Names across the hosts of overlay networks: tells the other hosts ours, and knows theirs.

Each host tells its own containers and nobody else's, each other host keeps a connection to it: there is no
one whom all depend on. Called in the event loop's thread, but for `take_up`.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from ...errors import MooringError
from ..overlay import Host, IPNetwork, Overlay, device_name
from ..records import Network
from .files import NameFiles
from .primary import Primary
from .realms import Home
from .secondary import Secondary
from .transfer import MOST_NAMES, Pace, meeting_point, record_of

logger = logging.getLogger(__name__)

Slices = tuple[IPNetwork, ...]


class Exchange:
    """The names of all overlays of an agent. `dotted_changed` is called with the bridge of one on which other
    names with dots are known from now on, `obstacles` says which firewalls of this host drop what others ask
    over an IP version.
    """

    def __init__(
        self,
        files: NameFiles,
        pace: Pace,
        dotted_changed: Callable[[str], None],
        obstacles: Callable[[int], Awaitable[list[str]]],
    ) -> None:
        self._files = files
        self._pace = pace
        self._dotted_changed = dotted_changed
        self._obstacles = obstacles
        self._shared: dict[str, _Shared] = {}

    def take_up(self, networks: Iterable[Network]) -> dict[tuple[str, str], str]:
        """Know what a former agent has heard; returns it by bridge and file. Comes first, or not at all."""
        found = {}
        for network in networks:
            if network.overlay is not None:
                self._shared[network.bridge] = shared = self._make(network.bridge, network.overlay)
                for secondary in shared.secondaries.values():
                    for name, text in secondary.take_up().items():
                        found[network.bridge, name] = text
        return found

    def follow(self, networks: Iterable[Network]) -> None:
        """Have names told and heard on these networks, as they are now."""
        overlays = {network.bridge: network.overlay for network in networks if network.overlay is not None}
        for bridge in set(self._shared) - set(overlays):
            self.end(bridge)
        for bridge, overlay in overlays.items():
            shared = self._shared.get(bridge)
            if shared is None:
                shared = self._shared[bridge] = self._make(bridge, overlay)
            shared.follow(overlay)

    def tell(self, container_id: str, homes: Iterable[Home]) -> None:
        """A container is at home there from now on, and nowhere else."""
        here = {home.bridge: home for home in homes} if self._shared else {}
        for bridge, shared in self._shared.items():
            home = here.get(bridge)
            if home is not None and len(home.names) > MOST_NAMES:
                logger.warning("names not told to other hosts container=%s most=%d", container_id, MOST_NAMES)
            shared.primary.tell(container_id, None if home is None else record_of(home))

    def dotted(self, bridges: Iterable[str]) -> Iterator[str]:
        """The names of other hosts' containers on networks that others could know, too."""
        shared = (self._shared[bridge] for bridge in bridges if bridge in self._shared)
        return (name for each in shared for other in each.secondaries.values() for name in other.dotted)

    def end(self, bridge: str) -> None:
        """A network is gone."""
        shared = self._shared.pop(bridge, None)
        if shared is not None:
            shared.cancel()

    def close(self) -> None:
        """Let go of everything; what was heard stays in the files."""
        for bridge in list(self._shared):
            self.end(bridge)

    def problem(self, network: Network) -> str:
        """Why other hosts cannot hear of ours, "" if they can."""
        shared = self._shared.get(network.bridge)
        return "" if shared is None else shared.primary.problem

    def view(self, network: Network) -> dict[str, Any] | None:
        """How names are heard from each other host of an overlay; None for another network."""
        if network.overlay is None:
            return None
        shared = self._shared.get(network.bridge)
        others = [] if shared is None else list(shared.secondaries.values())
        return {other.host.name: other.view() for other in others}

    def _make(self, bridge: str, overlay: Overlay) -> _Shared:
        def hear_of(host: Host) -> Secondary:
            return Secondary(
                host,
                bridge,
                device_name(bridge),
                self._files,
                self._pace,
                lambda: self._dotted_changed(bridge),
            )

        return _Shared(overlay, device_name(bridge), self._pace, hear_of, self._obstacles)


class _Shared:
    """One overlay: what is told of this host, and what is known of each other one, by its slices, through
    `device`.
    """

    def __init__(
        self,
        overlay: Overlay,
        device: str,
        pace: Pace,
        hear_of: Callable[[Host], Secondary],
        obstacles: Callable[[int], Awaitable[list[str]]],
    ) -> None:
        self.primary = Primary(overlay, pace, self._called, obstacles)
        self.secondaries: dict[Slices, Secondary] = {}
        self._device = device
        self._index = 0
        self._hear_of = hear_of
        self._tasks: dict[Slices | None, asyncio.Task[None]] = {}
        self._know(overlay)

    def follow(self, overlay: Overlay) -> None:
        """These are the hosts from now on."""
        self._know(overlay)
        self._look_at_device()
        self.primary.admit(overlay)
        if None not in self._tasks:
            self._start(None, self.primary.run())
        for slices, secondary in self.secondaries.items():
            if slices not in self._tasks:
                self._start(slices, secondary.run(meeting_point(overlay.here)))

    def cancel(self) -> None:
        """End all that is going on."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    def _know(self, overlay: Overlay) -> None:
        others = {host.slices: host for host in overlay.others}
        for slices in set(self.secondaries) - set(others):
            if slices in self._tasks:
                self._tasks.pop(slices).cancel()
            try:
                self.secondaries.pop(slices).forget()
            except MooringError as error:
                logger.error("names not forgotten error=%r", error.message)
        for slices, host in others.items():
            if slices in self.secondaries:
                self.secondaries[slices].host = host
            else:
                self.secondaries[slices] = self._hear_of(host)

    def _look_at_device(self) -> None:
        """Listen anew if the device is another one, as it is where encryption begins or ends: a connection
        is bound to the one of before, and would be silent.
        """
        try:
            index = socket.if_nametoindex(self._device)
        except OSError:
            index = 0
        if index != self._index:
            self._index = index
            for slices in self.secondaries.keys() & self._tasks.keys():
                self._tasks.pop(slices).cancel()

    def _called(self, gateway: str) -> None:
        """Another host has connected: so it lives, and can be connected to."""
        for secondary in self.secondaries.values():
            if meeting_point(secondary.host) == gateway:
                secondary.call()

    def _start(self, key: Slices | None, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks[key] = task
        task.add_done_callback(_done)


def _done(task: asyncio.Task[None]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None:
        logger.error("names across hosts not as they should be", exc_info=error)
