# SPDX-License-Identifier: Apache-2.0
"""Which cgroups this host has: version 1, version 2, or both side by side.

"v1": each controller in a hierarchy of its own (several may be mounted together). "v2": one tree for all.
"hybrid": version 1 controllers beside a version 2 tree; a controller belongs to the one that it is mounted
in, version 1 first.

Groups are named relative to the top of the mounts, as Docker does with an absolute cgroup parent: which group
the agent itself sits in does not matter. In a container the top of the mounts is the container's own group.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import Conflict, InvalidSpec, NotSupported
from . import devices, interface
from .controller import Controller
from .cpulist import parse_cpulist
from .group import Group
from .mountinfo import CgroupMount, parse_membership, parse_mountinfo, within_mount
from .resources import Resources, Setting
from .v1 import blkio as v1_blkio
from .v1 import cpu as v1_cpu
from .v1 import cpuset as v1_cpuset
from .v1 import devices as v1_devices
from .v1 import memory as v1_memory
from .v1 import pids as v1_pids
from .v2 import cpu as v2_cpu
from .v2 import cpuset as v2_cpuset
from .v2 import io as v2_io
from .v2 import memory as v2_memory
from .v2 import pids as v2_pids

CONTROLLERS = ("cpuset", "cpu", "cpuacct", "memory", "pids", "devices", "freezer", "blkio", "io")
"""The controllers that containers are put into, in the order in which their settings are written."""

_CORE_OF_V2 = ("cpuacct", "devices", "freezer")
"""Controllers of version 1 that version 2 has in its core: cpu.stat, a BPF program, cgroup.freeze."""

_LIMITS: dict[tuple[str, int], Controller] = {
    ("cpuset", 1): v1_cpuset,
    ("cpuset", 2): v2_cpuset,
    ("cpu", 1): v1_cpu,
    ("cpu", 2): v2_cpu,
    ("memory", 1): v1_memory,
    ("memory", 2): v2_memory,
    ("pids", 1): v1_pids,
    ("pids", 2): v2_pids,
    ("blkio", 1): v1_blkio,
    ("io", 2): v2_io.BlockIo(v2_io.COST_WEIGHT),
}

_DISKS = (
    *("blkio_weight", "blkio_weight_device"),
    *("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops"),
)

_FIELDS = {
    "memory": ("memory", "memory_reservation", "memory_swap"),
    "cpu": ("cpus", "cpu_shares"),
    "cpuset": ("cpuset_cpus", "cpuset_mems"),
    "pids": ("pids_limit",),
}

_OF_VERSION_1 = {
    "memory_swappiness": ("memory", v1_memory.SWAPPINESS),
    "oom_kill_disable": ("memory", v1_memory.OOM_CONTROL),
    "cpu_rt_period": ("cpu", v1_cpu.RT_PERIOD),
    "cpu_rt_runtime": ("cpu", v1_cpu.RT_RUNTIME),
}
"""Field of Resources → controller and the file that version 2, and some kernels with version 1, have not."""


@dataclass(frozen=True)
class Place:
    """Where a controller lives."""

    controller: str
    version: int
    mount: str


class Hierarchy:
    """The cgroup controllers of this host. Made once by `detect()`; it does not change while the agent runs.

    mode         "v1", "v2" or "hybrid"
    controllers  controller → where its hierarchy is mounted (of those in CONTROLLERS that this host has)
    own          controller → the group of this process relative to that mount; absent when it lies outside
    the mount
    """

    def __init__(self, mode: str, places: Iterable[Place], own: dict[str, str] | None = None) -> None:
        self.mode = mode
        self.places = {place.controller: place for place in places}
        self.controllers = {name: Path(place.mount) for name, place in self.places.items()}
        self.own = own or {}
        self._limits = {
            name: _LIMITS[name, place.version]
            for name, place in self.places.items()
            if (name, place.version) in _LIMITS
        }
        self._weights_known = "io" not in self.places
        self._swap_accounting: bool | None = None

    @property
    def limits(self) -> Mapping[str, Controller]:
        """What plans and reads each controller's files. Which file of version 2 has the weights is known once
        a group has the controller, which on a new host is not before the agent has made one.
        """
        if not self._weights_known and (file := v2_io.weight_file(self.places["io"].mount)) is not None:
            self._limits["io"] = v2_io.BlockIo(file)
            self._weights_known = True
        return self._limits

    @property
    def can_rename(self) -> bool:
        """Whether a group can be renamed in place: version 1 only."""
        return all(place.version == 1 for place in self.places.values())

    @property
    def unified_mount(self) -> Path | None:
        """Where the version 2 tree is mounted if containers are put into it, else None."""
        return next((Path(place.mount) for place in self.places.values() if place.version == 2), None)

    @property
    def swap_accounting(self) -> bool:
        """Whether this kernel counts and limits swap per group."""
        if self._swap_accounting is None:
            place = self.places.get("memory")
            self._swap_accounting = place is not None and _accounts_swap(place)
        return self._swap_accounting

    def group(self, path: str) -> Group:
        """The group with this path below the top of the mounts, such as "mooring/abc"; nothing is made by
        naming it."""
        return Group(self, check_path(path))

    def settings(self, resources: Resources) -> tuple[Setting, ...]:
        """What to write, in order, to a group that has just been made. Pure data, for whoever makes the
        group.

        InvalidSpec for values that make no sense, NotSupported when this host lacks what is asked for.
        """
        self.check(resources)
        return tuple(
            setting for controller in self.limits.values() for setting in controller.settings(resources)
        )

    def device_settings(
        self, rules: Iterable[devices.DeviceRule] = devices.DEFAULT_RULES
    ) -> tuple[Setting, ...]:
        """The white list of devices as writes to a new group; empty where version 2 wants a program
        (Group.set_devices)."""
        place = self.places.get("devices")
        return v1_devices.settings(rules) if place is not None and place.version == 1 else ()

    def check(self, resources: Resources) -> None:
        """Raise InvalidSpec or NotSupported if this host can never give these resources. Costs no more than
        two small reads."""
        resources.check()
        for controller, fields in _FIELDS.items():
            stated = next((field for field in fields if getattr(resources, field) is not None), None)
            if stated is not None and controller not in self.places:
                raise NotSupported(
                    f'{stated} was asked for, but this host has no cgroup controller "{controller}"; mount '
                    "it "
                    f"(or enable it on the kernel's command line with cgroup_enable={controller}) or leave "
                    f"{stated} out"
                )
        self._check_version_1(resources)
        if resources.memory_swap not in (None, -1) and not self.swap_accounting:
            raise v1_memory.swap_not_accounted()
        for field, file in (("cpuset_cpus", "cpus"), ("cpuset_mems", "mems")):
            wanted = getattr(resources, field)
            if wanted is None:
                continue
            place = self.places["cpuset"]
            name = f"cpuset.effective_{file}" if place.version == 1 else f"cpuset.{file}.effective"
            there = interface.read_if_there(f"{place.mount}/{name}")
            if there and not parse_cpulist(wanted) <= parse_cpulist(there):
                raise InvalidSpec(
                    f'{field} is "{wanted}", expected some of "{there}", which is all that this host has'
                )

    def _check_version_1(self, resources: Resources) -> None:
        for field, (controller, file) in _OF_VERSION_1.items():
            if getattr(resources, field) in (None, False):
                continue
            place = self.places.get(controller)
            if place is None or place.version != 1 or not os.path.exists(f"{place.mount}/{file}"):
                raise NotSupported(
                    f"{field} was asked for, but this host's cgroups have no {file}, which is of cgroups v1 "
                    f"and not of every kernel; leave {field} out"
                )
        stated = next((field for field in _DISKS if getattr(resources, field)), None)
        if stated is not None and not {"blkio", "io"}.intersection(self.places):
            raise NotSupported(
                f"{stated} was asked for, but this host has neither the cgroup controller blkio (v1) nor io "
                f"(v2); mount one or leave {stated} out"
            )


def check_path(path: str) -> str:
    """The path itself, if it can name a group. InvalidSpec if it could leave the tree or clash with an
    interface file."""
    for part in path.split("/"):
        # Interface files are CONTROLLER.FILE, "tasks", "notify_on_release" and "release_agent".
        if (
            not part
            or part in (".", "..", "tasks", "notify_on_release", "release_agent")
            or "\n" in part
            or (part.split(".")[0] in (*CONTROLLERS, "cgroup", "hugetlb", "rdma", "misc") and "." in part)
            or len(os.fsencode(part)) > 255
        ):
            raise InvalidSpec(f'cgroup path is "{path}", expected names joined by "/" such as "mooring/web"')
    return path


def detect(mountinfo_text: str | None = None, membership_text: str | None = None) -> Hierarchy:
    """What this host offers, from /proc/self/mountinfo and /proc/self/cgroup (or from texts in their format).

    NotSupported when no cgroup file system is mounted.
    """
    if mountinfo_text is None:
        mountinfo_text = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape")
    if membership_text is None:
        membership_text = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="surrogateescape")
    mounts = parse_mountinfo(mountinfo_text)
    membership = parse_membership(membership_text)
    by_controller: dict[str, CgroupMount] = {}
    for mount in sorted(mounts, key=_preference):
        for name in mount.controllers:
            by_controller.setdefault(name, mount)
    unified = min((mount for mount in mounts if mount.version == 2), key=_preference, default=None)
    if unified is None and not by_controller:
        raise NotSupported(
            "no cgroup file system with controllers is mounted on this host, expected one below "
            "/sys/fs/cgroup; mount it (mount -t cgroup2 none /sys/fs/cgroup) or start the agent outside "
            "the sandbox that hides it"
        )
    mode = "v2" if not by_controller else "v1" if unified is None else "hybrid"
    offered = _offered_by(unified)
    places: list[Place] = []
    own: dict[str, str] = {}
    for name in CONTROLLERS:
        if name in by_controller:
            place, mount, key = Place(name, 1, by_controller[name].mount_point), by_controller[name], name
        elif unified is not None and name in offered:
            place, mount, key = Place(name, 2, unified.mount_point), unified, ""
        else:
            continue
        places.append(place)
        inside = within_mount(membership[key], mount.root) if key in membership else None
        if inside is not None:
            own[name] = inside
    return Hierarchy(mode, places, own)


def _preference(mount: CgroupMount) -> tuple[bool, bool]:
    """Of several mounts of one hierarchy: the usual place first, then the one that shows most. Stable for the
    rest."""
    return (not mount.mount_point.startswith("/sys/fs/cgroup"), mount.root != "/")


def _offered_by(unified: CgroupMount | None) -> frozenset[str]:
    if unified is None:
        return frozenset()
    try:
        listed = interface.read(f"{unified.mount_point}/cgroup.controllers").split()
    except OSError as error:
        raise Conflict(
            f"the cgroup tree at {unified.mount_point} cannot be read: {error.strerror}; another mount may "
            "hide it"
        ) from error
    return frozenset(listed).union(_CORE_OF_V2)


def _accounts_swap(place: Place) -> bool:
    if place.version == 1:
        return os.path.exists(f"{place.mount}/{v1_memory.SWAP_LIMIT}")
    # The root group of version 2 has no limits; any group inside it that has the memory controller tells.
    with os.scandir(place.mount) as entries:
        for entry in entries:
            if entry.is_dir() and os.path.exists(f"{entry.path}/{v2_memory.MAX}"):
                return os.path.exists(f"{entry.path}/{v2_memory.SWAP_MAX}")
    # No group has the controller yet: /proc/swaps is there exactly with CONFIG_SWAP.
    return os.path.exists("/proc/swaps")
