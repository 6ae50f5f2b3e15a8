# SPDX-License-Identifier: Apache-2.0
"""Where mounts go: places below a container's root, found or made without ever leaving it.

Every path is resolved by openat2(2) with RESOLVE_IN_ROOT and then addressed by descriptor, so no symbolic
link of an image, and no race against one, leads outside.
"""

from __future__ import annotations

import errno
import os
import stat

from ..linux import syscalls

EMPTY_TO_EMPTY = syscalls.MOVE_MOUNT_F_EMPTY_PATH | syscalls.MOVE_MOUNT_T_EMPTY_PATH
CLONE = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC


def open_source(source: str, subpath: str) -> int:
    """Open (O_PATH) what is at `subpath` inside of the directory `source` of the host, which no link and no
    ".." of it leads out of. Raises OSError, which names both.
    """
    directory = os.open(source, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        resolve = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS
        return syscalls.openat2(directory, subpath, os.O_PATH, resolve=resolve)
    except OSError as error:
        raise OSError(error.errno, f"subpath {subpath} of {source}: {error.strerror}") from None
    finally:
        os.close(directory)


def ensure_directory(root: int, path: str, *, resolve: int = syscalls.RESOLVE_IN_ROOT) -> int:
    """Open (O_PATH) the directory `path` inside `root`, made with mode 0755 where it is missing.

    So is what a dangling link points to, inside `root` too. Raises OSError, also where something else than a
    directory is in the way.
    """
    flags = os.O_PATH | os.O_DIRECTORY
    try:
        return syscalls.openat2(root, path, flags, resolve=resolve)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    parent, name = os.path.split(path.rstrip("/"))
    if not name or name in (".", ".."):
        raise OSError(errno.EINVAL, f"{path!r} does not name a directory that could be made")
    directory = ensure_directory(root, parent or "/", resolve=resolve)
    try:
        try:
            os.mkdir(name, 0o755, dir_fd=directory)
        except FileExistsError:
            if resolve == syscalls.RESOLVE_IN_ROOT:
                os.close(ensure_directory(root, _destination(directory, parent, name)))
    finally:
        os.close(directory)
    return syscalls.openat2(root, path, flags, resolve=resolve)


def ensure_file(root: int, path: str) -> int:
    """Open (O_PATH) the file `path` inside `root`, made empty where it is missing.

    So is what a dangling link points to, inside `root` too: an image's /etc/resolv.conf often is one. Raises
    OSError, also where a directory is in the way.
    """
    try:
        return _open_file(root, path)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
    parent, name = os.path.split(path)
    directory = ensure_directory(root, parent or "/")
    try:
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_RDONLY | os.O_CLOEXEC
        try:
            os.close(os.open(name, flags, 0o644, dir_fd=directory))
        except FileExistsError:
            os.close(ensure_file(root, _destination(directory, parent, name)))
    finally:
        os.close(directory)
    return _open_file(root, path)


def _open_file(root: int, path: str) -> int:
    found = syscalls.openat2(root, path, os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)
    if stat.S_ISDIR(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(errno.EISDIR, f"{path} is a directory: expected a file")
    return found


def _destination(directory: int, parent: str, name: str) -> str:
    """Where the dangling link `name` of `directory`, which is `parent`, points to, as a path inside the root.

    Links in a circle never get here: the kernel refuses them with ELOOP.
    """
    try:
        return os.path.join(parent, os.readlink(name, dir_fd=directory))
    except OSError as error:
        raise OSError(error.errno, f"{parent}/{name}: {error.strerror}") from None


def move_tree(source: str, root: int, target: str) -> None:
    """Move the mount at `source` to the directory `target` inside `root`, no link on the way followed.

    An image whose /dev is a link could otherwise have its devices built elsewhere.
    """
    try:
        directory = ensure_directory(
            root, target, resolve=syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_SYMLINKS
        )
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(
                errno.ELOOP, f"{target} of the image is a symbolic link: expected a directory"
            ) from None
        raise
    try:
        syscalls.move_mount(syscalls.AT_FDCWD, source, directory, "", syscalls.MOVE_MOUNT_T_EMPTY_PATH)
    finally:
        os.close(directory)


def open_existing(root: int, path: str) -> int:
    """Open (O_PATH) what is at `path` inside `root`; -1 if there is nothing."""
    try:
        return syscalls.openat2(root, path, os.O_PATH, resolve=syscalls.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return -1
        raise


def attach_clone(source: int, target: int) -> None:
    """Mount what is open as `source` on what is open as `target`."""
    tree = syscalls.open_tree(source, "", CLONE | syscalls.AT_EMPTY_PATH)
    try:
        syscalls.move_mount(tree, "", target, "", EMPTY_TO_EMPTY)
    finally:
        os.close(tree)


def open_target(root: int, path: str, *, directory: bool, follow: bool = True) -> int:
    """Open (O_PATH) what something is mounted on, made as a directory or a file where it is missing.

    Without `follow` a symbolic link there is the target itself.
    """
    if not follow:
        found = _open_link(root, path)
        if found >= 0:
            return found
    return ensure_directory(root, path) if directory else ensure_file(root, path)


def _open_link(root: int, path: str) -> int:
    """Open (O_PATH) what is at `path` itself, -1 if there is nothing.

    A link of a proc file system is refused: each process sees another behind it, and /proc/self is what
    programs trust. Newer kernels refuse to mount there by themselves.
    """
    try:
        found = syscalls.openat2(root, path, os.O_PATH | os.O_NOFOLLOW, resolve=syscalls.RESOLVE_IN_ROOT)
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return -1
    if stat.S_ISLNK(os.fstat(found).st_mode) and (
        syscalls.file_system_type(found) == syscalls.PROC_SUPER_MAGIC
    ):
        os.close(found)
        raise OSError(errno.ELOOP, f"{path} is a link of a proc file system: nothing can be mounted there")
    return found
