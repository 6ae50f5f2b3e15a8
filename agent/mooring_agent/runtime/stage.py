# SPDX-License-Identifier: Apache-2.0
"""What a launcher does before it knows its container: control groups, namespaces, /proc, /sys and /dev.

All of it happens off the path of a start, and in a process of its own, so that a keeper never waits for it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import struct

from ..linux import syscalls
from ..linux.syscalls import MS_NODEV, MS_NOSUID, MS_PRIVATE, MS_REC, MS_SLAVE
from .idmaps import user_namespace
from .mounts import MountOperation
from .plan import Shape

NAMESPACES = {
    "mnt": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "net": syscalls.CLONE_NEWNET,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "user": syscalls.CLONE_NEWUSER,
    "time": syscalls.CLONE_NEWTIME,
}
# Joined by whoever forks the launcher, and by the launcher once nothing of the host is needed any more.
_NOT_HERE = ("pid", "user")
_IFF_UP = 1  # linux/if.h
_SIOCSIFFLAGS = 0x8914  # linux/sockios.h


def join_groups(directories: tuple[str, ...]) -> None:
    """Put this single-threaded process into cgroup v1 groups.

    Writing "0" to `tasks` moves the caller alone, which spares the kernel's lock over all thread groups: 0.03
    ms each where `cgroup.procs` takes up to 30 (kernel/cgroup/cgroup.c, cgroup_procs_write_start).
    """
    for directory in directories:
        write(f"{directory}/tasks", "0")


def open_groups(directories: tuple[str, ...]) -> tuple[int, ...]:
    """Descriptors for `move_into`: with them a process may move itself whoever it is by then."""
    return tuple(os.open(f"{directory}/tasks", os.O_WRONLY | os.O_CLOEXEC) for directory in directories)


def move_into(groups: tuple[int, ...]) -> None:
    """`join_groups` of groups that have been opened before; closes them. Raises OSError."""
    for descriptor in groups:
        os.write(descriptor, b"0")
        os.close(descriptor)


def make_groups(shape: Shape, name: str) -> tuple[str, ...]:
    """Make the group `name` in each hierarchy of the shape, with the shape's settings."""
    directories = tuple(f"{parent}/{name}" for parent in shape.groups)
    for directory in directories:
        os.mkdir(directory, 0o755)
    for index, file, value in shape.group_settings:
        write(f"{directories[index]}/{file}", value)
    return directories


def join_namespace(name: str, path: str) -> None:
    """Join the namespace of kind `name` at `path`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(descriptor, NAMESPACES[name])
    except OSError as error:
        raise OSError(error.errno, f"join the {name} namespace {path}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def enter_namespaces(shape: Shape) -> int:
    """Leave the host's namespaces. The pid namespace came with the clone.

    Answers a descriptor of the user namespace that owns the others, -1 where there is none. It is entered
    last, by `become_root_of`: until then the launcher is root of the host, to whom sources of mounts and
    devices are open.
    """
    for name, path in shape.join:
        if name not in _NOT_HERE:
            join_namespace(name, path)
    user = _open_user_namespace(shape)
    flags = 0
    for name in shape.namespaces:
        flags |= NAMESPACES[name]
    flags &= ~(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWUSER)
    if user >= 0:
        _join_owned_by(user, flags, shape.time_offsets)
    else:
        if flags:
            syscalls.unshare(flags)
        if flags & syscalls.CLONE_NEWTIME:
            _set_clocks(shape.time_offsets)
            # unshare(2) makes it for children only, time_namespaces(7).
            join_namespace("time", "/proc/self/ns/time_for_children")
    if flags & syscalls.CLONE_NEWNS:
        syscalls.mount(None, "/", None, shape.propagation or MS_REC | MS_SLAVE)
    return user


def become_root_of(user: int) -> None:
    """Enter the user namespace open as `user`, as the root it has."""
    syscalls.setns(user, syscalls.CLONE_NEWUSER)
    os.close(user)
    become_root()


def become_root() -> None:
    """Be root of the user namespace just entered, as far as its maps have one."""
    try:
        os.setgroups(())
        os.setresgid(0, 0, 0)
        os.setresuid(0, 0, 0)
    except OSError as error:
        # EINVAL: 0 has no place in the map; EPERM: setgroups(2) is denied where a user made the map.
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise


def _open_user_namespace(shape: Shape) -> int:
    for name, path in shape.join:
        if name == "user":
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return user_namespace(shape.uids, shape.gids) if "user" in shape.namespaces else -1


def _join_owned_by(user: int, flags: int, time_offsets: tuple[tuple[str, int, int], ...]) -> None:
    """Join new namespaces that the user namespace owns: a child that has entered it makes them."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    child = syscalls.clone(signal.SIGCHLD)
    if child == 0:
        ours.close()
        try:
            syscalls.setns(user, syscalls.CLONE_NEWUSER)
            syscalls.unshare(flags)
            if flags & syscalls.CLONE_NEWTIME:
                _set_clocks(time_offsets)
                clocks = os.open("/proc/self/ns/time_for_children", os.O_RDONLY | os.O_CLOEXEC)
                socket.send_fds(theirs, [b"made"], [clocks])
            else:
                theirs.send(b"made")
            theirs.recv(1)
        except OSError as error:
            theirs.send(str(error.strerror).encode())
        os._exit(0)
    theirs.close()
    try:
        packet, descriptors, _, _ = socket.recv_fds(ours, 1024, 1)
        if packet != b"made":
            reason = packet.decode() or "the process that made them has ended"
            raise OSError(errno.EPERM, f"make namespaces of a user namespace: {reason}")
        pidfd = syscalls.pidfd_open(child)
        try:
            syscalls.setns(pidfd, flags & ~syscalls.CLONE_NEWTIME)
        finally:
            os.close(pidfd)
        for descriptor in descriptors:
            syscalls.setns(descriptor, syscalls.CLONE_NEWTIME)
            os.close(descriptor)
    finally:
        ours.close()
        os.waitpid(child, 0)


def _set_clocks(offsets: tuple[tuple[str, int, int], ...]) -> None:
    """Set the clocks of the time namespace for children; possible until it has its first process."""
    if offsets:
        lines = (f"{clock} {seconds} {nanoseconds}\n" for clock, seconds, nanoseconds in offsets)
        write("/proc/self/timens_offsets", "".join(lines))


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


def make_private(place: str) -> None:
    """Make the mount that has the directory `place` private: what is mounted there stays in this namespace,
    and pivot_root(2) can leave from it.
    """
    device = os.stat(place).st_dev
    while not os.path.ismount(place) and os.stat(os.path.dirname(place)).st_dev == device:
        place = os.path.dirname(place)
    while True:
        try:
            syscalls.mount(None, place, None, MS_PRIVATE)
            return
        except OSError as error:
            # No mount's root: a bind mount of the same file system does not show in its device number.
            if error.errno != errno.EINVAL or place == "/":
                raise
        place = os.path.dirname(place)


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


def write_as(uid: int, path: str, value: str, directory: int = -1) -> None:
    """`write`, as the user `uid` where root may not: the parameters of an IPC namespace are open to the root
    of its user namespace alone, whatever the capabilities (ipc/ipc_sysctl.c, ipc_permissions).
    """
    try:
        write(path, value, directory)
    except PermissionError:
        os.seteuid(uid)
        try:
            write(path, value, directory)
        finally:
            os.seteuid(0)
