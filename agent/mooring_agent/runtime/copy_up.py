# SPDX-License-Identifier: Apache-2.0
"""The content of a directory on the file system that is mounted over it: the mount option `tmpcopyup`."""

from __future__ import annotations

import errno
import os
import stat

from ..linux import syscalls

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def copy_tree(covered: int, root: int, path: str) -> None:
    """Copy what the directory open as `covered` has into the mount that is now on `path` of `root`.

    Owners, modes, times, extended attributes, links and devices are kept; what is mounted below is left out.
    """
    source = os.open(".", _DIRECTORY, dir_fd=covered)
    try:
        target = syscalls.openat2(root, path, _DIRECTORY, resolve=syscalls.RESOLVE_IN_ROOT)
        try:
            _copy_directory(source, target, os.fstat(source).st_dev)
        finally:
            os.close(target)
    finally:
        os.close(source)


def _copy_directory(source: int, target: int, device: int) -> None:
    for name in os.listdir(source):
        found = os.stat(name, dir_fd=source, follow_symlinks=False)
        if found.st_dev != device:
            continue
        if stat.S_ISDIR(found.st_mode):
            os.mkdir(name, 0o700, dir_fd=target)
            below = os.open(name, _DIRECTORY, dir_fd=source)
            try:
                copy = os.open(name, _DIRECTORY, dir_fd=target)
                try:
                    _copy_directory(below, copy, device)
                    _copy_attributes(below, copy)
                finally:
                    os.close(copy)
            finally:
                os.close(below)
        elif stat.S_ISREG(found.st_mode):
            _copy_file(source, target, name)
        elif stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
        else:
            os.mknod(name, found.st_mode, found.st_rdev, dir_fd=target)
        _copy_owner(target, name, found)


def _copy_file(source: int, target: int, name: str) -> None:
    reader = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        writer = os.open(name, flags, 0o600, dir_fd=target)
        try:
            while os.sendfile(writer, reader, None, 1 << 30):
                pass
            _copy_attributes(reader, writer)
        finally:
            os.close(writer)
    finally:
        os.close(reader)


def _copy_attributes(source: int, target: int) -> None:
    for attribute in os.listxattr(source):
        try:
            os.setxattr(target, attribute, os.getxattr(source, attribute))
        except OSError as error:
            # tmpfs keeps user attributes since Linux 6.6 only.
            if error.errno not in (errno.EOPNOTSUPP, errno.EPERM):
                raise


def _copy_owner(target: int, name: str, found: os.stat_result) -> None:
    os.chown(name, found.st_uid, found.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=target)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=target, follow_symlinks=False)
