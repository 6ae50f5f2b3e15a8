# SPDX-License-Identifier: Apache-2.0
"""Gives containers names on their networks: who is where, and a server for each view that somebody has.

What is told here is written at the end of the event loop's turn, unless somebody waits for it in `ready`, and
servers come and go by themselves: one is there while a container that has its view runs, or is about to.
They outlive the agent; `settle` is how the next one takes them up. Called in the event loop's thread only.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from ...errors import MissingProgram, MooringError
from ...linux.nftables import NftError
from ..neighbours import once
from ..records import Network
from . import zone
from .dnsmasq import check_path, configuration
from .exchange import Exchange
from .files import NameFiles, reading_user
from .realms import Home, Realm, Resident, View, realm_of, view_of
from .redirects import Redirects
from .server import Server, end_stray, free_port, program, shorten
from .told import Changed, Told
from .transfer import Pace

logger = logging.getLogger(__name__)

_PORT = 53
_EXPECTED = 15.0  # seconds that a server waits for a container that was about to start
_LINGERS = 10.0  # and after the last one has ended, since another one often follows
_NOTED_MOST = 1000  # changes after which it is time to look at the logs, which note each
_TOGETHER = 0.05  # seconds in which several changes of names with dots become one
_READY_WITHIN = 5.0
_LOOK_AGAIN = 20.0  # seconds between two looks at a firewall that is in the way


class _Served:
    """A view with its server, and who has it."""

    def __init__(self, view: View, server: Server) -> None:
        self.view = view
        self.server = server
        self.port = _PORT
        self.running: set[str] = set()
        self.expected: set[str] = set()
        self.leaving: asyncio.TimerHandle | None = None
        self.telling: asyncio.TimerHandle | None = None
        self.good = True


class NameService:
    """All names of an agent's networks.

    `networks` are those there are. `resolvers_changed` is called with the containers whose resolver is
    another one from now on, since a server could not be started, or could after all. `pace` is that of names
    across hosts.
    """

    def __init__(
        self,
        run_root: Path,
        nft_table: str,
        bridge_prefix: str,
        networks: Callable[[], Iterable[Network]],
        resolvers_changed: Callable[[list[str]], None],
        pace: Pace | None = None,
    ) -> None:
        self._files = NameFiles(run_root / "names", reading_user())
        self.redirects = Redirects(f"{nft_table}_names", bridge_prefix)
        self._exchange = Exchange(
            self._files, pace or Pace(), self._dotted_changed, self.redirects.obstacles_between_hosts
        )
        self._networks = networks
        self._resolvers_changed = resolvers_changed
        self._unable = ""
        self._able = False
        self._obstacles: dict[int, tuple[str, ...]] = {}  # by the IP version of those who ask
        self._looking: asyncio.TimerHandle | None = None
        self._residents: dict[str, Resident] = {}
        self._coming: dict[str, tuple[Resident, View]] = {}
        self._running: dict[str, tuple[Resident, View]] = {}  # as of the last `_flush`
        self._served: dict[str, _Served] = {}
        self._told = Told(self._files)
        self._dirty: set[str] = set()
        self._flushing = False
        self._noted = 0
        self._settled = False
        self._seen: list[Network] = []
        self._known: dict[str, Realm] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    # ---- what a start asks ------------------------------------------------------------------------

    def resolver(self, resident: Resident) -> str | None:
        """The address of which the container asks names; None if it is to ask the host's resolvers."""
        view = self._view(resident)
        if view is None or not self._is_able():
            return None
        served = self._served.get(view.key)
        first = next(home.bridge for home in resident.homes if home.bridge in view.bridges)
        asked = next(realm for realm in view.realms if realm.bridge == first).gateways[0]
        if self._obstacles.get(asked.version) or (served is not None and not served.good):
            return None
        return str(asked)

    @property
    def obstacles(self) -> tuple[str, ...]:
        """What keeps containers from asking, and what to do about it."""
        return once(chain.from_iterable(self._obstacles.values()))

    @property
    def troubled(self) -> bool:
        """Whether some containers have to ask the host's resolvers, who should not."""
        return bool(self.obstacles) or not all(served.good for served in self._served.values())

    async def expect(self, resident: Resident) -> None:
        """Be ready for a container that is about to start: have its server come, and know it by its view.

        Waits for nothing unless its view is one that not all containers of its network have.
        """
        view = self._view(resident)
        if view is None or not self._is_able():
            return
        self._coming[resident.container_id] = resident, view
        loop = asyncio.get_running_loop()
        for one in view.served:
            self._serve(one).expected.add(resident.container_id)
            loop.call_later(_EXPECTED, self._expect_no_longer, one.key, resident.container_id)
        if not view.plain:
            await self._redirect()

    async def ready(self, resident: Resident) -> None:
        """Wait, for some seconds at most, until its server knows what was told, or is known not to answer."""
        if self._settled and self._dirty:
            self._flush()  # a server reads its files before the next question
        view = self._view(resident)
        if view is not None and (served := self._served.get(view.key)) is not None:
            with suppress(TimeoutError):
                await asyncio.wait_for(served.server.known.wait(), _READY_WITHIN)

    def publish(self, resident: Resident) -> None:
        """A container runs, or is called something else: its names are told from now on."""
        if not resident.homes:
            self.withdraw(resident.container_id)
            return
        if self._residents.get(resident.container_id) == resident:
            return
        self._residents[resident.container_id] = resident
        self._touch(resident.container_id)

    def withdraw(self, container_id: str) -> None:
        """A container does not run any more."""
        if self._residents.pop(container_id, None) is not None or container_id in self._told:
            self._touch(container_id)

    # ---- the agent's life -------------------------------------------------------------------------

    async def settle(self, residents: Iterable[Resident]) -> None:
        """Take up what the former agent has left, and make it what it should be: these are who runs."""
        for resident in residents:
            if resident.homes:
                self._residents.setdefault(resident.container_id, resident)
                self._dirty.add(resident.container_id)
        bridges = {realm.bridge for realm in self._realms().values()}
        texts = {}
        for resident in list(self._residents.values()):
            for home in resident.homes:
                if home.bridge in bridges:
                    with suppress(MooringError):  # it is told of when it is written
                        texts[home.bridge, resident.container_id] = zone.hosts_text(home)
        try:
            await asyncio.to_thread(self._sweep, texts, bridges)
            self._told.take_up(texts)
        except OSError as error:
            logger.error("names of a former agent not taken up error=%r", str(error))
        self._settled = True
        self.follow_networks()
        self._flush()  # before anything is told to other hosts
        self._tell_local_soon(bridges)  # those that came up before it was known what was heard
        for place in self._files.places():
            if place.directory.name not in self._served:  # a container may start meanwhile
                await asyncio.to_thread(end_stray, place)
        await self._redirect(anew=True)

    async def stop(self) -> None:
        """Let go of everything. Servers of containers that run stay, others end."""
        self._exchange.close()
        if self._looking is not None:
            self._looking.cancel()
        idle = []
        for served in list(self._served.values()):
            if served.leaving is not None:
                served.leaving.cancel()
            if served.running:
                served.server.let_go()
            else:
                idle.append(self._end(served))
        await asyncio.gather(*idle)

    async def teardown(self) -> None:
        """End all servers, and remove everything that is theirs."""
        for known in (self._residents, self._coming, self._running, self._told):
            known.clear()
        self._exchange.close()
        for served in list(self._served.values()):
            await self._end(served)
            await asyncio.to_thread(end_stray, served.server.place)
        for bridge in self._files.networks():
            self._files.remove_network(bridge)
        await self._redirect(anew=True)

    def follow_networks(self) -> None:
        """Networks were declared, or repaired: names go between the hosts that they have now."""
        if self._settled:
            self._exchange.follow(self._networks())
            for served in list(self._served.values()):
                now = tuple(self._realms().get(realm.bridge, realm) for realm in served.view.realms)
                if now != served.view.realms:  # encryption has begun or ended, which is another MTU
                    self._serve(replace(served.view, realms=now))

    async def network_removed(self, bridge: str) -> None:
        """A network is gone: so are its servers and its names."""
        self._exchange.end(bridge)
        for served in list(self._served.values()):
            if any(realm.bridge == bridge for realm in served.view.realms):
                await self._end(served)
                await asyncio.to_thread(end_stray, served.server.place)
        self._files.remove_network(bridge)

    def view(self, network: Network) -> dict[str, Any] | None:
        """How names are given on a network, for its view; None where they are not.

        `state` is "idle" while nobody is there who could ask.
        """
        realm = realm_of(network)
        if realm is None:
            return None
        mine = [served for served in self._served.values() if realm in served.view.realms]
        mine.sort(key=lambda served: (not served.view.plain, not served.server.problem))
        state, problem = (mine[0].server.state, mine[0].server.problem) if mine else ("stopped", "")
        if not self._is_able():
            state, problem = "failed", self._unable
        elif not problem:
            problem = next(
                iter(self._obstacles.get(realm.gateways[0].version, ())), ""
            ) or self._exchange.problem(network)
        return {
            "server": str(realm.gateways[0]),
            "state": "idle" if state == "stopped" else state,
            "pid": mine[0].server.pid if mine else None,
            "problem": problem or None,
            "hosts": self._exchange.view(network),
        }

    # ---- inside -----------------------------------------------------------------------------------

    def _realms(self) -> dict[str, Realm]:
        """By bridge, as the networks are now."""
        networks = list(self._networks())
        if networks != self._seen:  # mostly they are the very same, and nothing is compared
            found = [realm for realm in map(realm_of, networks) if realm is not None]
            self._seen, self._known = networks, {realm.bridge: realm for realm in found}
        return self._known

    def _view(self, resident: Resident) -> View | None:
        return view_of(resident, self._realms()) if resident.homes else None

    def _is_able(self) -> bool:
        """Whether there can be servers on this host."""
        if self._able:
            return True
        try:
            check_path(self._files.root)
            program()
        except MooringError as error:
            if error.message != self._unable:
                logger.warning("names are not told reason=%r", error.message)
            self._unable = error.message
            return False
        if self._unable:
            self._able, self._unable = True, ""
            for container_id in self._residents:
                self._touch(container_id)
            self._resolvers_changed(sorted(self._residents))
        self._able = True
        return True

    def _touch(self, container_id: str) -> None:
        self._dirty.add(container_id)
        if self._settled and not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Write what has changed."""
        self._flushing = False
        dirty, self._dirty = self._dirty, set()
        self._noted += len(dirty)
        if self._noted > _NOTED_MOST:
            self._noted = 0
            for served in self._served.values():
                shorten(served.server.place)
        changed = Changed()
        redirected = False
        for container_id in dirty:
            _, before = self._running.pop(container_id, (None, None))
            resident = self._residents.get(container_id)
            view = None if resident is None or not self._is_able() else self._view(resident)
            self._coming.pop(container_id, None)
            try:
                changed.include(self._told.tell(container_id, self._homes(resident) if view else ()))
            except (OSError, MooringError) as error:
                logger.error("names not written container=%s error=%r", container_id[:12], str(error))
            self._exchange.tell(container_id, self._homes(resident))
            if resident is not None and view is not None:
                self._running[container_id] = resident, view
            self._move(container_id, before, view)
            redirected = redirected or any(one is not None and not one.plain for one in (before, view))
        self._tell_local_soon(changed.local)
        for key, served in self._served.items():
            if key in changed.reservations:
                served.server.reread()
        if redirected:
            self._spawn(self._redirect())

    def _move(self, container_id: str, before: View | None, view: View | None) -> None:
        """Count a container among those that need the servers of a view, and not of the one it had."""
        needed = set()
        for one in () if view is None else view.served:
            self._serve(one).running.add(container_id)
            needed.add(one.key)
        for one in () if before is None else before.served:
            served = self._served.get(one.key)
            if served is not None and one.key not in needed:
                served.running.discard(container_id)
                self._leave_when_idle(served)

    def _homes(self, resident: Resident | None) -> list[Home]:
        realms = self._realms()
        return [] if resident is None else [home for home in resident.homes if home.bridge in realms]

    def _dotted_changed(self, bridge: str) -> None:
        self._tell_local_soon({bridge})

    def _tell_local_soon(self, bridges: set[str]) -> None:
        for served in self._served.values():
            if bridges & served.view.bridges and served.telling is None:
                loop = asyncio.get_running_loop()
                served.telling = loop.call_later(_TOGETHER, self._tell_local, served)

    def _local_names(self, view: View) -> str:
        """The names about which nobody else is asked, see `zone.local_names`."""
        known = self._told.dotted(view.bridges), self._exchange.dotted(view.bridges)
        return zone.local_names(chain(*known))

    def _tell_local(self, served: _Served) -> None:
        """Tell a server about which names it is to ask nobody: all that have changed lately at once."""
        served.telling = None
        if self._served.get(served.view.key) is not served:
            return
        if self._files.set_local(served.server.place, self._local_names(served.view)):
            served.server.reread()

    def _serve(self, view: View) -> _Served:
        """Have a server for a view, from soon on."""
        served = self._served.get(view.key)
        if served is not None and served.view == view:
            if served.leaving is not None:
                served.leaving.cancel()
                served.leaving = None
            if served.server.state == "stopped":
                self._spawn(self._bring_up(served))
            return served
        if served is None:
            place = self._files.place(view.key)
            self._files.open_place(place, view.bridges)
            served = _Served(view, Server(place, lambda: self._server_changed(view.key)))
            if not view.plain:
                served.port = free_port(place, view, {other.port for other in self._served.values()})
            self._served[view.key] = served
        served.view = view  # a network of the same bridge that is another one now
        self._spawn(self._bring_up(served))
        return served

    async def _bring_up(self, served: _Served) -> None:
        view = served.view
        place = served.server.place
        self._files.set_local(place, self._local_names(view))
        config = configuration(view, place, served.port)
        addresses = tuple(str(gateway) for realm in view.realms for gateway in realm.gateways)
        await served.server.run(config, addresses, served.port)
        await self.look_for_obstacles()

    async def look_for_obstacles(self) -> None:
        """See whether a firewall of the host keeps questions from coming: then containers go on asking the
        host's resolvers, whom they reach, until it is told to let them pass.
        """
        if not self._served:
            return
        realms = chain.from_iterable(served.view.realms for served in self._served.values())
        versions: set[int] = {realm.gateways[0].version for realm in realms}
        try:
            found = {version: tuple(await self.redirects.obstacles(version)) for version in versions}
        except (MissingProgram, NftError):
            return  # the networks have no table either, and say so
        known, before, self._obstacles = self.obstacles, self._obstacles, found
        for obstacle in self.obstacles:
            if obstacle not in known:
                logger.warning("names obstructed what=%r", obstacle)
        if any(bool(found.get(version)) != bool(before.get(version)) for version in (4, 6)):
            everybody = {id for served in self._served.values() for id in served.running | served.expected}
            self._resolvers_changed(sorted(everybody))
        if self.obstacles and self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._look_again)

    def _look_again(self) -> None:
        self._looking = None
        if self._served:
            self._spawn(self.look_for_obstacles())

    def _server_changed(self, key: str) -> None:
        served = self._served.get(key)
        if served is None:
            return
        good = served.server.state != "failed"
        if good and served.server.state != "running":
            return  # it shows soon
        if good != served.good:
            served.good = good
            self._resolvers_changed(sorted(served.running | served.expected))

    def _expect_no_longer(self, key: str, container_id: str) -> None:
        if (coming := self._coming.get(container_id)) and coming[1].key == key:
            del self._coming[container_id]
            if not coming[1].plain:  # who has its address next is not to be led there
                self._spawn(self._redirect())
        if served := self._served.get(key):
            served.expected.discard(container_id)
            self._leave_when_idle(served)

    def _leave_when_idle(self, served: _Served) -> None:
        if served.running or served.expected or served.leaving is not None:
            return
        loop = asyncio.get_running_loop()
        served.leaving = loop.call_later(_LINGERS, lambda: self._spawn(self._leave(served)))

    async def _leave(self, served: _Served) -> None:
        served.leaving = None
        if not served.running and not served.expected:
            await self._end(served)

    async def _end(self, served: _Served) -> None:
        """End a server, and forget its view."""
        if self._served.get(served.view.key) is served:
            del self._served[served.view.key]
        if served.leaving is not None:
            served.leaving.cancel()
        await served.server.end()
        if not served.view.plain:
            await self._redirect()

    async def _redirect(self, *, anew: bool = False) -> None:
        entries = {}
        for resident, view in {**self._coming, **self._running}.values():
            served = self._served.get(view.key)
            if served is None or view.plain:
                continue
            for home in resident.homes:
                if home.bridge in view.bridges:
                    entries[home.bridge, home.mac] = served.port
        await self.redirects.make(entries, anew=anew)

    def _sweep(self, texts: dict[tuple[str, str], str], bridges: set[str]) -> None:
        for bridge in self._files.networks():
            if bridge not in bridges:
                self._files.remove_network(bridge)
        heard = self._exchange.take_up(self._networks())
        self._files.retain({**texts, **heard})

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, MooringError | OSError):
            logger.error("name server not as it should be error=%r", str(error))
        elif error is not None:
            logger.error("name server not as it should be", exc_info=error)
