# SPDX-License-Identifier: Apache-2.0
"""`mooring keeper`: become a daemon, then the guardian, and in a child of it the keeper.

Everything is imported here, before the first fork: neither keeper nor launcher ever loads code again, so the
files of a newer version may replace those of a running one.
"""

from __future__ import annotations

import fcntl
import gc
import os
import signal
import socket
import sys
import threading

from ..failpoints import reached
from ..runtime.stage import write
from . import guardian
from .guardian import Legacy
from .handover import unpack
from .service import Keeper

_BACKLOG = 16
_LOG_MAX = 8 << 20


def main(run_root: str, code: str = "") -> int:
    """Start the keeper for `run_root` unless there is one; returns at once, 0 when its socket is ready.
    `code` is the hash of the code that it runs.
    """
    directory = f"{run_root}/keeper"
    os.makedirs(directory, mode=0o700, exist_ok=True)
    lock = os.open(f"{directory}/lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    listener = _listen(f"{directory}/socket")
    if threading.active_count() != 1:
        print("keeper: expected a single thread", file=sys.stderr)
        return 1
    if os.fork():
        return 0
    _detach(f"{directory}/log")
    _settle()

    def run_keeper(channel: socket.socket, legacy: Legacy) -> None:
        Keeper(listener, channel, legacy, run_root, code).run()

    guardian.guard(listener, run_keeper, f"{directory}/pipes")
    os.unlink(f"{directory}/socket")
    return 0


def resume(code: str) -> int:
    """Go on as the keeper that has executed this program: the last argument is the number of the descriptor
    with its state. Returns when it is not needed any more.
    """
    state = unpack(int(sys.argv[-1]))
    _settle()
    reached("keeper.resumed")
    listener, channel = socket.socket(fileno=state.listener), socket.socket(fileno=state.guardian)
    Keeper(listener, channel, state, state.run_root, code).run()
    return 0


def _settle() -> None:
    """What a process needs that forks for the rest of its life."""
    write("/proc/self/comm", "mooring-keeper")
    gc.collect()
    gc.freeze()


def _listen(path: str) -> socket.socket:
    """The keeper's socket. Whoever holds the lock may replace what a former one has left."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    old = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(old)
    listener.listen(_BACKLOG)
    return listener


def _detach(log: str) -> None:
    os.setsid()
    os.chdir("/")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if os.path.exists(log) and os.path.getsize(log) > _LOG_MAX:
        os.rename(log, f"{log}.old")
    null = os.open("/dev/null", os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(null, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(null)
    os.close(output)
