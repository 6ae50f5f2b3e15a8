# SPDX-License-Identifier: Apache-2.0
"""Opening paths that others chose, without ever leaving the directory that they belong to.

Follows openat2(2) (Linux 5.6). Constants are from include/uapi/linux/openat2.h.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import lru_cache

from mooring_agent.errors import NotSupported

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10

IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
"""`..` and absolute links stay inside of the root, as after chroot(2); /proc's magic links are refused."""

PATH_MAX = 4096  # include/uapi/linux/limits.h, with the closing NUL

_SYS_OPENAT2 = 437  # the same on all architectures since Linux 5.6
_ATTEMPTS = 64


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


_SIZE = ctypes.c_size_t(ctypes.sizeof(_OpenHow))
_NUMBER = ctypes.c_long(_SYS_OPENAT2)
_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long


@lru_cache(maxsize=64)
def _how(flags: int, mode: int, resolve: int) -> ctypes.Array[_OpenHow]:
    # An array decays to the pointer that the call wants, and the kernel only reads it: threads may share it.
    return (_OpenHow * 1)(_OpenHow(flags | os.O_CLOEXEC, mode, resolve))


def openat2(dir_fd: int, path: bytes, flags: int, mode: int = 0, resolve: int = IN_ROOT) -> int:
    """Open `path` relative to `dir_fd`, resolved as `resolve` says; O_CLOEXEC is always set.

    Raises OSError as open(2) does, NotSupported on a kernel older than 5.6. EAGAIN, which the kernel answers
    when something was renamed while it looked, is tried again.
    """
    how = _how(flags, mode, resolve)
    for _ in range(_ATTEMPTS):
        fd: int = _syscall(_NUMBER, ctypes.c_int(dir_fd), path, how, _SIZE)
        if fd >= 0:
            return fd
        error = ctypes.get_errno()
        if error not in (errno.EAGAIN, errno.EINTR):
            break
    if error == errno.ENOSYS:
        raise NotSupported("this kernel has no openat2(2), which needs Linux 5.6: upgrade the host's kernel")
    raise OSError(error, os.strerror(error), os.fsdecode(path))


def open_directory(root_fd: int, path: bytes) -> int:
    """Open a directory below `root_fd`, following no link; `path` may be longer than PATH_MAX.

    An empty path is the root itself. Raises OSError: ELOOP when a component is a link, ENOTDIR, ENOENT.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY
    resolve = RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
    fd = openat2(root_fd, b".", flags, resolve=resolve)
    rest = path
    while rest:
        if len(rest) < PATH_MAX:
            head, rest = rest, b""
        else:
            cut = rest.rindex(b"/", 0, PATH_MAX - 1)
            head, rest = rest[:cut], rest[cut + 1 :]
        try:
            deeper = openat2(fd, head, flags, resolve=resolve)
        finally:
            os.close(fd)
        fd = deeper
    return fd
