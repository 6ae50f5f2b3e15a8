# SPDX-License-Identifier: Apache-2.0
"""The guardian's hold on the containers' pipes: what is in a pipe that nobody has open any more is lost,
and a container that has just ended and a keeper that is just killed leave nobody else.
"""

from __future__ import annotations

import os
import struct

from ..linux import pipes
from .diagnostics import complain

_EVENT = struct.Struct("=iIII")  # inotify_event of inotify(7): watch, mask, cookie, length of the name
_BUFFER = 64 << 10


class HeldPipes:
    """A reading end of every named pipe in a directory, however it comes and goes. Nothing is read from them.

    `descriptor` is readable when there is something for `look` to do. What is `lent` is of pipes that are
    there, and closed as soon as they are held.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._held: dict[str, int] = {}
        self.lent: list[int] = []
        os.makedirs(directory, mode=0o700, exist_ok=True)
        self.descriptor = pipes.inotify_init()
        pipes.inotify_add_watch(self.descriptor, directory, pipes.IN_CREATE | pipes.IN_DELETE)

    def look(self) -> None:
        """Open what is new, and close what has been removed."""
        while True:
            try:
                events = os.read(self.descriptor, _BUFFER)
            except BlockingIOError:
                break
            place = 0
            while place < len(events):
                _, mask, _, length = _EVENT.unpack_from(events, place)
                name = os.fsdecode(events[place + _EVENT.size :][:length].rstrip(b"\0"))
                place += _EVENT.size + length
                if mask & pipes.IN_Q_OVERFLOW:
                    self._look_at_all()
                elif mask & pipes.IN_DELETE:
                    self._close(name)
                else:
                    self._open(name)
        self._give_back()

    def close(self) -> None:
        """Let go of them; for a forked child."""
        self._give_back()
        for name in list(self._held):
            self._close(name)
        os.close(self.descriptor)

    def _give_back(self) -> None:
        for descriptor in self.lent:
            os.close(descriptor)
        self.lent.clear()

    def _look_at_all(self) -> None:
        for name in list(self._held):
            self._close(name)
        for name in os.listdir(self._directory):
            self._open(name)

    def _open(self, name: str) -> None:
        self._close(name)
        try:
            self._held[name] = os.open(
                f"{self._directory}/{name}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except FileNotFoundError:
            return  # it has gone already
        except OSError as error:
            complain(f"guardian cannot hold {self._directory}/{name}: {error.strerror}")

    def _close(self, name: str) -> None:
        descriptor = self._held.pop(name, -1)
        if descriptor >= 0:
            os.close(descriptor)
