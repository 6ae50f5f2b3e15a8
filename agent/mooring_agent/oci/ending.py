# SPDX-License-Identifier: Apache-2.0
"""`kill`, `delete`, `pause` and `resume`."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time

from ..errors import Conflict, InvalidSpec, MooringError, NotFound
from ..linux import syscalls
from ..runtime.hooks import HookFailed, run_hooks
from . import groups
from .bundles import hooks_of
from .options import Parsed
from .runtime import Runtime
from .states import Directory, State, all_ids, is_alive, status_of

_END_DEADLINE = 10.0  # seconds from SIGKILL to the end
_FROZEN_AFTER = 0.5  # seconds after which it is looked whether the process stands still in a foreign group


def kill(runtime: Runtime, options: Parsed) -> int:
    """The command. What of a container has ended cannot be signalled: an error, but with --all."""
    number = parse_signal(options.words[1] if len(options.words) > 1 else "SIGTERM")
    state = Directory(runtime.root, options.words[0]).load()
    if options.all:
        groups.kill(state.groups, number)
        return 0
    if not _signal(state, number):
        raise Conflict(f"container {state.id} does not run, so it cannot be signalled")
    # A frozen process is killed when it is thawed.
    if number == signal.SIGKILL and groups.is_frozen(state.groups):
        groups.freeze(state.groups, thaw=True)
    return 0


def parse_signal(text: str) -> int:
    """A signal's number from "15", "TERM" or "SIGTERM". Raises InvalidSpec."""
    if text.isascii() and text.isdigit():
        number = int(text)
    else:
        name = text.upper().removeprefix("SIG")
        first, _, offset = name.partition("+")
        try:
            number = signal.Signals[f"SIG{first}"] + int(offset or 0)
        except (KeyError, ValueError):
            raise InvalidSpec(f"unknown signal {text!r}, expected a number or a name such as TERM") from None
    if not 0 < number < signal.NSIG:
        raise InvalidSpec(f"unknown signal {text!r}, expected 1 to {signal.NSIG - 1}")
    return number


def _signal(state: State, number: int) -> bool:
    """Signal the first process; whether it was there."""
    try:
        descriptor = syscalls.pidfd_open(state.pid) if state.pid else -1
    except ProcessLookupError:
        return False
    if descriptor < 0:
        return False
    try:
        # Asked only now, when the number can no longer pass to another.
        if not is_alive(state):
            return False
        syscalls.pidfd_send_signal(descriptor, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
    return True


def delete(runtime: Runtime, options: Parsed) -> int:
    """The command."""
    word = options.words[0]
    if not options.regex:
        return _delete(runtime, word, force=options.force)
    try:
        pattern = re.compile(word)
    except re.error as error:
        raise InvalidSpec(f"regular expression {word!r} cannot be read: {error}") from None
    failures = 0
    for id in all_ids(runtime.root):
        if pattern.search(id):
            try:
                _delete(runtime, id, force=options.force)
            except MooringError as error:
                runtime.complain(error.message)
                failures += 1
    return 1 if failures else 0


def _delete(runtime: Runtime, id: str, *, force: bool) -> int:
    directory = Directory(runtime.root, id)
    if not directory.exists():
        if force:
            return 0
        raise NotFound(f"container {id} does not exist; list those that there are with list")
    if not force:
        state = directory.load()
        status = status_of(directory, state)
        if status not in ("stopped", "created"):
            raise Conflict(f"container {id} is {status}: kill it first, or delete it with --force")
    destroy(runtime, directory)
    return 0


def destroy(runtime: Runtime, directory: Directory, *, locked: bool = False) -> None:
    """End what lives of the container and remove all of it, also what a killed command has left half-made."""
    if not locked:
        _end_creator(directory)
        with directory.locked():
            destroy(runtime, directory, locked=True)
        return
    try:
        state = directory.load()
    except NotFound:
        directory.remove()
        return
    _end(state)
    groups.empty(state.groups)
    groups.remove(state.groups)
    _run_poststop(runtime, directory, state)
    directory.remove()


def _end_creator(directory: Directory) -> None:
    """Let a launcher that still is about to be created end, so that nobody waits for its lock."""
    try:
        state = directory.load()
    except NotFound:
        return
    if state.pid and not state.created:
        _signal(state, signal.SIGKILL)


def _end(state: State) -> None:
    if not state.pid:
        return
    try:
        descriptor = syscalls.pidfd_open(state.pid)
    except ProcessLookupError:
        return
    try:
        if not is_alive(state):
            return
        syscalls.pidfd_send_signal(descriptor, signal.SIGKILL)
        if groups.is_frozen(state.groups):
            groups.freeze(state.groups, thaw=True)
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        if not poller.poll(_FROZEN_AFTER * 1000):
            groups.thaw_wherever(state.pid)
        end = time.monotonic() + _END_DEADLINE
        while is_alive(state) and not poller.poll(100) and time.monotonic() < end:
            pass
        if is_alive(state):
            raise Conflict(
                f"process {state.pid} of container {state.id} still lives {_END_DEADLINE:g} s after SIGKILL, "
                "most likely frozen or waiting for a disk; try again later"
            )
    except ProcessLookupError:
        pass
    finally:
        os.close(descriptor)


def _run_poststop(runtime: Runtime, directory: Directory, state: State) -> None:
    """Run every hook whatever the others do, and complain of those that fail."""
    try:
        config = directory.config()
        hooks = hooks_of(config, "poststop")
    except (OSError, ValueError, MooringError):
        return  # the creation was killed before there was a config: nothing of the container was there
    text = json.dumps(state.for_hooks())
    for hook in hooks:
        try:
            run_hooks("poststop", (hook,), text, "stopped", 0)
        except HookFailed as error:
            runtime.complain(str(error), "warning")


def pause(runtime: Runtime, options: Parsed) -> int:
    """The command."""
    return _freeze(runtime, options.words[0], thaw=False)


def resume(runtime: Runtime, options: Parsed) -> int:
    """The command."""
    return _freeze(runtime, options.words[0], thaw=True)


def _freeze(runtime: Runtime, id: str, *, thaw: bool) -> int:
    directory = Directory(runtime.root, id)
    state = directory.load()
    status = status_of(directory, state)
    expected = ("paused",) if thaw else ("running", "created")
    if status not in expected:
        raise Conflict(f"container {id} is {status}, expected {' or '.join(expected)}")
    groups.freeze(state.groups, thaw=thaw)
    return 0
