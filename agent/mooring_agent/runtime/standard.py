# SPDX-License-Identifier: Apache-2.0
"""What every container gets unless its config says otherwise: file systems, devices, masked and read-only
paths.

The file systems and devices are those of the runtime-spec (config-linux.md, Default Filesystems and Default
Devices) as Docker sets them up; the masked and read-only paths are Docker's.
"""

from __future__ import annotations

from ..linux.syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_STRICTATIME
from .mounts import Filesystem, Link, Mask, MountOperation, Node, ReadOnly, Seal

# The trees that a launcher prepares ahead and later moves into the root as they are.
TREES = ("proc", "sys", "dev")

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

_LOCKED = MS_NOSUID | MS_NODEV | MS_NOEXEC


def standard_mounts(shm_size: int, hierarchies: tuple[str, ...] = ()) -> tuple[MountOperation, ...]:
    """The standard file systems, in order.

    `shm_size` in bytes is that of /dev/shm. `hierarchies` are the names of mounted cgroup v1 hierarchies
    ("cpu,cpuacct"), ("",) for v2, () where the container gets no view of its control groups.
    """
    return (
        Filesystem("proc", "proc", "/proc", _LOCKED),
        Filesystem("tmpfs", "tmpfs", "/dev", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"),
        Filesystem(
            "devpts", "devpts", "/dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"
        ),
        Filesystem("sysfs", "sysfs", "/sys", _LOCKED | MS_RDONLY),
        *_cgroup_mounts(hierarchies),
        Filesystem("mqueue", "mqueue", "/dev/mqueue", _LOCKED),
        Filesystem("tmpfs", "shm", "/dev/shm", _LOCKED, f"mode=1777,size={shm_size}"),
        *DEVICES,
        Mask(MASKED_PATHS),
        ReadOnly(READ_ONLY_PATHS),
    )


DEVICES: tuple[MountOperation, ...] = (
    Node("/dev/null", 1, 3),
    Node("/dev/zero", 1, 5),
    Node("/dev/full", 1, 7),
    Node("/dev/random", 1, 8),
    Node("/dev/urandom", 1, 9),
    Node("/dev/tty", 5, 0),
    Link("/dev/ptmx", "pts/ptmx"),
    Link("/dev/fd", "/proc/self/fd"),
    Link("/dev/stdin", "/proc/self/fd/0"),
    Link("/dev/stdout", "/proc/self/fd/1"),
    Link("/dev/stderr", "/proc/self/fd/2"),
    Link("/dev/core", "/proc/kcore"),
)


def _cgroup_mounts(hierarchies: tuple[str, ...]) -> tuple[MountOperation, ...]:
    if hierarchies == ("",):
        return (Filesystem("cgroup2", "cgroup", "/sys/fs/cgroup", _LOCKED | MS_RDONLY),)
    if not hierarchies:
        return ()
    each = tuple(
        Filesystem("cgroup", "cgroup", f"/sys/fs/cgroup/{name}", _LOCKED | MS_RDONLY, name)
        for name in hierarchies
    )
    return (
        Filesystem("tmpfs", "tmpfs", "/sys/fs/cgroup", _LOCKED, "mode=755"),
        *each,
        Seal("/sys/fs/cgroup"),
    )
