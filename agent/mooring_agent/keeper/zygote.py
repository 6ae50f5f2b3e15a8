# SPDX-License-Identifier: Apache-2.0
"""The zygote: a child of the keeper that forks its launchers and joiners, which become the keeper's children.

After a fork each page of the parent is copied when it is next written to, and Python writes to all that it
touches: some 400 pages a start in a keeper that forked by itself, on the path of each start. And what a
keeper of many containers knows would be in every launcher.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

from ..linux import lean, syscalls
from ..runtime.join import run_joiner
from ..runtime.launch import rehearse, run_launcher
from ..runtime.plan import Shape
from ..runtime.stage import join_namespace, make_groups, write
from .diagnostics import complain
from .guardian import JOINER_NAME, LAUNCHER_NAME

ZYGOTE_NAME = "mooring-zygote"
# Seconds a fork may take, for which the keeper answers nobody. On a loaded host it takes tenths of them.
_PATIENCE = 5.0
_PACKET_MAX = 64 << 10
# Python writes to the code that it runs, too, until it has adapted it. Done here, it is not done, and no page
# copied for it, in each launcher: 57 of 580 pages less, and more times yield no more.
_REHEARSALS = 12


class Zygote:
    """The keeper's side. It is forked when it is first needed, and again when it was killed.

    `expect_end` is told of the zygote's own pid.
    """

    def __init__(self, stage_directory: str, expect_end: Callable[[int], None]) -> None:
        self._stage = stage_directory
        self._expect_end = expect_end
        self._channel: socket.socket | None = None
        self._pid = 0
        os.makedirs(stage_directory, mode=0o700, exist_ok=True)

    def fork_launcher(self, channel: socket.socket, shape: Shape, slot: str, *, ahead: bool) -> int:
        """A launcher that has `channel`; its pid. Raises OSError; its groups may be there then."""
        return self._ask({"slot": slot, "shape": vars(shape), "ahead": ahead}, channel)

    def fork_joiner(self, channel: socket.socket, *, ahead: bool) -> int:
        """A joiner that has `channel`; its pid. Raises OSError."""
        return self._ask({"ahead": ahead}, channel)

    def close(self) -> None:
        """Let it end."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def _ask(self, request: dict[str, object], descriptor: socket.socket) -> int:
        packet = json.dumps(request).encode()
        answer = b""
        if self._channel is not None:
            answer = self._exchange(self._channel, packet, descriptor)
        if not answer:  # there is none yet, or it has been killed: what it may have forked ends by itself
            self.close()
            answer = self._exchange(self._start(), packet, descriptor)
        if not answer:
            raise OSError(errno.ECHILD, "the process that forks launchers has ended")
        result = json.loads(answer)
        if isinstance(result, int):
            return result
        raise OSError(*result)

    def _exchange(self, channel: socket.socket, packet: bytes, descriptor: socket.socket) -> bytes:
        try:
            socket.send_fds(channel, [packet], [descriptor.fileno()])
            return channel.recv(_PACKET_MAX)
        except TimeoutError:
            os.kill(self._pid, signal.SIGKILL)
            raise OSError(errno.ETIMEDOUT, f"no launcher was forked within {_PATIENCE:g} s") from None
        except ConnectionError:
            return b""

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._serve(theirs)
        theirs.close()
        ours.settimeout(_PATIENCE)
        self._expect_end(self._pid)
        self._channel = ours
        return ours

    # In the zygote

    def _serve(self, channel: socket.socket) -> None:
        """Fork what is asked for until the keeper has gone; never returns."""
        try:
            # No collection may run, here or in a child: it would touch, and so copy, every page.
            gc.disable()
            gc.freeze()
            _become(ZYGOTE_NAME, channel.fileno())
            lean.survey()
            for _ in range(_REHEARSALS):
                rehearse()
            while True:
                packet, descriptors, _, _ = socket.recv_fds(channel, _PACKET_MAX, 1)
                if not packet:
                    break
                os.set_inheritable(descriptors[0], False)  # its end by an execve is a sign
                with socket.socket(fileno=descriptors[0]) as given:
                    answer = self._fork(json.loads(packet), given)
                channel.send(json.dumps(answer).encode())
        except ConnectionError:
            pass  # the keeper has gone
        except BaseException as error:  # noqa: BLE001 (nobody else would hear of it, and none may go up from here)
            complain(f"zygote ends: {error!r}")
        finally:
            os._exit(0)

    def _fork(self, request: dict[str, Any], channel: socket.socket) -> int | list[object]:
        """The pid, or the arguments of an OSError."""
        shape = Shape.from_json(request["shape"]) if "shape" in request else None
        try:
            pid = _clone(shape, request["slot"]) if shape else syscalls.clone(_SIBLING)
        except OSError as error:
            return [error.errno, error.strerror, error.filename]
        if pid:
            return pid
        ahead = request["ahead"]
        _become(LAUNCHER_NAME if shape else JOINER_NAME, channel.fileno())
        if shape:
            run_launcher(channel, shape, request["slot"], self._stage, ahead=ahead)
        else:
            run_joiner(channel, ahead=ahead)
        os._exit(0)


# The caller's parent becomes the child's too, and is sent SIGCHLD at its end as it is at the caller's.
_SIBLING = syscalls.CLONE_PARENT | signal.SIGCHLD


def _become(name: str, keep: int) -> None:
    """Drop all that is the parent's but the descriptor `keep`."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    if keep > 3:
        syscalls.close_range(3, keep - 1)
    syscalls.close_range(keep + 1)
    write("/proc/self/comm", name)


def _clone(shape: Shape, slot: str) -> int:
    """Fork into a new pid namespace if `shape` has one, or into the one that it joins, and into its group
    where that is possible at once.
    """
    flags = syscalls.CLONE_NEWPID if "pid" in shape.namespaces else 0
    joined = dict(shape.join).get("pid")
    if joined is None:
        return _clone_into(flags, shape, slot)
    # Children are then born there, while the caller stays in its own, pid_namespaces(7).
    own = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
    join_namespace("pid", joined)
    pid = -1
    try:
        pid = _clone_into(flags, shape, slot)
        return pid
    finally:
        if pid != 0:  # for the child there is no way back, and it forks none but helpers
            syscalls.setns(own, syscalls.CLONE_NEWPID)
        os.close(own)


def _clone_into(flags: int, shape: Shape, slot: str) -> int:
    if not shape.unified:
        return syscalls.clone(flags | _SIBLING)
    directory = make_groups(shape, slot)[0]
    cgroup = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return syscalls.clone_into_cgroup(flags | syscalls.CLONE_PARENT, cgroup, 0)
    finally:
        os.close(cgroup)
