# SPDX-License-Identifier: Apache-2.0
"""Unpacking a layer out of the way of the agent's event loop: small ones here, others in a process.

A process of images/unpacker.py is started when a layer wants one, unpacks others that follow, and ends when
it has had nothing to do for some seconds. As many work at a time as there are processors, not counting those
whose layer does not come (sharing.py).
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from mooring_agent import __version__, errors
from mooring_agent.errors import MooringError, Unavailable
from mooring_agent.images.layers import AppliedLayer, Limits, apply_layer
from mooring_agent.images.sharing import SharedTurns, Turn
from mooring_agent.images.stream import Compression, decompress, gather
from mooring_agent.storage.snapshotter import UnpackTarget

_log = logging.getLogger(__name__)

SMALL = 1 << 20  # bytes of an archive as it comes; below, a process costs more than it spares
_STALL = 300.0  # seconds without a sign of life; a disk that is busy may take some
_ATTEMPTS = 2  # to get a process; one that was idle may just have been killed
_TURN = 3600.0  # seconds to wait until another layer is done
_IDLE = 30.0  # seconds that a process waits for the next layer; a new one takes a third of one to begin
_END = 5.0  # seconds for a process to end by itself
_START = 20.0  # seconds for a process to come up
_ANSWER_MAX = 1 << 16  # bytes; an error with its message
_PIPE = 1 << 20  # bytes, pipe(7); what an unprivileged user may have at most
_PACKAGE = Path(__file__).parent.parent.parent
_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from mooring_agent.images.unpacker import main; sys.exit(main({descriptor}))"
)
_ISOLATED = ("-I", "-S", "-c")


def unpack_layer(
    chunks: Iterator[bytes],
    target: UnpackTarget,
    compression: Compression,
    limits: Limits | None = None,
    *,
    implied: BinaryIO | None = None,
) -> AppliedLayer:
    """Unpack the archive in `chunks`, packed as `compression` says, into `target`; see apply_layer.

    Reads `chunks` to their end, unless it raises: InvalidSpec for an archive that is damaged, hostile or
    beyond `limits`, Unavailable when the disk is full or the process that unpacks is killed or stuck,
    MissingProgram where zstd is needed and absent, OSError, and what `chunks` raise. What was unpacked until
    then stays.
    """
    bounds = limits or Limits()
    rest, ended = gather(chunks, SMALL)
    attempts = 0 if ended else _ATTEMPTS
    for _ in range(attempts):
        try:
            with _processes.borrowed() as (process, turn):
                process.request(target, compression, bounds, implied)
                return process.unpack(turn.watched(rest))
        except _Died:  # before it has read anything
            continue
    if attempts:
        _log.warning("no process that unpacks layers comes up: it is done in the agent, which slows it down")
    with closing(decompress(rest, compression)) as plain:
        return apply_layer(plain, target, bounds, implied=implied)


class _Died(Exception):
    """The process has ended without a word, or has not come up."""


class _Process:
    """One process that unpacks, and the agent's ends of its socket and, while it does, of its pipe."""

    def __init__(self) -> None:
        """Start it; raises _Died where the host has no room for it."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pipe = -1
        self.usable = True
        with theirs:
            boot = _BOOT.format(root=str(_PACKAGE), descriptor=theirs.fileno())
            try:
                self._process = subprocess.Popen(
                    [sys.executable, *_ISOLATED, boot, "mooring unpacker"],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(),),
                    start_new_session=True,
                )
            except OSError as error:
                self._control.close()
                raise _Died from error

    def request(
        self, target: UnpackTarget, compression: Compression, limits: Limits, implied: BinaryIO | None
    ) -> None:
        """Have it begin; raises _Died when it is not able to."""
        request = {
            "version": __version__,
            "directory": str(target.directory),
            "whiteouts": target.whiteouts,
            "parents": [str(parent) for parent in target.parents],
            "compression": compression,
            "limits": asdict(limits),
        }
        self.usable = False  # until it has answered
        source, self._pipe = os.pipe2(os.O_CLOEXEC)
        try:
            with suppress(OSError):  # what it has is enough, too
                fcntl.fcntl(self._pipe, fcntl.F_SETPIPE_SZ, _PIPE)
            os.set_blocking(self._pipe, False)
            descriptors = [source] if implied is None else [source, implied.fileno()]
            socket.send_fds(self._control, [json.dumps(request).encode()], descriptors)
        except (BrokenPipeError, ConnectionError) as error:
            raise _Died from error
        finally:
            os.close(source)
        if not self._receive(_START).get("ready"):
            raise _Died

    def unpack(self, chunks: Iterator[bytes]) -> AppliedLayer:
        """Feed it and return what it answers."""
        try:
            found = self._feed(chunks)
            os.close(self._pipe)
            self._pipe = -1
            while found is None:
                found = self._look_at(self._receive(_STALL))
        except _Died:
            status = self._process.wait()
            raise Unavailable(
                f"the process that unpacked the layer ended with {status}: see the kernel's log for a lack "
                "of memory, then try again"
            ) from None
        self.usable = True
        return found

    def close(self) -> None:
        """End it, whatever it does."""
        if self._pipe >= 0:
            os.close(self._pipe)
        self._control.close()
        try:
            self._process.wait(_END if self.usable else 0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            with suppress(subprocess.TimeoutExpired):  # on a disk that is stuck it ends when that goes on
                self._process.wait(_END)

    def _feed(self, chunks: Iterator[bytes]) -> AppliedLayer | None:
        poller = select.poll()
        poller.register(self._pipe, select.POLLOUT)
        poller.register(self._control, select.POLLIN)
        for chunk in chunks:
            view = memoryview(chunk)
            waiting_since = time.monotonic()
            while view:
                try:
                    view = view[os.write(self._pipe, view) :]
                    continue
                except BlockingIOError:
                    pass
                except BrokenPipeError:
                    return self._look_at(self._receive(_STALL))
                ready = poller.poll(_STALL * 1000)
                if any(descriptor != self._pipe for descriptor, _ in ready):
                    found = self._look_at(self._receive(_STALL))
                    waiting_since = time.monotonic()
                    if found is not None:
                        return found
                elif not ready or time.monotonic() - waiting_since > _STALL:
                    raise self._stuck(_STALL)
        return None

    def _receive(self, timeout: float) -> dict[str, Any]:
        self._control.settimeout(timeout)
        try:
            packet = self._control.recv(_ANSWER_MAX)
        except TimeoutError:
            raise self._stuck(timeout) from None
        except ConnectionError as error:
            raise _Died from error
        if not packet:
            raise _Died
        message: dict[str, Any] = json.loads(packet)
        return message

    def _look_at(self, message: dict[str, Any]) -> AppliedLayer | None:
        if "applied" in message:
            return AppliedLayer(**message["applied"])
        if "error" in message:
            raise _error(message["error"])
        return None

    def _stuck(self, seconds: float) -> Unavailable:
        return Unavailable(
            f"the process that unpacks the layer, {self._process.pid}, got nowhere for {seconds:g} s: the "
            "disk may be stuck; see the kernel's log, then try again"
        )


def _error(told: dict[str, Any]) -> Exception:
    if "errno" in told:
        return OSError(told["errno"], told["message"])
    kind: type[MooringError] = getattr(errors, told["kind"])
    return kind(told["message"], code=told["code"])


class _Processes:
    """Those that run: at most one a processor at work, the idle ones kept for a while."""

    def __init__(self) -> None:
        self._turns = SharedTurns(os.cpu_count() or 1, _TURN)
        self._lock = threading.Lock()
        self._idle: list[tuple[_Process, threading.Timer]] = []

    @contextmanager
    def borrowed(self) -> Iterator[tuple[_Process, Turn]]:
        """A process for one layer, and its turn; waits for that."""
        with self._turns.turn() as turn:
            process = self._take()
            try:
                yield process, turn
            finally:
                self._give_back(process)

    def _take(self) -> _Process:
        with self._lock:
            if self._idle:
                process, timer = self._idle.pop()
                timer.cancel()
                return process
        return _Process()

    def _give_back(self, process: _Process) -> None:
        if not process.usable:
            process.close()
            return
        timer = threading.Timer(_IDLE, self._retire, (process,))
        timer.daemon = True
        timer.name = "mooring-unpacker-idle"
        with self._lock:
            self._idle.append((process, timer))
        timer.start()

    def _retire(self, process: _Process) -> None:
        with self._lock:
            waiting = [entry for entry in self._idle if entry[0] is process]
            if not waiting:
                return
            self._idle.remove(waiting[0])
        process.close()


_processes = _Processes()
