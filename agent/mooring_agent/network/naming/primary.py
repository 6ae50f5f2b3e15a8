# SPDX-License-Identifier: Apache-2.0
"""Tells the other hosts of an overlay the names of this host's containers: all there are, then each change.

At the gateway of the host's slice. Others connect from the gateways of theirs, which no container can speak
from: the guard keeps it from that, and a connection has to hear the answers. A filter in the kernel drops
whatever comes from elsewhere before there is a connection, so that containers that try cost nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import ipaddress
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress

from ..holders import port_holder
from ..overlay import Overlay
from . import transfer
from .transfer import PORT, Pace, Record, meeting_point

logger = logging.getLogger(__name__)

_TRY_AGAIN = 5.0  # seconds, where somebody has the port
_SOON = 0.5  # where the gateway's address is not there yet
_LOOK_AGAIN = 60.0  # seconds between two looks at firewalls while somebody does not hear
_BACKLOG = 1024  # connections wait here while the agent is stopped or slow
# What waits for one that does not read: more than all that there can be to tell.
_MOST_WAITING = 4 * transfer.MOST_BYTES

_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>
_INSTRUCTION = struct.Struct("=HBBI")  # sock_filter, <linux/filter.h>
_LOAD_WORD, _AND, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06  # <linux/bpf_common.h>
_NETWORK_HEADER = 0xFFF00000  # SKF_NET_OFF
_SOURCE = {4: 12, 6: 8}  # where it is there, RFC 791 and RFC 8200


class Primary:
    """What `records` says, by id, is told to the hosts of an overlay; `heard` is called with the gateway of
    one that has connected, `obstacles` says which firewalls here keep others from that over an IP version.
    """

    def __init__(
        self,
        overlay: Overlay,
        pace: Pace,
        heard: Callable[[str], None],
        obstacles: Callable[[int], Awaitable[list[str]]],
    ) -> None:
        self.problem = ""
        self.records: dict[str, Record] = {}
        self._overlay = overlay
        self._pace = pace
        self._heard = heard
        self._obstacles = obstacles
        self._admitted: frozenset[str] = frozenset()
        self._subscribers: dict[str, _Subscriber] = {}
        self._changed: dict[str, Record | None] = {}
        self._telling: asyncio.TimerHandle | None = None
        self._told_at = 0.0
        self.admit(overlay)

    def admit(self, overlay: Overlay) -> None:
        """These are the hosts from now on."""
        self._admitted = frozenset(meeting_point(host) for host in overlay.others)
        for gateway in set(self._subscribers) - self._admitted:
            self._subscribers.pop(gateway).abort()

    def tell(self, id: str, record: Record | None) -> None:
        """A container is somebody else from now on, or nobody; others hear it soon."""
        if self.records.get(id) == record:
            return
        if record is None:
            del self.records[id]
        else:
            self.records[id] = record
        self._changed[id] = record
        if self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_at(max(loop.time(), self._told_at + self._pace.together), self._tell)

    async def run(self) -> None:
        """Tell whoever asks, until it is cancelled."""
        server = await self._listen()
        try:
            await asyncio.gather(self._beat(), self._look())
        finally:
            server.close()
            if self._telling is not None:
                self._telling.cancel()
            for subscriber in self._subscribers.values():
                subscriber.abort()
            self._subscribers.clear()

    # ---- inside -----------------------------------------------------------------------------------

    async def _listen(self) -> asyncio.Server:
        loop = asyncio.get_running_loop()
        gateway = meeting_point(self._overlay.here)
        family = socket.AF_INET6 if ":" in gateway else socket.AF_INET
        while True:
            listening = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            try:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _admit_only(listening, gateways_filter(self._overlay))
                listening.bind((gateway, PORT))
                server = await loop.create_server(
                    lambda: _Subscriber(self._connected, self._lost, self._pace.silence),
                    sock=listening,
                    backlog=_BACKLOG,
                )
            except OSError as error:
                listening.close()
                why, pause = error.strerror, _SOON
                if error.errno == errno.EADDRINUSE:
                    holder = await asyncio.to_thread(port_holder, "tcp", gateway, PORT)
                    why = f"{holder} has it; have it listen on its own addresses only, or end it"
                    pause = _TRY_AGAIN
                self._say(f"port {PORT}/tcp of {gateway} cannot be had to tell other hosts names: {why}")
                await asyncio.sleep(pause)
            else:
                self._say("")
                return server

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._pace.heartbeat)
            for subscriber in list(self._subscribers.values()):
                subscriber.write(transfer.NOTHING)

    async def _look(self) -> None:
        """Look for what may keep others away, while some are."""
        version = self._overlay.subnets[0].version  # of the gateways
        while True:
            await asyncio.sleep(min(_LOOK_AGAIN, self._pace.forget))
            missing = self._admitted - set(self._subscribers)
            self._say(next(iter(await self._obstacles(version)), "") if missing else "")

    def _say(self, problem: str) -> None:
        if problem and problem != self.problem:
            logger.warning("names not told to other hosts reason=%r", problem)
        self.problem = problem

    def _tell(self) -> None:
        self._telling = None
        self._told_at = asyncio.get_running_loop().time()
        changed, self._changed = self._changed, {}
        told = b"".join(transfer.changes(changed))
        for subscriber in list(self._subscribers.values()):
            subscriber.write(told)

    def _connected(self, subscriber: _Subscriber) -> bool:
        if subscriber.peer not in self._admitted:
            return False
        before = self._subscribers.pop(subscriber.peer, None)
        if before is not None:
            before.abort()
        self._subscribers[subscriber.peer] = subscriber
        # What is about to be told of changes says the same once more, which does no harm.
        lines = transfer.greeting(), *transfer.changes(self.records), transfer.complete()
        subscriber.write(b"".join(lines))
        self._heard(subscriber.peer)
        return True

    def _lost(self, subscriber: _Subscriber) -> None:
        if self._subscribers.get(subscriber.peer) is subscriber:
            del self._subscribers[subscriber.peer]


class _Subscriber(asyncio.Protocol):
    """A connection of another host, which says nothing."""

    def __init__(
        self, connected: Callable[[_Subscriber], bool], lost: Callable[[_Subscriber], None], patience: float
    ) -> None:
        self.peer = ""
        self._patience = patience
        self._connected = connected
        self._lost = lost
        self._transport: asyncio.Transport | None = None

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(_MOST_WAITING)
        with suppress(OSError):  # one that is not heard of any more, tcp(7)
            made: socket.socket = transport.get_extra_info("socket")
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(self._patience * 1000))
        peer = transport.get_extra_info("peername")
        self.peer = str(ipaddress.ip_address(peer[0])) if peer else ""  # it may be gone already
        if not self._connected(self):
            transport.abort()

    def data_received(self, data: bytes) -> None:
        self.abort()

    def pause_writing(self) -> None:
        logger.warning("names not told: a host does not read host=%s", self.peer)
        self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self)


def gateways_filter(overlay: Overlay) -> bytes:
    """A program for SO_ATTACH_FILTER, socket(7): what comes from the gateway of a slice passes, nothing else.

    It knows which addresses can be gateways, not which are; so it stays when hosts come and go. Pure.
    """
    subnet, slice = overlay.subnets[0], overlay.here.slices[0]
    size = subnet.max_prefixlen // 8
    words = struct.Struct(f">{size // 4}I")
    # The first bits are those of the subnet, and the last ones a one; what is between them tells the slice.
    masks = words.unpack((int(subnet.netmask) | int(slice.hostmask)).to_bytes(size))
    wanted = words.unpack((int(subnet.network_address) | 1).to_bytes(size))
    program = []
    for number, mask in enumerate(masks):
        program += [
            (_LOAD_WORD, 0, 0, _NETWORK_HEADER + _SOURCE[subnet.version] + 4 * number),
            (_AND, 0, 0, mask),
            (_JUMP_IF_EQUAL, 0, 3 * (len(masks) - number) - 2, wanted[number] & mask),
        ]
    program += [(_RETURN, 0, 0, 0xFFFFFFFF), (_RETURN, 0, 0, 0)]
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def _admit_only(listening: socket.socket, program: bytes) -> None:
    buffer = ctypes.create_string_buffer(program, len(program))
    # sock_fprog: the number of instructions, and where they are
    argument = struct.pack("HP", len(program) // _INSTRUCTION.size, ctypes.addressof(buffer))
    listening.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)
