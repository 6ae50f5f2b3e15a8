# SPDX-License-Identifier: Apache-2.0
"""A container's control group: one directory in every mounted hierarchy, whichever versions they are.

What is here works on directories alone, as they stand in the container's state: whoever ends a container
needs neither its config nor the mounts of the day on which it was created.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ..cgroups import interface, killing, tree
from ..cgroups.devices import DeviceRule
from ..cgroups.mountinfo import parse_mountinfo
from ..cgroups.v1 import devices as v1_devices
from ..cgroups.v1 import freezer as v1_freezer
from ..cgroups.v1 import tree as v1_tree
from ..cgroups.v2 import devices as v2_devices
from ..cgroups.v2 import freezer as v2_freezer
from ..errors import Conflict, InvalidSpec, NotSupported, Unavailable
from . import limits

Groups = tuple[tuple[str, int], ...]
"""(directory, version of its hierarchy)."""

_DEVICE_KINDS = {"a": "a", "c": "c", "u": "c", "b": "b"}
# What a container may use whatever its rules say, runtime-spec config-linux.md "Default Devices"; making
# nodes harms nobody. Numbers: Documentation/admin-guide/devices.txt.
_ALWAYS = (
    DeviceRule("c", None, None, "m"),
    DeviceRule("b", None, None, "m"),
    DeviceRule("c", 1, 3),  # null
    DeviceRule("c", 1, 8),  # random
    DeviceRule("c", 1, 7),  # full
    DeviceRule("c", 5, 0),  # tty
    DeviceRule("c", 1, 5),  # zero
    DeviceRule("c", 1, 9),  # urandom
    DeviceRule("c", 5, 1),  # console
    DeviceRule("c", 136, None),  # pts/*
    DeviceRule("c", 5, 2),  # ptmx
)


def places(path: str) -> Groups:
    """Where the group `path` is, or would be, on this host. NotSupported without any hierarchy."""
    clean = os.path.normpath(f"/{path}")
    found: dict[str, int] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        mounts = parse_mountinfo(file.read())
    seen: set[tuple[int, tuple[str, ...], str]] = set()
    for mount in mounts:
        kind = (mount.version, mount.controllers, mount.name)
        if kind not in seen and mount.mount_point.startswith("/sys/fs/cgroup"):
            seen.add(kind)
            found[f"{mount.mount_point}{clean}".rstrip("/")] = mount.version
    if not found:
        raise NotSupported(
            "no control groups are mounted below /sys/fs/cgroup on this host; mount them, or use "
            "--cgroup-manager disabled"
        )
    if clean == "/":
        raise InvalidSpec("linux.cgroupsPath is the root group, expected one that the container can have")
    return tuple(found.items())


def make(groups: Groups, path: str) -> None:
    """Make the directories with those above them. OSError, or Conflict if a directory cannot be limited."""
    clean = os.path.normpath(f"/{path}")
    for directory, version in groups:
        mount = directory.removesuffix(clean)
        if version == 1:
            cpuset = os.path.exists(f"{mount}/cpuset.cpus")
            v1_tree.make(mount, clean[1:], cpuset=cpuset)
        else:
            _make_unified(mount, clean)


def _make_unified(mount: str, path: str) -> None:
    """Hand down all controllers that can be: one that is missing is missed when it is to limit something."""
    directory = mount
    for part in path.strip("/").split("/"):
        there = interface.read(f"{directory}/cgroup.controllers").split()
        on = interface.read(f"{directory}/cgroup.subtree_control").split()
        for name in there:
            if name not in on:
                try:
                    interface.write(f"{directory}/cgroup.subtree_control", f"+{name}")
                except OSError as error:
                    if error.errno not in (errno.EBUSY, errno.EINVAL, errno.ENOENT, errno.EOPNOTSUPP):
                        raise
        directory = f"{directory}/{part}"
        try:
            os.mkdir(directory, 0o755)
        except FileExistsError:
            pass


def enter_files(groups: Groups, below: str = "") -> tuple[str, ...]:
    """Where a process writes "0" to join; `below` is a group inside."""
    inside = f"/{below.strip('/')}" if below.strip("/") else ""
    return tuple(
        f"{directory}{inside}/{'tasks' if version == 1 else 'cgroup.procs'}" for directory, version in groups
    )


def apply(groups: Groups, resources: Mapping[str, Any]) -> None:
    """Give the groups the limits of a config's `linux.resources`: what it states and nothing else.

    Raises InvalidSpec, NotSupported for a controller that is not there, Conflict when the kernel refuses.
    """
    for name, file, value in _settings(groups, resources):
        try:
            interface.write(file, value)
        except OSError as error:
            raise Conflict(
                f"the kernel refused {value!r} for {name} of the control group: {error.strerror} ({file})"
            ) from error


def _settings(groups: Groups, resources: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """(what, file, value), each for the hierarchy that has its controller."""
    unified = [directory for directory, version in groups if version == 2]
    first = [directory for directory, version in groups if version == 1]
    v2_only = not any(_has_controller(directory) for directory in first)
    wanted = limits.unified(resources) if v2_only else limits.separate(resources)
    for setting in wanted:
        candidates = unified if v2_only else first
        directory = next(
            (one for one in candidates if os.path.exists(f"{one}/{setting.file}")), None
        ) or next((one for one in candidates if os.path.exists(f"{one}/{setting.other}")), None)
        if directory is None:
            if setting.optional:
                continue
            raise NotSupported(
                f"linux.resources.{setting.name} needs {setting.file} of a control group, which this host "
                f"does not offer; leave it out or enable the controller {setting.file.partition('.')[0]}"
            )
        file = setting.file if os.path.exists(f"{directory}/{setting.file}") else setting.other
        current = _current(f"{directory}/{file}") if setting.not_below else ""
        if setting.not_below and current and limits.is_more(setting.value, current):
            # The other limit, which comes later, has to be raised first.
            for later in wanted:
                if later.file == setting.not_below:
                    yield later.name, f"{directory}/{later.file}", later.value
        yield setting.name, f"{directory}/{file}", setting.value
    for key, value in (resources.get("unified") or {}).items():
        if "/" in key:
            raise InvalidSpec(
                f"linux.resources.unified has the name {key!r}, expected a file such as memory.high"
            )
        if not unified or (not v2_only and not os.path.exists(f"{unified[0]}/{key}")):
            raise NotSupported(
                f"linux.resources.unified has {key}, but the control groups of this host are of version 1"
            )
        for line in str(value).splitlines():
            yield f"unified {key}", f"{unified[0]}/{key}", line


def _has_controller(directory: str) -> bool:
    """A named hierarchy, such as systemd's, has none."""
    parent = os.path.dirname(directory)
    while not os.path.exists(f"{parent}/tasks"):
        parent = os.path.dirname(parent)
    return any("." in name and not name.startswith(("cgroup.", "notify")) for name in os.listdir(parent))


def _current(file: str) -> str:
    return interface.read_if_there(file) or ""


def device_rules(entries: Iterable[Mapping[str, Any]]) -> tuple[DeviceRule, ...]:
    """`linux.resources.devices` with what every container may use; nothing where the config has none."""
    rules = tuple(
        DeviceRule(
            _kind(entry.get("type", "a")),
            _number(entry.get("major")),
            _number(entry.get("minor")),
            entry.get("access") or "rwm",
            bool(entry.get("allow")),
        )
        for entry in entries
    )
    return (*rules, *_ALWAYS) if rules else ()


def _kind(text: str) -> str:
    try:
        return _DEVICE_KINDS[text]
    except KeyError:
        raise InvalidSpec(f"linux.resources.devices has the type {text!r}, expected a, b, c or u") from None


def _number(value: int | None) -> int | None:
    return None if value is None or value < 0 else value


def restrict_devices(groups: Groups, rules: tuple[DeviceRule, ...]) -> None:
    """Put the rules in force. Raises Conflict when the kernel refuses, NotSupported without a controller."""
    if not rules:
        return
    for directory, version in groups:
        if version == 1 and os.path.exists(f"{directory}/{v1_devices.ALLOW}"):
            for setting in v1_devices.settings(rules):
                _write_device(f"{directory}/{setting.file}", setting.value)
            return
    unified = next((directory for directory, version in groups if version == 2), None)
    if unified is None:
        raise NotSupported("linux.resources.devices needs the devices controller, which is not mounted")
    try:
        v2_devices.attach(unified, v2_devices.program(rules))
    except OSError as error:
        raise Conflict(f"the devices' eBPF program of {unified} was refused: {error.strerror}") from error


def _write_device(file: str, value: str) -> None:
    try:
        interface.write(file, value)
    except OSError as error:
        raise Conflict(f"the kernel refused {value!r} for {file}: {error.strerror}") from error


def give_away(groups: Groups, uid: int) -> None:
    """Let the root of a user namespace have its version 2 group, as far as the kernel says that it may.

    The files are those of /sys/kernel/cgroup/delegate.
    """
    for directory, version in groups:
        if version == 2:
            names = (interface.read_if_there("/sys/kernel/cgroup/delegate") or "cgroup.procs").split()
            for path in (directory, *(f"{directory}/{name}" for name in names)):
                try:
                    os.chown(path, uid, -1)
                except FileNotFoundError:
                    pass


# Processes


def _freezer(groups: Groups) -> tuple[str, int] | None:
    for directory, version in groups:
        if version == 1 and os.path.exists(f"{directory}/{v1_freezer.STATE}"):
            return directory, 1
    for directory, version in groups:
        if version == 2 and os.path.exists(f"{directory}/{v2_freezer.FREEZE}"):
            return directory, 2
    return None


def is_frozen(groups: Groups) -> bool:
    """Whether the group stands still."""
    found = _freezer(groups)
    if found is None:
        return False
    directory, version = found
    try:
        return v1_freezer.is_frozen(directory) if version == 1 else v2_freezer.is_frozen(directory)
    except FileNotFoundError:
        return False


def freeze(groups: Groups, *, thaw: bool = False, deadline_s: float = 10.0) -> None:
    """Stop every process, or let them go on. NotSupported without a freezer."""
    found = _freezer(groups)
    if found is None:
        raise NotSupported("the container has no cgroup with a freezer, so it cannot be paused or resumed")
    directory, version = found
    freezer: Any = v1_freezer if version == 1 else v2_freezer
    (freezer.thaw if thaw else freezer.freeze)(directory, os.path.basename(directory), deadline_s)


def pids(groups: Groups) -> list[int]:
    """All processes of the group and of those inside it."""
    found: set[int] = set()
    for directory, _ in groups:
        found.update(tree.pids(directory, recursive=True))
    return sorted(found)


def kill(groups: Groups, number: int) -> None:
    """Signal every process; with SIGKILL none that forks meanwhile gets away, and nothing stays frozen."""
    if number == signal.SIGKILL:
        killing.kill(_freezer(groups), lambda: pids(groups))
        return
    for pid in pids(groups):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def thaw_wherever(pid: int) -> None:
    """Thaw the version 1 group that the process is in now: somebody may have moved it to another and frozen
    that, and what is frozen there cannot be killed.
    """
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
        for _, controllers, path in lines:
            if "freezer" in controllers.split(","):
                interface.write(f"/sys/fs/cgroup/freezer{path}/{v1_freezer.STATE}", "THAWED")
    except (FileNotFoundError, ProcessLookupError):
        pass


def empty(groups: Groups, deadline_s: float = 10.0) -> None:
    """SIGKILL whatever is in the group until nothing is. Unavailable after the deadline."""
    if not killing.empty(_freezer(groups), lambda: pids(groups), deadline_s):
        raise Unavailable(
            f"processes {', '.join(map(str, pids(groups)[:5]))} of the container still live {deadline_s:g} s "
            "after SIGKILL, most likely waiting for a disk or the network; try again later"
        )


def remove(groups: Groups, deadline_s: float = 5.0) -> None:
    """Remove the directories and the groups inside them. Raises Conflict if the kernel keeps one busy."""
    end = time.monotonic() + deadline_s
    for directory, _ in groups:
        if os.path.isdir(directory) and not tree.remove(directory, end):
            raise Conflict(f"cgroup {directory} cannot be removed: Device or resource busy")
