# SPDX-License-Identifier: Apache-2.0
"""`start`, and `run`, which is `create` and `start` with the caller waiting for the end."""

from __future__ import annotations

import json
import os
import socket

from ..errors import Conflict, InvalidSpec, Unavailable
from ..linux import syscalls
from ..runtime.hooks import HookFailed, run_hooks
from . import consoles
from .bundles import hooks_of
from .creating import Creation, NotStarted, failure, make, reap, short_path
from .ending import destroy
from .options import Parsed
from .runtime import Runtime
from .states import START, Directory, State, is_alive


def start(runtime: Runtime, options: Parsed) -> int:
    """The command."""
    begin(runtime, Directory(runtime.root, options.words[0]))
    return 0


def begin(runtime: Runtime, directory: Directory) -> None:
    """Let the launcher go on, and wait until it has become the process. A failure deletes the container."""
    with directory.locked():
        state = directory.load()
        if not is_alive(state) or not directory.waits():
            raise Conflict(
                f"container {state.id} cannot be started: it runs or has ended, expected one that is created"
            )
        if not directory.config().get("process"):
            raise InvalidSpec(f"container {state.id} has no process in its config, so it cannot be started")
        try:
            _release(directory)
            _run_poststart(directory, state)
        except NotStarted:
            destroy(runtime, directory, locked=True)
            raise


def _release(directory: Directory) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as channel:
        with short_path(directory) as place:
            try:
                channel.connect(f"{place}/{START}")
            except OSError as error:
                raise Unavailable(
                    f"the launcher of container {directory.id} does not answer: {error.strerror}"
                ) from None
        packet = channel.recv(65536)
    if packet:
        raise failure(packet)


def _run_poststart(directory: Directory, state: State) -> None:
    config = directory.config()
    if not (config.get("hooks") or {}).get("poststart"):
        return
    os.chdir(state.bundle)
    try:
        run_hooks(
            "poststart", hooks_of(config, "poststart"), json.dumps(state.for_hooks()), "running", state.pid
        )
    except HookFailed as error:
        raise NotStarted(str(error)) from None


def run(runtime: Runtime, options: Parsed) -> int:
    """The command. In the foreground it answers with the process's exit status."""
    id = options.words[0]
    foreground = not options.detach
    creation = Creation.from_options(options, foreground=foreground)
    if foreground and not options.no_subreaper:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    master = make(runtime, id, creation)
    directory = Directory(runtime.root, id)
    pid = directory.load().pid
    if not foreground:
        begin(runtime, directory)
        return 0
    try:
        status = wait_for(pid, master, lambda: begin(runtime, directory))
    finally:
        if not options.keep and directory.exists():
            destroy(runtime, directory)
    return status


def wait_for(pid: int, master: int, let_go: object) -> int:
    """Stand for a child until it ends: signals and terminal are handed on. Its exit status, 128 and the
    signal's number for one that was killed. `let_go` is called once all is in place.
    """
    relay = consoles.Relay(master) if master >= 0 else None
    consoles.forward_signals(pid, relay)
    pidfd = syscalls.pidfd_open(pid)
    try:
        if callable(let_go):
            let_go()
        if relay is not None:
            with relay:
                relay.run(pidfd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    finally:
        os.close(pidfd)
        reap()
    return 128 - status if status < 0 else status
