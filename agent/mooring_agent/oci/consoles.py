# SPDX-License-Identifier: Apache-2.0
"""Terminals: the master goes to a console socket, or to the terminal that the command runs in."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys

from ..errors import Unavailable

_CHUNK = 65536


def hand_over(path: str, master: int) -> int:
    """Send the master to the socket at `path` and answer -1; without a path it stays with the caller."""
    if not path:
        return master
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
            connection.connect(path)
            socket.send_fds(connection, [b"/dev/ptmx"], [master])
    except OSError as error:
        raise Unavailable(f"console socket {path} cannot be reached: {error.strerror}") from None
    finally:
        os.close(master)
    return -1


class Relay:
    """Between this process's terminal and the master of a container's, until the container has closed it."""

    def __init__(self, master: int) -> None:
        self._master = master
        self._saved: list[object] | None = None

    def __enter__(self) -> Relay:
        if os.isatty(0):
            import termios
            import tty

            self._saved = termios.tcgetattr(0)
            tty.setraw(0)
            self.resize()
        return self

    def __exit__(self, *_: object) -> None:
        if self._saved is not None:
            import termios

            termios.tcsetattr(0, termios.TCSADRAIN, self._saved)  # type: ignore[arg-type]  # as it was read
        os.close(self._master)

    def resize(self) -> None:
        """Give the container's terminal the size of ours."""
        import fcntl
        import termios

        if os.isatty(0):
            fcntl.ioctl(self._master, termios.TIOCSWINSZ, fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8))

    def run(self, pidfd: int) -> None:
        """Move bytes until the container's side is closed, or its process has ended and all is read."""
        poller = select.poll()
        poller.register(self._master, select.POLLIN)
        poller.register(pidfd, select.POLLIN)
        poller.register(0, select.POLLIN)
        ended = False
        while True:
            events = dict(poller.poll(0 if ended else None))
            if pidfd in events:
                ended = True
                poller.unregister(pidfd)
            if self._master in events:
                if not self._copy(self._master, 1):
                    return
            elif ended:
                return
            if 0 in events and not self._copy(0, self._master):
                poller.unregister(0)

    def _copy(self, source: int, target: int) -> bool:
        try:
            data = os.read(source, _CHUNK)
            while data:
                written = os.write(target, data)
                if written == len(data):
                    return True
                data = data[written:]
        except OSError:
            pass  # EIO: the other side of a terminal is closed
        return False


def forward_signals(pid: int, relay: Relay | None) -> None:
    """Hand on to the process what this one is told, but for what the kernel says about this one itself."""

    def hand_on(number: int, _: object) -> None:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass

    own = {signal.SIGCHLD, signal.SIGKILL, signal.SIGSTOP, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGURG}
    for number in signal.valid_signals() - own:
        if number == signal.SIGWINCH and relay is not None:
            signal.signal(number, lambda *_: relay.resize())
        elif number not in (signal.SIGTTIN, signal.SIGTTOU, signal.SIGTSTP, signal.SIGSEGV, signal.SIGBUS):
            try:
                signal.signal(number, hand_on)
            except (OSError, ValueError):
                print(f"mooring-oci: signal {number} cannot be forwarded", file=sys.stderr)
