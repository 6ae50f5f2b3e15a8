# SPDX-License-Identifier: Apache-2.0
"""What a launcher does before it knows its container: control groups, namespaces, /proc, /sys and /dev.

All of it happens off the path of a start, and in a process of its own, so that a keeper never waits for it.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct

from ..linux import syscalls
from ..linux.syscalls import MS_NODEV, MS_NOSUID, MS_PRIVATE, MS_REC, MS_SLAVE
from .mounts import MountOperation
from .plan import Shape

NAMESPACES = {
    "mnt": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "net": syscalls.CLONE_NEWNET,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "cgroup": syscalls.CLONE_NEWCGROUP,
}
_IFF_UP = 1  # linux/if.h
_SIOCSIFFLAGS = 0x8914  # linux/sockios.h


def join_groups(directories: tuple[str, ...]) -> None:
    """Put this single-threaded process into cgroup v1 groups.

    Writing "0" to `tasks` moves the caller alone, which spares the kernel's lock over all thread groups: 0.03
    ms each where `cgroup.procs` takes up to 30 (kernel/cgroup/cgroup.c, cgroup_procs_write_start).
    """
    for directory in directories:
        write(f"{directory}/tasks", "0")


def make_groups(shape: Shape, name: str) -> tuple[str, ...]:
    """Make the group `name` in each hierarchy of the shape, with the shape's settings."""
    directories = tuple(f"{parent}/{name}" for parent in shape.groups)
    for directory in directories:
        os.mkdir(directory, 0o755)
    for index, file, value in shape.group_settings:
        write(f"{directories[index]}/{file}", value)
    return directories


def enter_namespaces(shape: Shape) -> None:
    """Leave the host's namespaces. The pid namespace came with the clone."""
    flags = 0
    for name in shape.namespaces:
        flags |= NAMESPACES[name]
    flags &= ~syscalls.CLONE_NEWPID
    if flags:
        syscalls.unshare(flags)
    # A slave, not private: an unmount on the host must not be held up by a launcher that waits.
    syscalls.mount(None, "/", None, MS_REC | MS_SLAVE)


def build_trees(stage: str, trees: tuple[str, ...], operations: tuple[MountOperation, ...]) -> int:
    """Build the standard trees below `stage`, an existing directory, on a file system of their own.

    Answers a descriptor of their own /proc/sys from before it is made read-only, -1 without operations, the
    first of which mounts /proc. In the host's /proc every network namespace would add an entry to the same
    chain of the directory cache (fs/proc/proc_sysctl.c, proc_sys_compare): the more containers, the slower.
    """
    syscalls.mount("mooring", stage, "tmpfs", MS_NOSUID | MS_NODEV, "mode=700,size=1m")
    syscalls.mount(None, stage, None, MS_PRIVATE)
    for name in (*trees, "root"):
        os.mkdir(f"{stage}/{name}", 0o755)
    root = os.open(stage, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    sysctls = -1
    try:
        for operation in operations:
            operation.execute(root)
            if sysctls < 0:
                sysctls = os.open(f"{stage}/proc/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(root)
    return sysctls


def raise_loopback() -> None:
    """Bring `lo` up in this network namespace."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", _IFF_UP))


def write(path: str, value: str, directory: int = -1) -> None:
    """Write a kernel file in one call; its path may begin at the open `directory`. Raises OSError that names
    the file and the value.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC, dir_fd=directory if directory >= 0 else None)
    try:
        os.write(descriptor, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {value!r} to {path}: {error.strerror}") from None
    finally:
        os.close(descriptor)
