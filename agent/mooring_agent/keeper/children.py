# SPDX-License-Identifier: Apache-2.0
"""The processes that a keeper looks after: their streams, their logs and how they ended."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import termios
from collections.abc import Callable, Container
from dataclasses import dataclass, field

from ..linux import syscalls
from ..runtime.join import is_still
from .connections import Client
from .eventloop import HANGUP, READ, EventLoop
from .handover import HandedChild
from .logs import Log, OpenFiles
from .records import Record

UNKNOWN_EXIT = 255
_TERMINAL_PIECE = 64 << 10
# Pieces moved for one container before the others get their turn.
_PIECES_A_TURN = 8
# A pipe this large lets a container write on while a killed keeper is replaced.
_PIPE_SIZE = 1 << 18


@dataclass
class Child:
    """One container's or exec's process. Descriptors are the keeper's own ends; -1 where there is none.

    `owner` is the connection that has asked for an exec, and so has its streams.
    """

    record: Record
    own: bool
    log: Log | None = None
    pipes: dict[int, int] = field(default_factory=dict)
    terminal: int = -1
    stdin: int = -1
    exec_streams: list[int] = field(default_factory=list)
    watch: int = -1
    owner: Client | None = None

    @property
    def running(self) -> bool:
        """Whether its end is not known yet."""
        return self.record.exit_code is None

    def signal(self, number: int) -> None:
        """Signal it. Raises ProcessLookupError when it is gone.

        Nobody but the keeper reaps its own child, so that its number is safe; another's is checked.
        """
        if not self.running:
            raise ProcessLookupError(errno.ESRCH, f"process {self.record.pid} has ended")
        if self.own:
            os.kill(self.record.pid, number)
            return
        pidfd = syscalls.pidfd_open(self.record.pid)
        try:
            if not is_still(self.record.pid, self.record.start_time):
                raise ProcessLookupError(errno.ESRCH, f"process {self.record.pid} has ended")
            syscalls.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size; a process without a terminal has none."""
        master = self.terminal if self.terminal >= 0 else self.exec_streams[0] if self.exec_streams else -1
        if self.record.terminal and master >= 0:
            fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close_stdin(self) -> None:
        """Close the writing end of its standard input."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def close_streams(self) -> None:
        """Close an exec's streams."""
        for descriptor in self.exec_streams:
            os.close(descriptor)
        self.exec_streams = []


class Streams:
    """Moves what containers write to their logs, and makes and opens their pipes."""

    def __init__(self, loop: EventLoop, directory: str) -> None:
        self._loop = loop
        self._directory = directory
        self._files = OpenFiles()
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def open_log(self, record: Record) -> Log:
        """The log of a container."""
        return Log(record.log_directory, record.log_size, record.log_files, self._files)

    def make_pipes(self, id: str, given: list[int]) -> None:
        """Named pipes for a container's output; what it gets, open for reading and writing, goes to `given`.

        The container holds both ends, so it neither gets SIGPIPE nor loses a byte while no keeper reads, and
        a new keeper finds them by name.
        """
        for path in self._paths(id):
            try:
                os.mkfifo(path, 0o600)
            except FileExistsError:  # of an earlier run
                os.unlink(path)
                os.mkfifo(path, 0o600)
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            given.append(descriptor)
            try:
                fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            except PermissionError:
                pass  # beyond the user's pipe-user-pages-soft limit: the default size works as well

    def follow_pipes(self, child: Child) -> None:
        """Read the container's pipes from now on."""
        for stream, path in enumerate(self._paths(child.record.id), start=1):
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            child.pipes[stream] = descriptor
            self._loop.add(descriptor, self._pipe_callback(child, stream))

    def follow_terminal(self, child: Child, master: int) -> None:
        """Read the terminal whose master is `master` from now on."""
        os.set_blocking(master, False)
        child.terminal = master
        self._loop.add(master, self._terminal_callback(child))

    def take_over(self, child: Child, handed: HandedChild) -> None:
        """Read on from a predecessor's descriptors."""
        for stream, pipe in handed.pipes.items():
            child.pipes[int(stream)] = pipe
            self._loop.add(pipe, self._pipe_callback(child, int(stream)))
        if handed.terminal >= 0:
            self.follow_terminal(child, handed.terminal)

    def finish(self, child: Child) -> None:
        """Move what is left and close everything of a process that has ended."""
        if child.terminal >= 0:
            while self._read_terminal(child):
                pass
            self._close_terminal(child)
        for stream in list(child.pipes):
            while self._move(child, stream):
                pass
            self._close_pipe(child, stream)
        child.close_stdin()
        if child.log is not None:
            child.log.close()
        if child.watch >= 0:
            self._loop.remove(child.watch)
            os.close(child.watch)
            child.watch = -1

    def remove_pipes(self, id: str) -> None:
        """Remove the named pipes of `id`, if there are any."""
        for path in self._paths(id):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass

    def keep_pipes_of(self, ids: Container[str]) -> None:
        """Remove the named pipes of all others: of containers that were prepared and never started."""
        for name in os.listdir(self._directory):
            if name.rpartition(".")[0] not in ids:
                os.unlink(f"{self._directory}/{name}")

    def _paths(self, id: str) -> tuple[str, str]:
        return f"{self._directory}/{id}.out", f"{self._directory}/{id}.err"

    def _pipe_callback(self, child: Child, stream: int) -> Callable[[int], None]:
        def readable(mask: int) -> None:
            for _ in range(_PIECES_A_TURN):
                if not self._move(child, stream):
                    if mask & HANGUP:
                        self._close_pipe(child, stream)
                    return

        return readable

    def _terminal_callback(self, child: Child) -> Callable[[int], None]:
        def readable(mask: int) -> None:
            if not self._read_terminal(child) and mask & HANGUP and not mask & READ:
                # No process has the terminal open at the moment; one may open /dev/console later, and the
                # master is needed until the container ends. A hang-up cannot be unmasked, so it is not
                # watched.
                self._loop.remove(child.terminal)

        return readable

    def _move(self, child: Child, stream: int) -> int:
        assert child.log is not None
        return child.log.move(child.pipes[stream], stream)

    def _read_terminal(self, child: Child) -> int:
        assert child.log is not None
        try:
            piece = os.read(child.terminal, _TERMINAL_PIECE)
        except BlockingIOError:
            return 0
        except OSError as error:
            if error.errno == errno.EIO:  # every slave is closed, pty(7)
                return 0
            raise
        if piece:
            child.log.append(piece, 1)
        return len(piece)

    def _close_pipe(self, child: Child, stream: int) -> None:
        descriptor = child.pipes.pop(stream, -1)
        if descriptor >= 0:
            self._loop.remove(descriptor)
            os.close(descriptor)

    def _close_terminal(self, child: Child) -> None:
        self._loop.remove(child.terminal)
        os.close(child.terminal)
        child.terminal = -1


def exit_code(status: int) -> int:
    """The exit code for a wait status: 128 + the number for a signal, as shells have it."""
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def open_exec_streams(stdin: bool, stdout: bool, stderr: bool) -> tuple[list[int], list[int]]:
    """Pipes for an exec: (the keeper's ends of what was asked for, the three descriptors to give the
    process).
    """
    ours, theirs = [], []
    for wanted, child_reads in ((stdin, True), (stdout, False), (stderr, False)):
        if not wanted:
            theirs.append(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC))
            continue
        reader, writer = os.pipe2(os.O_CLOEXEC)
        theirs.append(reader if child_reads else writer)
        ours.append(writer if child_reads else reader)
    return ours, theirs
