# SPDX-License-Identifier: Apache-2.0
"""Hooks: programs that a config wants run at points of a container's life (runtime-spec config.md,
"POSIX-platform Hooks").
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Sequence

from ..linux import syscalls
from . import signals
from .plan import Hook

# How much of what a failed hook has said goes into the error.
_WORDS_MAX = 1024


class HookFailed(Exception):
    """A hook could not be run, ended with an error, or took too long."""


def run_hooks(kind: str, hooks: Sequence[Hook], state: str, status: str, pid: int) -> None:
    """Run `hooks` one after the other. Raises HookFailed with the first that fails.

    `state` is the container's state as JSON, to which `status` and `pid` are added.
    """
    if not hooks:
        return
    told = json.loads(state)
    told["status"] = status
    if pid:
        told["pid"] = pid
    text = json.dumps(told).encode()
    for hook in hooks:
        _run(kind, hook, text)


def _run(kind: str, hook: Hook, state: bytes) -> None:
    given = os.memfd_create("mooring-hook-stdin", os.MFD_CLOEXEC)
    said = os.memfd_create("mooring-hook-output", os.MFD_CLOEXEC)
    try:
        os.write(given, state)
        os.lseek(given, 0, os.SEEK_SET)
        try:
            pid = os.posix_spawn(
                hook.path,
                hook.args or (hook.path,),
                os.environ if hook.env is None else _environment(hook.env),
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, given, 0),
                    (os.POSIX_SPAWN_DUP2, said, 1),
                    (os.POSIX_SPAWN_DUP2, said, 2),
                ],
                setsigmask=(),
                setsigdef=signals.RESET,
            )
        except OSError as error:
            raise HookFailed(f"{kind} hook {hook.path} cannot be run: {error.strerror}") from None
        status = _wait(kind, hook, pid)
        if status:
            how = f"was killed by signal {-status}" if status < 0 else f"failed with exit code {status}"
            words = os.pread(said, _WORDS_MAX, 0).decode("utf-8", "replace").strip()
            raise HookFailed(f"{kind} hook {how}: {hook.path}" + (f" said {words!r}" if words else ""))
    finally:
        os.close(given)
        os.close(said)


def _wait(kind: str, hook: Hook, pid: int) -> int:
    """The exit status, negative for a signal."""
    descriptor = syscalls.pidfd_open(pid)
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(hook.timeout * 1000 if hook.timeout else None):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise HookFailed(f"{kind} hook {hook.path} was killed after its timeout of {hook.timeout} s")
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _environment(entries: Sequence[str]) -> dict[str, str]:
    return {name: value for name, sign, value in (entry.partition("=") for entry in entries) if sign}
