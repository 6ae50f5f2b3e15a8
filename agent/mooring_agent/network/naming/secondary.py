# SPDX-License-Identifier: Apache-2.0
"""Knows the names of the containers of one other host of an overlay, as that host tells them.

They are files among those of this host's own containers, so that its name servers answer for them whether or
not an agent runs, here or there. A host that refuses a connection lives, and its agent is away: what it has
told holds. One that is not heard of at all is forgotten after a while, with all of its containers.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from typing import Any

from ...errors import MooringError, Unavailable
from ..overlay import Host
from . import transfer, zone
from .files import NameFiles
from .transfer import BUCKETS, LONGEST_LINE, PORT, Heard, NotUnderstood, Pace, meeting_point

logger = logging.getLogger(__name__)

_LEAST_PAUSE = 0.02  # seconds, also for one that calls us again and again
_SECONDS_A_BYTE = 1e-6  # before another line is taken, of all names of the host


class Secondary:
    """The names of `host`, asked for through `device`. `dotted_changed` is called when other names with dots
    are among them than before.

    `state` is "connecting" before the first answer, "connected", "away" while what it has told holds without
    it, or "gone".
    """

    def __init__(
        self,
        host: Host,
        bridge: str,
        device: str,
        files: NameFiles,
        pace: Pace,
        dotted_changed: Callable[[], None],
    ) -> None:
        self.host = host
        self.state = "connecting"
        self.since = time.time()
        self.problem = ""
        self.dotted: frozenset[str] = frozenset()
        self._bridge = bridge
        self._device = device
        self._files = files
        self._pace = pace
        self._dotted_changed = dotted_changed
        self._texts = ["" for _ in range(BUCKETS)]
        self._parts: list[frozenset[str]] = [frozenset() for _ in range(BUCKETS)]
        self._called = asyncio.Event()
        self._lived = self._understood = 0.0  # when it last did, in the loop's time
        self._forgetting: asyncio.TimerHandle | None = None

    def take_up(self) -> dict[str, str]:
        """Know what is in the files that a former agent has left; returns it, by their names."""
        for bucket in range(BUCKETS):
            text = _checked(self._files.names(self._bridge, file_name(self.host, bucket)), self.host)
            self._texts[bucket] = text
            self._parts[bucket] = frozenset(zone.dotted(_names(text)))
        self.dotted = frozenset(name for part in self._parts for name in part)
        return {file_name(self.host, bucket): text for bucket, text in enumerate(self._texts) if text}

    async def run(self, own: str) -> None:
        """Listen to the host, from the address `own`, until it is cancelled."""
        pause = 0.0
        self._lived = self._understood = asyncio.get_running_loop().time()
        self._forget_later()
        try:
            while True:
                heard = Heard(self.host.slices)
                try:
                    await self._listen(own, heard)
                except NotUnderstood as error:
                    self._lived = self._understood  # it may never tell what we could know
                    self._miss(f"{self._where} is not understood: {error.message}", lives=False)
                except MooringError as error:
                    self._miss(error.message, lives=False)
                except (ConnectionError, EOFError):
                    self._miss(
                        f"{self._where} takes no connection: its agent is away, older, or does not know this "
                        "host, or a firewall there rejects it",
                        lives=True,
                    )
                except TimeoutError:
                    way = "WireGuard" if self.host.public_key else "VXLAN"
                    self._miss(
                        f"{self._where} does not answer: it is down, the network is not declared there, or a "
                        f"firewall drops {way} between the hosts, or there what comes from it to TCP port "
                        f"{PORT}",
                        lives=False,
                    )
                except OSError as error:
                    self._miss(f"{self._where} cannot be asked: {error.strerror}", lives=False)
                longer = max(pause * 2, self._pace.again_first)
                pause = 0.0 if heard.complete else min(longer, self._pace.again_most)
                await self._pause(pause)
        finally:
            if self._forgetting is not None:
                self._forgetting.cancel()

    def call(self) -> None:
        """The host lives: there is no need to wait any longer before it is asked again."""
        self._called.set()

    def forget(self) -> None:
        """Know none of its names any more. Raises Unavailable."""
        self._write(range(BUCKETS), Heard(()))

    def view(self) -> dict[str, Any]:
        """Its state as JSON; `since` in seconds since 1970, `addresses` how many are known by name."""
        return {
            "state": self.state,
            "since": self.since,
            "addresses": sum(text.count("\n") for text in self._texts),
            "problem": self.problem or None,
        }

    # ---- inside -----------------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        return f"host {self.host.name} at {meeting_point(self.host)} port {PORT}"

    async def _listen(self, own: str, heard: Heard) -> None:
        loop = asyncio.get_running_loop()
        family = socket.AF_INET6 if ":" in own else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            # Else it would be the outside that is asked, if the overlay were not there.
            made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._device.encode())
            made.bind((own, 0))
            async with asyncio.timeout(self._pace.answer):
                await loop.sock_connect(made, (meeting_point(self.host), PORT))
            self._lived = loop.time()  # even if its agent should be too slow to say anything
            reader, writer = await asyncio.open_connection(sock=made, limit=LONGEST_LINE)
        except BaseException:
            made.close()
            raise
        try:
            while True:
                line = await self._line(reader)
                self._write(heard.take(line), heard)
                if heard.complete:
                    self._lived = self._understood = loop.time()
                    self._called.clear()
                    self._become("connected", heard.doubt and f"{self._where}: {heard.doubt}")
                # Whoever says too much waits, and keeps nobody here from anything else.
                await asyncio.sleep(self._pace.between + _SECONDS_A_BYTE * sum(map(len, self._texts)))
        finally:
            writer.transport.abort()

    async def _line(self, reader: asyncio.StreamReader) -> bytes:
        try:
            async with asyncio.timeout(self._pace.silence):
                return await reader.readuntil(b"\n")
        except asyncio.LimitOverrunError:
            raise NotUnderstood(f"a line is longer than {LONGEST_LINE} bytes") from None

    def _write(self, buckets: Collection[int], heard: Heard) -> None:
        """Make these buckets in the files what was heard. Raises Unavailable."""
        for bucket in buckets:
            text = heard.text(bucket)
            if text != self._texts[bucket]:
                try:
                    self._files.set_names(self._bridge, file_name(self.host, bucket), text)
                except OSError as error:
                    raise Unavailable(
                        f"names of host {self.host.name} cannot be written below {self._files.root}: "
                        f"{error.strerror}; make room there"
                    ) from error
                self._texts[bucket] = text
            self._parts[bucket] = heard.dotted(bucket)
        if buckets:
            dotted = frozenset(name for part in self._parts for name in part)
            if dotted != self.dotted:
                self.dotted = dotted
                self._dotted_changed()

    def _miss(self, problem: str, *, lives: bool) -> None:
        """The host is not connected, and why."""
        if lives:
            self._lived = asyncio.get_running_loop().time()
        self._become(self.state if self.state in ("gone", "connecting") else "away", problem)
        self._forget_later()

    def _forget_later(self) -> None:
        if self._forgetting is not None:
            self._forgetting.cancel()
        at = self._lived + self._pace.forget
        self._forgetting = asyncio.get_running_loop().call_at(at, self._forget_now)

    def _forget_now(self) -> None:
        self._forgetting = None
        if asyncio.get_running_loop().time() < self._lived + self._pace.forget:
            self._forget_later()
            return
        try:
            self.forget()
        except MooringError as error:
            logger.error("names not forgotten host=%s error=%r", self.host.name, error.message)
        self._become("gone", self.problem)

    def _become(self, state: str, problem: str) -> None:
        if state == "connected" and self._forgetting is not None:
            self._forgetting.cancel()
            self._forgetting = None
        if problem and problem != self.problem:
            logger.warning("names of another host bridge=%s problem=%r", self._bridge, problem)
        if state != self.state:
            logger.info(
                "names of another host bridge=%s host=%s state=%s", self._bridge, self.host.name, state
            )
            self.since = time.time()
        self.state, self.problem = state, problem

    async def _pause(self, seconds: float) -> None:
        await asyncio.sleep(_LEAST_PAUSE)
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds * random.uniform(0.5, 1.0)):
                await self._called.wait()
        self._called.clear()


def file_name(host: Host, bucket: int) -> str:
    """The file of some names of a host, which is never that of a container."""
    return f"slice-{host.slices[0].network_address}-{bucket}"


def _checked(text: str, host: Host) -> str:
    """What is in a file if it can be a host's, else ""."""
    for line in text.splitlines():
        address, _, names = line.partition("\t")
        if transfer.within(address, host.slices) is None or not all(map(zone.can_be_told, names.split(" "))):
            return ""
    return text


def _names(text: str) -> Iterable[str]:
    return (name for line in text.splitlines() for name in line.partition("\t")[2].split(" "))
