# SPDX-License-Identifier: Apache-2.0
"""What goes from the agent through the keeper to a launcher, typed in one place.

A *shape* is what a launcher can prepare before it knows its container; a *launch plan* is the rest, as data;
a *join plan* starts one more process in a running container. All of them are JSON on the wire, so that a plan
can be printed, compared and tested without a kernel.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from typing import Any

from . import mounts
from .mounts import MountOperation


@dataclass(frozen=True)
class Shape:
    """What a launcher prepares ahead: its namespaces, its control groups and the standard file systems.

    `namespaces` are the new ones, of "mnt pid net uts ipc cgroup user time". `groups` are the directories,
    one a hierarchy, below which the launcher makes its own group and joins it; `group_settings` are (index
    into groups, file, value) written there at once. `unified` says that the only group is of cgroup v2,
    which cannot be renamed later. `standard` says that /proc, /sys and /dev are prepared as in
    `runtime.standard`.

    `enter` are files of groups that somebody else has made, into which the launcher writes "0" to join.
    `join` are (name, path) of namespaces that are there already. `uids` and `gids` are the maps of a new
    user namespace: (first id inside, first id outside, how many). `time_offsets` are (clock, seconds,
    nanoseconds) of a new time namespace. `propagation` are the mount(2) flags that the host's mounts get in
    the launcher's copy of them; 0: slaves, so that an unmount on the host is not held up by a launcher.
    `place` is the directory on which the root is mounted, where it shall be found there until the launcher
    has entered it; "" is one of the launcher's own.
    """

    namespaces: tuple[str, ...]
    groups: tuple[str, ...] = ()
    group_settings: tuple[tuple[int, str, str], ...] = ()
    unified: bool = False
    standard: bool = True
    shm_size: int = 64 << 20
    enter: tuple[str, ...] = ()
    join: tuple[tuple[str, str], ...] = ()
    uids: tuple[tuple[int, int, int], ...] = ()
    gids: tuple[tuple[int, int, int], ...] = ()
    time_offsets: tuple[tuple[str, int, int], ...] = ()
    propagation: int = 0
    place: str = ""

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Shape:
        """The inverse of `vars`."""
        return cls(**_with_tuples(data))

    def check(self) -> None:
        """Raise TypeError for a field of another type than it should be, ValueError for text that is none."""
        for one in fields(self):
            value = getattr(self, one.name)
            if type(value) is not _PLAIN.get(one.type, tuple):
                raise TypeError(f"shape's {one.name} is of type {type(value).__name__}")
            if type(value) is tuple:
                _check_items(value, _ITEMS[one.type], one.name)
        if "mnt" not in (*self.namespaces, *(name for name, _ in self.join)):
            raise ValueError("shape has no mount namespace: a launcher would mount on the host")


_PLAIN: dict[Any, type] = {"bool": bool, "int": int, "str": str}
_ITEMS: dict[Any, tuple[type, ...]] = {
    "tuple[str, ...]": (str,),
    "tuple[tuple[str, str], ...]": (str, str),
    "tuple[tuple[int, str, str], ...]": (int, str, str),
    "tuple[tuple[str, int, int], ...]": (str, int, int),
    "tuple[tuple[int, int, int], ...]": (int, int, int),
}


def _check_items(items: tuple[Any, ...], kinds: tuple[type, ...], name: str) -> None:
    for item in items:
        row = (item,) if len(kinds) == 1 else item
        if type(row) is not tuple or tuple(map(type, row)) != kinds:
            raise TypeError(f"shape's {name} has an item of the wrong type")
        for text in row:
            if type(text) is str and b"\0" in text.encode():
                raise ValueError(f"shape's {name} has a NUL in it")


@dataclass(frozen=True)
class Capabilities:
    """The five sets of capabilities(7) as masks of 64 bits."""

    bounding: int = 0
    effective: int = 0
    permitted: int = 0
    inheritable: int = 0
    ambient: int = 0


@dataclass(frozen=True)
class Process:
    """One process to become, runtime-spec `process`.

    `user` is "name|uid[:group|gid]", looked up in the container's own /etc/passwd and /etc/group as late as
    possible, as are `additional_groups`, names or numbers; with `keep_groups` it has those of the launcher
    instead. `console_size` are the rows and columns of its
    terminal, 0 where nobody has said. `rlimits` are (resource number, soft, hard), -1 for no limit; `seccomp`
    is the path of a BPF program, read before the root changes, `seccomp_flags` those of seccomp(2).
    `listener` is the socket that shall get the descriptor of its notifications.

    With `exact_capabilities` the five sets hold as they are; without, a user other than root is left with the
    ambient ones, as setuid(2) leaves them. `scheduler` is (policy, flags, nice, priority, runtime, deadline,
    period) of sched_setattr(2), `memory_policy` (mode, mask of nodes in hexadecimal) of set_mempolicy(2).
    `initial_cpus` and `final_cpus` are where it runs before and after it joins its control groups.
    `preserve_fds` is how many descriptors after the standard streams it inherits.
    """

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str = "/"
    user: str = ""
    additional_gids: tuple[int, ...] = ()
    additional_groups: tuple[str, ...] = ()
    keep_groups: bool = False
    umask: int | None = None
    terminal: bool = False
    console_size: tuple[int, int] = (0, 0)
    capabilities: Capabilities = field(default_factory=Capabilities)
    exact_capabilities: bool = False
    rlimits: tuple[tuple[int, int, int], ...] = ()
    no_new_privileges: bool = False
    seccomp: str | None = None
    seccomp_flags: int = 0
    listener: str = ""
    listener_metadata: str = ""
    oom_score_adj: int | None = None
    apparmor_profile: str = ""
    selinux_label: str = ""
    scheduler: tuple[int, ...] = ()
    io_priority: int | None = None
    personality: int | None = None
    memory_policy: tuple[int, str] = (-1, "")
    initial_cpus: tuple[int, ...] = ()
    final_cpus: tuple[int, ...] = ()
    preserve_fds: int = 0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Process:
        """The inverse of `vars`."""
        return cls(**{**_with_tuples(data), "capabilities": Capabilities(**data.get("capabilities", {}))})


@dataclass(frozen=True)
class Hook:
    """A program to run at a point of a container's life, runtime-spec `hooks`.

    `env` None means the environment of whoever runs it; `timeout` is in seconds, 0 for none.
    """

    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] | None = None
    timeout: int = 0

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Hook:
        """The inverse of `vars`."""
        return cls(**_with_tuples(data))


@dataclass(frozen=True)
class LaunchPlan:
    """All that a launcher still needs to become PID 1 of a container.

    `group` is the container's name below each of the shape's `groups`; `group_settings` are written there
    before the process runs. `netlink` are rtnetlink requests to send inside the container's network
    namespace. `join` maps a namespace's name to the path of an existing one. `sysctls` are (file below
    /proc/sys, value).

    `propagation` are the mount(2) flags of the container's root mount, 0 for none; without `pivot` the root
    is entered by moving the mount and chroot(2). `report_mounted` makes the launcher say `mounted` before
    `pivot_root` and wait for a word, for hooks of the runtime's side. `create_container` and
    `start_container` are the hooks that run in the container's namespaces, with the JSON object `state`
    completed by status and pid on their standard input and, the former, in the directory `bundle`.
    `listener` is the (inherited) descriptor of a listening socket: once all is ready the launcher says
    `created` and goes on only when somebody has connected there, who then hears of failures in place of the
    keeper. `keyring` is the name of the session keyring to join, "" to stay in the one of before.
    With `ahead` the launcher becomes all that the process shall be, and waits for a word before its execve.
    """

    id: str
    group: str
    root: mounts.Overlay | mounts.BindRoot
    process: Process
    hostname: str = ""
    domainname: str = ""
    group_settings: tuple[tuple[int, str, str], ...] = ()
    join: tuple[tuple[str, str], ...] = ()
    netlink: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    mounts: tuple[MountOperation, ...] = ()
    read_only_root: bool = False
    propagation: int = 0
    pivot: bool = True
    bundle: str = ""
    state: str = ""
    report_mounted: bool = False
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    listener: int = -1
    keyring: str = ""
    ahead: bool = False

    def encode(self) -> bytes:
        """One JSON object, without what has its default."""
        return encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> LaunchPlan:
        """The inverse of `encode`."""
        data = json.loads(raw)
        data["process"] = Process.from_json(data["process"])
        data["root"] = mounts.from_json(_with_tuples(data["root"]))
        if "mounts" in data:
            data["mounts"] = tuple(mounts.from_json(_with_tuples(item)) for item in data["mounts"])
        for name in ("create_container", "start_container"):
            if name in data:
                data[name] = tuple(Hook.from_json(item) for item in data[name])
        return cls(**_with_tuples(data))


@dataclass(frozen=True)
class JoinPlan:
    """One more process in the container whose first process is `pid`: its namespaces and control groups.

    `start_time` (field 22 of proc(5) stat) guards against another process that got the number. `groups` are
    the container's own group directories; `enter` are files to write "0" into instead, as in `Shape`.
    `spawn` says that the process needs no terminal, and that its filter of system calls lets it start others:
    then it can be started in less time. `state` is the container's, JSON, for the filter's listener.
    `ahead` says that the command comes later, with the word to start it; only with `spawn`.
    """

    pid: int
    start_time: int
    groups: tuple[str, ...]
    process: Process
    unified: bool = False
    namespaces: tuple[str, ...] = ("mnt", "pid", "net", "uts", "ipc", "cgroup")
    enter: tuple[str, ...] = ()
    spawn: bool = False
    ahead: bool = False
    state: str = ""
    keyring: str = ""

    def encode(self) -> bytes:
        """One JSON object, without what has its default."""
        return encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> JoinPlan:
        """The inverse of `encode`."""
        data = json.loads(raw)
        data["process"] = Process.from_json(data["process"])
        return cls(**_with_tuples(data))


def encode(plan: LaunchPlan | JoinPlan) -> bytes:
    """JSON of a plan; a mount operation carries its class's name under `op`. What has its default is left
    out.
    """
    return json.dumps(_as_json(plan), default=_as_json, separators=(",", ":")).encode()


def _with_tuples(data: dict[str, Any]) -> dict[str, Any]:
    """JSON knows lists only; what is compared and hashed here are tuples."""
    return {name: _as_tuple(value) for name, value in data.items()}


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(one) for one in value) if isinstance(value, list) else value


@cache
def _defaults(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass that may be left out."""
    found = {}
    for one in fields(kind):
        if one.default is not MISSING:
            found[one.name] = one.default
        elif one.default_factory is not MISSING:
            found[one.name] = one.default_factory()
    return found


def _as_json(value: object) -> dict[str, Any]:
    kind: Any = type(value)
    defaults = _defaults(kind)
    stated = {
        name: item for name, item in vars(value).items() if name not in defaults or item != defaults[name]
    }
    return {"op": kind.__name__, **stated} if isinstance(value, mounts.OPERATIONS) else stated
