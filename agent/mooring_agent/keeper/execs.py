# SPDX-License-Identifier: Apache-2.0
"""Execs on their way: a joiner gets a plan and becomes one more process of a container, at once or later."""

from __future__ import annotations

import json
import os
import socket
from dataclasses import dataclass

from ..failpoints import reached
from . import messages
from .children import Child, open_exec_streams
from .connections import Client
from .eventloop import EventLoop
from .launchers import Launchers
from .processes import Processes, nothing
from .records import Record
from .starts import Refused, Reply, Start, Starts, close, send


@dataclass(frozen=True)
class _Prepared:
    """A joiner that has joined its container and waits for the word; `streams` are the keeper's ends."""

    client: Client
    container: str
    channel: socket.socket
    streams: list[int]


class Execs:
    """Starts processes in running containers."""

    def __init__(self, loop: EventLoop, launchers: Launchers, processes: Processes, starts: Starts) -> None:
        self._loop = loop
        self._launchers = launchers
        self._processes = processes
        self._starts = starts
        self._prepared: dict[str, _Prepared] = {}

    def prepare(self, client: Client, request: messages.PrepareExec, plan: int) -> None:
        """Hand a joiner a plan that is `ahead`. Raises Refused."""
        self._require_running(request.container)
        if request.joiner in self._prepared:
            raise Refused(f"joiner {request.joiner} is prepared already")
        streams, given = open_exec_streams(request.stdin, request.stdout, request.stderr)
        prepared = _Prepared(client, request.container, self._take_joiner(), streams)
        self._prepared[request.joiner] = prepared
        # Whatever it says before it got the word is that it will never be of use.
        self._loop.add(prepared.channel.fileno(), lambda _: self.release(request.joiner))
        send(prepared.channel, b"plan", [plan, *given])
        close(given)

    def release(self, joiner: str) -> None:
        """Give up a joiner that is prepared, if there is one of this name: it ends with its channel."""
        prepared = self._prepared.pop(joiner, None)
        if prepared is not None:
            self._loop.remove(prepared.channel.fileno())
            prepared.channel.close()
            close(prepared.streams)

    def release_all_of(self, client: Client) -> None:
        """Give up what a client has had prepared."""
        for name, prepared in list(self._prepared.items()):
            if prepared.client is client:
                self.release(name)

    def release_all(self) -> None:
        """Give up every joiner that is prepared."""
        for name in list(self._prepared):
            self.release(name)

    def execute(self, client: Client, request: messages.Exec, plan: list[int], reply: Reply) -> None:
        """Start a process in a running container. Raises Refused."""
        self._require_running(request.container)
        if request.id in self._processes.children:
            raise Refused(f"exec {request.id} has been started already")
        if request.joiner:
            channel, ours = self._take_prepared(client, request)
            given: list[int] = []
            word = json.dumps(request.args).encode()
        elif plan:
            ours, given = [], []
            if not request.terminal:
                ours, given = open_exec_streams(request.stdin, request.stdout, request.stderr)
            channel, word = self._take_joiner(), b"plan"
        else:
            raise Refused(f"exec {request.id} came without a plan: expected a memory file with it")
        record = Record(
            request.id,
            request.container,
            pid=0,
            start_time=0,
            terminal=request.terminal,
            stdin=request.stdin and not request.terminal,
            note=request.note,
        )
        child = Child(record, own=True, exec_streams=ours, owner=client)
        if record.stdin:
            child.stdin = os.dup(ours[0])
        start = Start(child, channel, reply=reply, going=True)
        self._starts.await_exec(start)
        start.unheard = not send(channel, word, [*plan, *given])
        close(given)
        reached("keeper.exec-handed")

    def _take_prepared(self, client: Client, request: messages.Exec) -> tuple[socket.socket, list[int]]:
        prepared = self._prepared.get(request.joiner)
        if prepared is None or prepared.client is not client or prepared.container != request.container:
            raise Refused(f"joiner {request.joiner} is not there any more", gone=True)
        del self._prepared[request.joiner]
        self._loop.remove(prepared.channel.fileno())
        return prepared.channel, prepared.streams

    def _require_running(self, id: str) -> None:
        container = self._processes.children.get(id)
        if container is None or not container.running:
            raise Refused(f"container {id} does not run")

    def _take_joiner(self) -> socket.socket:
        """The channel of a joiner that waits; one that has ended meanwhile is passed over."""
        while True:
            joiner, channel = self._launchers.take_joiner()
            self._processes.expect_end(joiner, nothing)
            try:
                channel.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return channel
            except OSError:
                pass
            channel.close()
