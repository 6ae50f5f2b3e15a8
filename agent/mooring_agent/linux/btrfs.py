# SPDX-License-Identifier: Apache-2.0
"""Subvolumes and snapshots of btrfs, one thin function an ioctl; structures from include/uapi/linux/btrfs.h.

Failures are OSError with the ioctl's name. The calls release the interpreter lock: making a snapshot and
setting its flags wait for a transaction of the file system.
"""

from __future__ import annotations

import fcntl
import os
import struct

BTRFS_SUPER_MAGIC = 0x9123683E  # include/uapi/linux/magic.h
SUBVOLUME_INODE = 256  # BTRFS_FIRST_FREE_OBJECTID, the root directory of every subvolume

# struct btrfs_ioctl_vol_args_v2: fd, transid, flags, a union of 32 bytes, and a name of 4,040 with its NUL.
_ARGUMENTS = struct.Struct("=qQQ32s4040s")
_NAME_MAX = 255  # BTRFS_NAME_LEN


def _iow(number: int, size: int) -> int:
    """_IOW(BTRFS_IOCTL_MAGIC, number, …) of asm-generic/ioctl.h."""
    return (1 << 30) | (size << 16) | (0x94 << 8) | number


_SNAP_CREATE_V2 = _iow(23, _ARGUMENTS.size)
_SUBVOL_CREATE_V2 = _iow(24, _ARGUMENTS.size)
_SUBVOL_GETFLAGS = (2 << 30) | (8 << 16) | (0x94 << 8) | 25  # _IOR(…, 25, __u64)
_SUBVOL_SETFLAGS = _iow(26, 8)
_SNAP_DESTROY_V2 = _iow(63, _ARGUMENTS.size)
# struct btrfs_ioctl_qgroup_limit_args: qgroupid, then flags, max_rfer, max_excl, rsv_rfer, rsv_excl.
_QGROUP_LIMIT_ARGUMENTS = struct.Struct("=6Q")
_QGROUP_LIMIT = (2 << 30) | (_QGROUP_LIMIT_ARGUMENTS.size << 16) | (0x94 << 8) | 43  # _IOR
_QGROUP_LIMIT_MAX_EXCL = 1 << 1
_SUBVOL_RDONLY = 1 << 1


def create_subvolume(dir_fd: int, name: str) -> None:
    """Make the empty subvolume `name` in the directory `dir_fd`, BTRFS_IOC_SUBVOL_CREATE_V2."""
    _call(dir_fd, _SUBVOL_CREATE_V2, 0, name, "BTRFS_IOC_SUBVOL_CREATE_V2")


def create_snapshot(source_fd: int, dir_fd: int, name: str) -> None:
    """Make `name` a writable snapshot of the subvolume open as `source_fd`, BTRFS_IOC_SNAP_CREATE_V2."""
    _call(dir_fd, _SNAP_CREATE_V2, source_fd, name, "BTRFS_IOC_SNAP_CREATE_V2")


def destroy_subvolume(dir_fd: int, name: str) -> None:
    """Remove a subvolume with all its files, BTRFS_IOC_SNAP_DESTROY_V2 (Linux 5.7).

    The name is gone on return, the space comes back later. ENOTEMPTY when other subvolumes are in it.
    """
    _call(dir_fd, _SNAP_DESTROY_V2, 0, name, "BTRFS_IOC_SNAP_DESTROY_V2")


def is_read_only(fd: int) -> bool:
    """Whether the subvolume open as `fd` has the read-only flag, BTRFS_IOC_SUBVOL_GETFLAGS."""
    return bool(_flags(fd) & _SUBVOL_RDONLY)


def set_read_only(fd: int, read_only: bool) -> None:
    """Set or clear the read-only flag of the subvolume open as `fd`, BTRFS_IOC_SUBVOL_SETFLAGS."""
    flags = _flags(fd)
    wanted = flags | _SUBVOL_RDONLY if read_only else flags & ~_SUBVOL_RDONLY
    if wanted == flags:
        return
    try:
        fcntl.ioctl(fd, _SUBVOL_SETFLAGS, struct.pack("=Q", wanted))
    except OSError as error:
        raise OSError(error.errno, f"BTRFS_IOC_SUBVOL_SETFLAGS: {error.strerror}") from None


def limit_own(fd: int, size: int) -> None:
    """Bound what only the subvolume open as `fd` has, and shares with none, to `size` bytes: whoever writes
    more gets EDQUOT. BTRFS_IOC_QGROUP_LIMIT; ENOTCONN where the file system has no quotas.
    """
    # Number 0 is the group of the subvolume itself.
    arguments = _QGROUP_LIMIT_ARGUMENTS.pack(0, _QGROUP_LIMIT_MAX_EXCL, 0, size, 0, 0)
    try:
        fcntl.ioctl(fd, _QGROUP_LIMIT, arguments)
    except OSError as error:
        raise OSError(error.errno, f"BTRFS_IOC_QGROUP_LIMIT: {error.strerror}") from None


def _flags(fd: int) -> int:
    buffer = bytearray(8)
    try:
        fcntl.ioctl(fd, _SUBVOL_GETFLAGS, buffer)
    except OSError as error:
        raise OSError(error.errno, f"BTRFS_IOC_SUBVOL_GETFLAGS: {error.strerror}") from None
    return int.from_bytes(buffer, "little")


def _call(dir_fd: int, request: int, fd: int, name: str, title: str) -> None:
    raw = os.fsencode(name)
    if not 0 < len(raw) <= _NAME_MAX or b"/" in raw:
        raise ValueError(f"a subvolume cannot be named {name!r}")
    # A mutable buffer: an immutable one of more than 1,024 bytes is refused by fcntl.ioctl.
    arguments = bytearray(_ARGUMENTS.pack(fd, 0, 0, b"", raw))
    try:
        fcntl.ioctl(dir_fd, request, arguments)
    except OSError as error:
        raise OSError(error.errno, f"{title} {name}: {error.strerror}") from None
