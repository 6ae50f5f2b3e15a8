# SPDX-License-Identifier: Apache-2.0
"""The state directory: ROOT/ID with

state.json   what is known of the container, replaced as a whole
config.json  the config it was created with
lock         held (flock) by whoever is creating, starting or deleting it
created      held by the launcher from the creation to the execve, so that the kernel itself says which it is
start        the socket on which the launcher waits

A command may be killed at any point: what it was about to make is in state.json before it is made.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import Conflict, InvalidSpec, NotFound, Unavailable

_ID = re.compile(r"[A-Za-z0-9_+\-.]+", re.ASCII)
_PF_EXITING = 0x4  # include/linux/sched.h; field 9 of proc(5) stat
_LOCK_DEADLINE = 20.0  # seconds; a hook without a timeout may take long
STATE, CONFIG, LOCK, CREATED, START = "state.json", "config.json", "lock", "created", "start"


@dataclass(frozen=True)
class State:
    """What is on disk about one container.

    `groups` are its control group's directories, with versions. `told` says that hooks have heard of the
    container, so that others may see it while it is still being created. `keyring` is its session keyring.
    """

    id: str
    bundle: str
    rootfs: str = ""
    oci_version: str = ""
    annotations: dict[str, str] = field(default_factory=dict)
    pid: int = 0
    start_time: int = 0
    created: str = ""
    owner: int = 0
    groups: tuple[tuple[str, int], ...] = ()
    cgroup_path: str = ""
    told: bool = False
    keyring: str = ""

    def for_hooks(self) -> dict[str, Any]:
        """The state of the runtime-spec without status and pid."""
        return {
            "ociVersion": self.oci_version,
            "id": self.id,
            "bundle": self.bundle,
            "annotations": self.annotations,
        }


class Directory:
    """One container's directory."""

    def __init__(self, root: str, id: str) -> None:
        check_id(id)
        self.id = id
        self.path = os.path.join(root, id)

    def file(self, name: str) -> str:
        """The path of one of its files."""
        return f"{self.path}/{name}"

    def make(self) -> None:
        """Make it. Raises Conflict if it is there."""
        os.makedirs(os.path.dirname(self.path), 0o711, exist_ok=True)
        try:
            os.mkdir(self.path, 0o711)
        except FileExistsError:
            raise Conflict(f"container {self.id} already exists; delete it or choose another name") from None

    def remove(self) -> None:
        """Remove it with all it has; one that is gone is fine."""
        # The state goes last but for the directory itself: without it nobody would know the groups.
        try:
            names = os.listdir(self.path)
        except FileNotFoundError:
            return
        for name in sorted(names, key=(STATE).__eq__):
            try:
                os.unlink(self.file(name))
            except FileNotFoundError:
                pass
        try:
            os.rmdir(self.path)
        except FileNotFoundError:
            pass

    def exists(self) -> bool:
        """Whether it is there."""
        return os.path.isdir(self.path)

    def load(self) -> State:
        """Raises NotFound."""
        try:
            with open(self.file(STATE), "rb") as file:
                data = json.load(file)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                f"container {self.id} does not exist; list those that there are with list"
            ) from None
        return State(**{**data, "groups": tuple((path, version) for path, version in data["groups"])})

    def save(self, state: State) -> None:
        """Replace state.json."""
        self._replace(STATE, json.dumps(vars(state)))

    def save_config(self, text: str) -> None:
        """Keep the config as it was given."""
        self._replace(CONFIG, text)

    def config(self) -> dict[str, Any]:
        """The config it was created with."""
        with open(self.file(CONFIG), "rb") as file:
            loaded: dict[str, Any] = json.load(file)
            return loaded

    def _replace(self, name: str, text: str) -> None:
        new = self.file(f"{name}.new")
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(new, self.file(name))

    @contextmanager
    def locked(self) -> Iterator[int]:
        """Be the only one who changes the container. Raises NotFound, or Unavailable after a deadline."""
        try:
            descriptor = os.open(self.file(LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(
                f"container {self.id} does not exist; list those that there are with list"
            ) from None
        try:
            self._wait_for(descriptor)
            yield descriptor
        finally:
            os.close(descriptor)

    def _wait_for(self, descriptor: int) -> None:
        deadline = time.monotonic() + _LOCK_DEADLINE
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"container {self.id} is being changed by another command for more than "
                        f"{_LOCK_DEADLINE:g} s; try again when that has ended"
                    ) from None
            time.sleep(0.005)

    def waits(self) -> bool:
        """Whether its launcher still waits for the start."""
        try:
            descriptor = os.open(self.file(CREATED), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False


def check_id(id: str) -> None:
    """Raise InvalidSpec for a name that could not be a directory's."""
    if not _ID.fullmatch(id) or id.startswith(".") or len(id) > 1024:
        wrong = next((sign for sign in id if not _ID.fullmatch(sign)), ".")
        raise InvalidSpec(
            f"invalid character {wrong!r} in the container ID {id!r}: expected letters, digits and _ + - ., "
            "not beginning with a dot"
        )


def all_ids(root: str) -> list[str]:
    """The containers below `root`."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [name for name in names if _ID.fullmatch(name) and os.path.isdir(f"{root}/{name}")]


def is_alive(state: State) -> bool:
    """Whether the container's first process runs: that one, and no other that got its number.

    One that is about to end counts as gone. It may be so for long: the first process of a pid namespace waits
    until the parents of all others in there, such as a detached exec's, have looked at their ends.
    """
    if not state.pid:
        return False
    try:
        with open(f"/proc/{state.pid}/stat", "rb") as file:
            fields = file.read().rpartition(b") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    if fields[0] in (b"Z", b"X") or int(fields[6]) & _PF_EXITING:
        return False
    return int(fields[19]) == state.start_time


def status_of(directory: Directory, state: State) -> str:
    """creating, created, running, paused or stopped."""
    if not is_alive(state):
        return "stopped" if state.pid or not _is_locked(directory) else "creating"
    if directory.waits():
        return "creating" if not state.created else "created"
    from .groups import is_frozen

    return "paused" if is_frozen(state.groups) else "running"


def _is_locked(directory: Directory) -> bool:
    try:
        descriptor = os.open(directory.file(LOCK), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
