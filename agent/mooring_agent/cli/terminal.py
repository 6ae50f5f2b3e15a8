# SPDX-License-Identifier: Apache-2.0
"""The user's terminal at one end, an upgraded connection at the other."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import termios
import tty
from collections.abc import Callable, Iterator

from .containers import write
from .frames import FrameReader

_PIECE = 65536


def window_size() -> tuple[int, int]:
    """(rows, columns) of the terminal; (0, 0) where there is none."""
    for descriptor in (0, 1, 2):
        try:
            size = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return size.lines, size.columns
    return 0, 0


@contextlib.contextmanager
def raw_mode() -> Iterator[None]:
    """Every key goes to the container as it is typed; the terminal is as before afterwards."""
    saved = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, saved)


@contextlib.contextmanager
def watch_size(changed: Callable[[int, int], None]) -> Iterator[None]:
    """Call `changed(rows, columns)` now and whenever the user changes the window."""

    def tell(*_: object) -> None:
        changed(*window_size())

    before = signal.signal(signal.SIGWINCH, tell)
    try:
        tell()
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)


def pump(connection: socket.socket, early: bytes, *, framed: bool, stdin: bool) -> None:
    """Carry bytes both ways until the other end has said everything.

    The end of our input is told to the other end, whose output is still awaited.
    """
    frames = FrameReader() if framed else None
    inputs: list[int] = [connection.fileno()]
    if stdin:
        inputs.append(0)
    data = early
    while True:
        if data:
            for stream, piece in frames.feed(data) if frames is not None else ((1, data),):
                write(stream, piece)
        data = b""
        ready, _, _ = select.select(inputs, [], [])
        if 0 in ready and not _forward(connection):
            inputs.remove(0)
        if connection.fileno() in ready:
            try:
                data = connection.recv(_PIECE)
            except ConnectionResetError:
                data = b""
            if not data:
                return


def _forward(connection: socket.socket) -> bool:
    """Pass a piece of standard input on; False at its end."""
    typed = os.read(0, _PIECE)
    try:
        if typed:
            connection.sendall(typed)
            return True
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return False  # the other end has gone: its last words are still to be read
    return False
