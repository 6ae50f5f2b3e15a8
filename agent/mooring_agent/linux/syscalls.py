# SPDX-License-Identifier: Apache-2.0
"""One thin function a system call: call it, and raise OSError with the call's name where it fails.

Only what Python's `os` lacks on 3.11 is here. The C library is called through PyDLL, which keeps the
interpreter lock, since no lock traffic must surround a raw clone; what may wait goes through `_waiting`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Callable

# linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
CLONE_PARENT = 0x00008000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_INTO_CGROUP = 0x200000000

# linux/mount.h
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000
MNT_DETACH = 0x2
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_EMPTY_PATH = 0x40
OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR_ATIME = 0x70
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_NOSYMFOLLOW = 0x200000
MOUNT_ATTR_IDMAP = 0x100000

# linux/openat2.h
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_IN_ROOT = 0x10

# linux/prctl.h
PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_KEEPCAPS = 8
PR_SET_NAME = 15
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_RAISE = 2
PR_CAP_AMBIENT_CLEAR_ALL = 4
SECCOMP_MODE_FILTER = 2

# linux/seccomp.h
_SECCOMP_SET_MODE_FILTER = 1
SECCOMP_FILTER_FLAG_NEW_LISTENER = 1 << 3

# linux/ioprio.h
_IOPRIO_WHO_PROCESS = 1

# linux/magic.h
PROC_SUPER_MAGIC = 0x9FA0
MQUEUE_MAGIC = 0x19800202  # ipc/mqueue.c

# linux/capability.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# linux/pidfd.h: PIDFD_GET_INFO is _IOWR(0xFF, 11, struct pidfd_info), whose first version has 64 bytes.
_PIDFD_INFO_SIZE = 64
_PIDFD_GET_INFO = (3 << 30) | (_PIDFD_INFO_SIZE << 16) | (0xFF << 8) | 11
_PIDFD_INFO_EXIT = 1 << 3

# asm-generic/ioctls.h
TIOCGPTPEER = 0x5441
TIOCSIG = 0x40045436

# Numbers of the calls that are older than the unified table (asm/unistd.h), by machine; newer ones are alike
# everywhere.
_OLD_NUMBERS = {
    "x86_64": {
        "clone": 56,
        "pivot_root": 155,
        "capget": 125,
        "capset": 126,
        "ioprio_set": 251,
        "set_mempolicy": 238,
        "sched_setattr": 314,
        "seccomp": 317,
    },
    "aarch64": {
        "clone": 220,
        "pivot_root": 41,
        "capget": 90,
        "capset": 91,
        "ioprio_set": 30,
        "set_mempolicy": 237,
        "sched_setattr": 274,
        "seccomp": 277,
    },
}
_PIDFD_SEND_SIGNAL = 424
_OPEN_TREE = 428
_MOVE_MOUNT = 429
_PIDFD_OPEN = 434
_CLONE3 = 435
_CLOSE_RANGE = 436
_OPENAT2 = 437
_MOUNT_SETATTR = 442

_ATTEMPTS = 128
_libc, _waiting = ctypes.PyDLL(None, use_errno=True), ctypes.CDLL(None, use_errno=True)
_syscall, _waiting_syscall = _libc.syscall, _waiting.syscall
_syscall.restype = _waiting_syscall.restype = ctypes.c_long
_NULL = ctypes.c_void_p(None)


def _old(name: str) -> int:
    try:
        return _OLD_NUMBERS[platform.machine()][name]
    except KeyError:
        raise OSError(
            errno.ENOSYS, f"{name} is not known for machine {platform.machine()}: expected x86_64 or aarch64"
        ) from None


def _check(result: int, name: str, detail: object = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        subject = name if detail is None else f"{name} {detail}"
        raise OSError(number, f"{subject}: {os.strerror(number)}")
    return result


def _path(path: str | bytes | os.PathLike[str]) -> bytes:
    return os.fsencode(path)


# Resolved once: a lookup of the machine's name after fork would import and read files.
_CLONE = _old("clone")
_PIVOT_ROOT = _old("pivot_root")
_CAPGET = _old("capget")
_CAPSET = _old("capset")
_IOPRIO_SET = _old("ioprio_set")
_SET_MEMPOLICY = _old("set_mempolicy")
_SCHED_SETATTR = _old("sched_setattr")
_SECCOMP = _old("seccomp")


def clone(flags: int) -> int:
    """Fork with clone(2) and `flags` (SIGCHLD included by the caller); 0 in the child. Single-threaded
    callers only.
    """
    return _check(_syscall(_CLONE, ctypes.c_ulong(flags), _NULL, _NULL, _NULL, _NULL), "clone")


def clone_into_cgroup(flags: int, cgroup: int, exit_signal: int) -> int:
    """Fork with clone3(2) straight into the cgroup v2 directory open as `cgroup`; 0 in the child."""
    arguments = struct.pack("=11Q", flags | CLONE_INTO_CGROUP, 0, 0, 0, exit_signal, 0, 0, 0, 0, 0, cgroup)
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    return _check(_syscall(_CLONE3, buffer, ctypes.c_size_t(len(arguments))), "clone3")


def unshare(flags: int) -> None:
    """Leave the namespaces of `flags` for new ones, unshare(2)."""
    _check(_libc.unshare(ctypes.c_int(flags)), "unshare")


def setns(fd: int, flags: int) -> None:
    """Join the namespaces of `flags` of a pidfd, or the namespace open as `fd`, setns(2)."""
    _check(_libc.setns(ctypes.c_int(fd), ctypes.c_int(flags)), "setns")


def mount(source: str | None, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """mount(2), which waits for the server or the disk that the file system is on."""
    _check(
        _waiting.mount(
            None if source is None else _path(source),
            _path(target),
            None if fstype is None else fstype.encode(),
            ctypes.c_ulong(flags),
            None if data is None else os.fsencode(data),
        ),
        "mount",
        f"{fstype or ''} {source} on {target}",
    )


def umount(target: str, flags: int = 0) -> None:
    """umount2(2); the last one of an overlay may take seconds, since it waits for the disk (syncfs(2))."""
    _check(_waiting.umount2(_path(target), ctypes.c_int(flags)), "umount", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)."""
    _check(_syscall(_PIVOT_ROOT, _path(new_root), _path(put_old)), "pivot_root", new_root)


def open_tree(dirfd: int, path: str, flags: int) -> int:
    """open_tree(2): a descriptor of the mount at `path`, detached and cloned with OPEN_TREE_CLONE."""
    return _check(
        _syscall(_OPEN_TREE, ctypes.c_int(dirfd), _path(path), ctypes.c_uint(flags)), "open_tree", path
    )


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    """move_mount(2)."""
    _check(
        _syscall(
            _MOVE_MOUNT,
            ctypes.c_int(from_fd),
            _path(from_path),
            ctypes.c_int(to_fd),
            _path(to_path),
            ctypes.c_uint(flags),
        ),
        "move_mount",
        from_path or from_fd,
    )


def mount_setattr(
    fd: int,
    path: str,
    flags: int,
    *,
    set_: int = 0,
    clear: int = 0,
    propagation: int = 0,
    user_namespace: int = 0,
) -> None:
    """mount_setattr(2), Linux 5.12. `user_namespace` is a descriptor, for MOUNT_ATTR_IDMAP."""
    attributes = struct.pack("=4Q", set_, clear, propagation, user_namespace)
    _check(
        _syscall(
            _MOUNT_SETATTR,
            ctypes.c_int(fd),
            _path(path),
            ctypes.c_uint(flags),
            ctypes.create_string_buffer(attributes, len(attributes)),
            ctypes.c_size_t(len(attributes)),
        ),
        "mount_setattr",
        path,
    )


def openat2(dirfd: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """openat2(2); descriptors are always close-on-exec.

    EAGAIN, which the kernel answers where something was renamed or mounted anywhere while it resolved "..",
    is tried again.
    """
    how = struct.pack("=3Q", flags | os.O_CLOEXEC, mode, resolve)
    buffer, size = ctypes.create_string_buffer(how, len(how)), ctypes.c_size_t(len(how))
    for _ in range(_ATTEMPTS):
        found: int = _waiting_syscall(_OPENAT2, ctypes.c_int(dirfd), _path(path), buffer, size)
        if found >= 0 or ctypes.get_errno() != errno.EAGAIN:
            break
    return _check(found, "openat2", path)


def drop_bounding(capabilities: int, last: int) -> None:
    """Take all but `capabilities`, a bit mask, of those up to the number `last` out of the bounding set."""
    call, option, zero = _libc.prctl, ctypes.c_int(PR_CAPBSET_DROP), ctypes.c_ulong(0)
    for number in range(last + 1):
        if not capabilities >> number & 1 and call(option, ctypes.c_ulong(number), zero, zero, zero) < 0:
            _check(-1, "prctl(PR_CAPBSET_DROP)", number)


def prctl(option: int, arg2: int = 0, arg3: int = 0) -> None:
    """prctl(2) of an option that takes up to two numbers."""
    zero = ctypes.c_ulong(0)
    _check(
        _libc.prctl(ctypes.c_int(option), ctypes.c_ulong(arg2), ctypes.c_ulong(arg3), zero, zero),
        f"prctl({option})",
        arg2,
    )


def capget() -> tuple[int, int, int]:
    """This thread's effective, permitted and inheritable capabilities as masks of 64 bits, capget(2)."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    data = ctypes.create_string_buffer(24)
    _check(_syscall(_CAPGET, ctypes.create_string_buffer(header, len(header)), data), "capget")
    low = struct.unpack("=6I", data.raw)
    return low[0] | low[3] << 32, low[1] | low[4] << 32, low[2] | low[5] << 32


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the three capability sets of this thread, each a mask of 64 bits, capset(2)."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)
    sets = (effective, permitted, inheritable)
    data = struct.pack("=6I", *(each >> shift & 0xFFFFFFFF for shift in (0, 32) for each in sets))
    _check(
        _syscall(
            _CAPSET,
            ctypes.create_string_buffer(header, len(header)),
            ctypes.create_string_buffer(data, len(data)),
        ),
        "capset",
    )


def install_seccomp_filter(program: bytes) -> Callable[[], None]:
    """Prepare a BPF program (an array of struct sock_filter) and return the call that installs it for this
    thread.

    Apart, because after the call hardly anything may be done but execve.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    buffer = ctypes.create_string_buffer(fprog, len(fprog))
    arguments = (
        ctypes.c_int(PR_SET_SECCOMP),
        ctypes.c_ulong(SECCOMP_MODE_FILTER),
        buffer,
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )

    def install(_alive: object = instructions) -> None:
        """`_alive` keeps the instructions, of which the arguments have only the address."""
        _check(_libc.prctl(*arguments), "prctl(PR_SET_SECCOMP)")

    return install


def seccomp_filter_with(program: bytes, flags: int) -> Callable[[], int]:
    """Like `install_seccomp_filter`, with flags of seccomp(2). The call answers the listener's descriptor
    where SECCOMP_FILTER_FLAG_NEW_LISTENER is among them, else 0.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    arguments = (
        _SECCOMP,
        ctypes.c_uint(_SECCOMP_SET_MODE_FILTER),
        ctypes.c_uint(flags),
        ctypes.create_string_buffer(fprog, len(fprog)),
    )

    def install(_alive: object = instructions) -> int:
        """`_alive` keeps the instructions, of which the arguments have only the address."""
        return _check(_syscall(*arguments), "seccomp")

    return install


def sched_setattr(
    policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int
) -> None:
    """How this thread is scheduled, sched_setattr(2); the times are in nanoseconds."""
    size = 48  # SCHED_ATTR_SIZE_VER0, which has no clamps
    attributes = struct.pack("=IIQiIQQQ", size, policy, flags, nice, priority, runtime, deadline, period)
    buffer = ctypes.create_string_buffer(attributes, size)
    _check(_syscall(_SCHED_SETATTR, ctypes.c_int(0), buffer, ctypes.c_uint(0)), "sched_setattr")


def ioprio_set(priority: int) -> None:
    """The I/O priority of this thread, class and level in one number, ioprio_set(2)."""
    _check(
        _syscall(_IOPRIO_SET, ctypes.c_int(_IOPRIO_WHO_PROCESS), ctypes.c_int(0), ctypes.c_int(priority)),
        "ioprio_set",
    )


def set_mempolicy(mode: int, nodes: int) -> None:
    """Where this thread's memory comes from; `nodes` is a mask, set_mempolicy(2)."""
    size = (nodes.bit_length() + 63) // 64 * 8
    mask = ctypes.create_string_buffer(nodes.to_bytes(size, "little"), size) if size else None
    # The kernel takes the highest bit that it reads to be one below what it is told.
    bits = ctypes.c_ulong(size * 8 + 1 if size else 0)
    _check(_syscall(_SET_MEMPOLICY, ctypes.c_int(mode), mask, bits), "set_mempolicy")


def personality(persona: int) -> None:
    """The execution domain of this thread, personality(2)."""
    _check(_libc.personality(ctypes.c_ulong(persona)), "personality")


def setdomainname(name: str) -> None:
    """Set the NIS domain name of this UTS namespace, setdomainname(2)."""
    raw = name.encode()
    _check(_libc.setdomainname(raw, ctypes.c_size_t(len(raw))), "setdomainname", name)


def file_system_type(fd: int) -> int:
    """The magic number of the file system that `fd` is on, fstatfs(2)."""
    buffer = ctypes.create_string_buffer(120)  # struct statfs; its first member is f_type
    _check(_libc.fstatfs(ctypes.c_int(fd), buffer), "fstatfs")
    return int(struct.unpack_from("=l" if struct.calcsize("l") == 4 else "=q", buffer.raw)[0])


def syncfs(fd: int) -> None:
    """Write out the whole file system that `fd` is on, syncfs(2)."""
    _check(_waiting.syncfs(ctypes.c_int(fd)), "syncfs")


def setfsuid(uid: int) -> int:
    """Set whom this thread makes and opens files as, setfsuid(2); who that was before.

    PermissionError where it stays as it was, which the call itself does not tell.
    """
    before: int = _libc.setfsuid(ctypes.c_uint(uid))
    if _libc.setfsuid(ctypes.c_uint(0xFFFFFFFF)) != uid:
        raise PermissionError(errno.EPERM, f"setfsuid {uid}: {os.strerror(errno.EPERM)}")
    return before


def setfsgid(gid: int) -> int:
    """Set the group that this thread makes and opens files as, setfsgid(2), like `setfsuid`."""
    before: int = _libc.setfsgid(ctypes.c_uint(gid))
    if _libc.setfsgid(ctypes.c_uint(0xFFFFFFFF)) != gid:
        raise PermissionError(errno.EPERM, f"setfsgid {gid}: {os.strerror(errno.EPERM)}")
    return before


def sethostname(name: str) -> None:
    """Set the hostname of this UTS namespace, sethostname(2)."""
    raw = name.encode()
    _check(_libc.sethostname(raw, ctypes.c_size_t(len(raw))), "sethostname", name)


def close_range(first: int, last: int = 0xFFFFFFFF) -> None:
    """Close all descriptors from `first` to `last`, close_range(2)."""
    _check(
        _syscall(_CLOSE_RANGE, ctypes.c_uint(first), ctypes.c_uint(last), ctypes.c_uint(0)),
        f"close_range {first}",
    )


def pidfd_open(pid: int) -> int:
    """A descriptor of the process `pid`, pidfd_open(2)."""
    return _check(_syscall(_PIDFD_OPEN, ctypes.c_int(pid), ctypes.c_uint(0)), "pidfd_open", pid)


def pidfd_send_signal(pidfd: int, signal: int) -> None:
    """Signal exactly the process of `pidfd`, never another that got its number, pidfd_send_signal(2)."""
    _check(
        _syscall(_PIDFD_SEND_SIGNAL, ctypes.c_int(pidfd), ctypes.c_int(signal), _NULL, ctypes.c_uint(0)),
        "pidfd_send_signal",
        signal,
    )


def pidfd_wait_status(pidfd: int) -> int | None:
    """The wait status of a process that is gone, although somebody else has reaped it.

    Needs Linux 6.15 and a pidfd opened before the exit; None where the kernel does not tell.
    """
    buffer = bytearray(struct.pack("=Q56x", _PIDFD_INFO_EXIT))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, buffer)
    except OSError:
        return None
    mask: int = struct.unpack_from("=Q", buffer)[0]
    if not mask & _PIDFD_INFO_EXIT:
        return None
    status: int = struct.unpack_from("=i", buffer, 60)[0]
    return status
