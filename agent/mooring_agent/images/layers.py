# SPDX-License-Identifier: Apache-2.0
"""Unpacking a layer: a tar archive (OCI image-spec, layer.md) becomes the content of a snapshot.

A layer comes from anywhere, so it is taken as hostile. Every name is resolved by openat2 with
RESOLVE_IN_ROOT below the target's own descriptor: `..`, absolute names and links among the parents end
inside of the target, as they would after chroot. The last component is never followed: what is there is
removed first, then the new entry is made with O_EXCL, mkdirat, symlinkat, linkat or mknodat. tarfile's
extraction is not used.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from mooring_agent.errors import InvalidSpec, MooringError, Unavailable
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.implied import MODE, ImpliedParents, adopt_attributes, write_note
from mooring_agent.images.member_names import shown, split_path
from mooring_agent.images.stream import Buffer, Digest, HashingReader
from mooring_agent.linux.paths import RESOLVE_IN_ROOT, RESOLVE_NO_SYMLINKS, openat2
from mooring_agent.storage.changes import OVERLAY_OPAQUE, is_whiteout
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle
from mooring_agent.storage.tree import delete_tree, exists, has_default_acl

_Made = TypeVar("_Made")

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_RESERVED = b".wh..wh."  # names that aufs kept for itself; the specification gives a meaning to _OPAQUE alone
_OPEN_DIRECTORIES = 48  # parents kept open at a time
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
NO_SPACE = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
)
_SPECIAL = stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX  # may be lost when a file is made or written
# Attributes that mean something to overlay itself, or to the policy of the host that wrote them.
FOREIGN_XATTRS = (
    b"trusted.overlay.",
    b"user.overlay.",
    b"security.selinux",
    b"security.ima",
    b"security.evm",
)
_FILE_TYPES = {
    tar.CHARACTER: stat.S_IFCHR,
    tar.BLOCK_DEVICE: stat.S_IFBLK,
    tar.FIFO: stat.S_IFIFO,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one layer may at most unpack to, so that a small file cannot fill a host (CVE-2017-14992)."""

    stream_bytes: int = 256 << 30  # length of the unpacked archive
    file_bytes: int = 1 << 40  # length of one file, holes included
    entries: int = 8_000_000
    trailing_bytes: int = 64 << 20  # what may follow the end of the archive; tar pads to its record size


@dataclass(frozen=True, slots=True)
class AppliedLayer:
    """What was unpacked: digest and length of the archive, length of its files together, members."""

    diff_id: str
    stream_bytes: int
    file_bytes: int
    entries: int


def apply_layer(
    chunks: Iterator[Buffer],
    target: UnpackTarget,
    limits: Limits | None = None,
    *,
    digest: Digest | None = None,
    exact_modes: bool = False,
    implied: BinaryIO | None = None,
    owner: tuple[int, int] | None = None,
) -> AppliedLayer:
    """Unpack the tar archive in `chunks` (no longer compressed) into `target`, hashing it on the way.

    A chunk may change when the next one is asked for. `digest` is a SHA-256 object to use. `exact_modes`
    says that this process's umask is 0: files are made with their mode at once. The parents that the archive
    implies get the attributes that they have in the layers below, unless `implied` is given: there they are
    written down, for who knows those layers later (see implied.py). With `owner`, a user and a group, all is
    theirs, whatever the archive says.

    Extended attributes of overlay itself and SELinux, IMA and EVM labels of another host are left out,
    everything else in the archive is written or refused. Raises InvalidSpec for an archive that is damaged,
    hostile or beyond `limits`; Unavailable when the disk is full or fails. What was unpacked until then
    stays: remove the snapshot.
    """
    bounds = limits or Limits()
    reader = HashingReader(chunks, bounds.stream_bytes, digest)
    root_fd = os.open(target.directory, _DIRECTORY)
    try:
        unpacking = _Unpacking(root_fd, target, reader, bounds, exact_modes=exact_modes)
        try:
            for entry in tar.read_entries(reader):
                if owner is not None:
                    entry.uid, entry.gid = owner
                unpacking.add(entry)
            reader.drain(bounds.trailing_bytes)
            unpacking.finish(implied)
        finally:
            unpacking.close()
    finally:
        os.close(root_fd)
    if not unpacking.entries and not reader.position:
        raise InvalidSpec("the archive is empty: expected a tar archive of a root file system")
    return AppliedLayer(reader.digest, reader.position, unpacking.file_bytes, unpacking.entries)


class _Unpacking:
    """The state of one layer being unpacked."""

    def __init__(
        self,
        root_fd: int,
        target: UnpackTarget,
        reader: HashingReader,
        limits: Limits,
        *,
        exact_modes: bool,
    ) -> None:
        self.entries = 0
        self.file_bytes = 0
        self._root_fd = root_fd
        self._target = target
        self._reader = reader
        self._limits = limits
        self._parents: dict[bytes, int] = {}  # cleaned path → descriptor, oldest first
        self._retired: list[int] = []  # descriptors to close when the member in hand is done
        self._implied = ImpliedParents()
        self._directory_times: dict[bytes, int] = {}
        self._written: set[bytes] = set()  # paths, kept for WhiteoutStyle.DELETE only
        self._parked = 0
        self._deep: list[str] = []
        # Whoever makes a file owns it, unless the directory that it is in says otherwise.
        self._owner = os.geteuid(), os.getegid()
        self._exact_modes = exact_modes
        self._plain = self._is_plain(os.fstat(root_fd)) and target.whiteouts is WhiteoutStyle.OVERLAY
        if self._plain and has_default_acl(root_fd):
            self._plain = False

    def add(self, entry: tar.TarEntry) -> None:
        """Write one member."""
        self._close_retired()
        self.entries += 1
        if self.entries > self._limits.entries:
            raise InvalidSpec(f"the archive has more than the limit of {self._limits.entries} members")
        if entry.size > self._limits.file_bytes:
            raise InvalidSpec(
                f"archive member {shown(entry.path)} has {entry.size} bytes, more than the limit of "
                f"{self._limits.file_bytes}"
            )
        try:
            self._write(entry)
        except OSError as error:
            raise self._failure(entry.path, error) from error

    def finish(self, implied: BinaryIO | None) -> None:
        """Set the times of directories, changed by the writing of their content; see to implied parents."""
        for path, mtime_ns in self._directory_times.items():
            parent, name = split_path(path)
            try:
                parent_fd = self._parent(parent, make=False)
                os.utime(name or b".", ns=(mtime_ns, mtime_ns), dir_fd=parent_fd, follow_symlinks=False)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    raise self._failure(path, error) from error
                continue  # a later member took its place
            self._close_retired()
        if self._target.whiteouts is not WhiteoutStyle.OVERLAY:
            return
        try:
            paths = self._implied.paths(self._root_fd)
            if implied is not None:
                write_note(implied, paths)
            elif self._target.parents:
                adopt_attributes(self._target, paths)
        except OSError as error:
            raise self._failure(b"", error) from error

    def _failure(self, path: bytes, error: OSError) -> MooringError:
        """What an error of the kernel means: a disk that takes no more, or an impossible archive."""
        if error.errno not in NO_SPACE:
            return InvalidSpec(f"archive member {shown(path)} cannot be unpacked: {error.strerror or error}")
        return Unavailable(
            f"{self._target.directory} takes no more after {self._reader.position} bytes ({error.strerror}): "
            "free some space or see the kernel's log, then try again"
        )

    def close(self) -> None:
        """Close what is kept open."""
        self._retire_parents()
        self._close_retired()

    def _write(self, entry: tar.TarEntry) -> None:
        parent, name = split_path(entry.path)
        if not name:
            if entry.kind == tar.DIRECTORY:
                if self._target.whiteouts is WhiteoutStyle.NONE:
                    return  # a directory that is there stays what it is, as with tar's --no-overwrite-dir
                self._implied.root_listed()
                self._attributes(self._root_fd, entry)
                self._plain = self._plain and not entry.xattrs and self._is_plain(os.fstat(self._root_fd))
                self._directory_times[b""] = entry.mtime_ns
                return
            raise InvalidSpec(f"archive member {shown(entry.path)} would replace the root directory itself")
        if name.startswith(_WHITEOUT) and self._target.whiteouts is not WhiteoutStyle.NONE:
            self._whiteout(parent, name)
            return
        parent_fd = self._parent(parent)
        if self._target.whiteouts is WhiteoutStyle.DELETE:
            self._note(parent, name)
        if entry.kind == tar.REGULAR:
            self._regular(parent_fd, name, entry)
        elif entry.kind == tar.DIRECTORY:
            self._directory(parent_fd, parent, name, entry)
        elif entry.kind == tar.SYMLINK:
            self._make(parent_fd, name, lambda: os.symlink(entry.link, name, dir_fd=parent_fd))
            self._attributes_at(parent_fd, name, entry)
        elif entry.kind == tar.HARD_LINK:
            self._hard_link(parent_fd, name, entry)
        elif entry.kind in _FILE_TYPES:
            mode, device = _FILE_TYPES[entry.kind] | 0o600, os.makedev(*entry.device)
            self._make(parent_fd, name, lambda: os.mknod(name, mode, device, dir_fd=parent_fd))
            self._attributes_at(parent_fd, name, entry)
        else:
            raise InvalidSpec(
                f"archive member {shown(entry.path)} is of type {entry.kind!r}: expected a file, link, "
                "directory, device or FIFO"
            )

    def _regular(self, parent_fd: int, name: bytes, entry: tar.TarEntry) -> None:
        is_owner = self._plain and (entry.uid, entry.gid) == self._owner
        is_exact = is_owner and self._exact_modes and not entry.mode & _SPECIAL
        mode = entry.mode if is_exact else 0o600
        try:
            fd = os.open(name, _NEW_FILE, mode, dir_fd=parent_fd)
        except FileExistsError:
            self._clear(parent_fd, name)
            fd = os.open(name, _NEW_FILE, mode, dir_fd=parent_fd)
        try:
            for offset, length in entry.parts if entry.parts is not None else ((0, entry.stored),):
                if offset:
                    os.lseek(fd, offset, os.SEEK_SET)
                if length and self._reader.copy_to(fd, length) != length:
                    raise InvalidSpec(f"the archive ends within {shown(entry.path)}: it is truncated")
            if entry.parts is not None:
                os.ftruncate(fd, entry.size)
            if not is_owner:
                os.fchown(fd, entry.uid, entry.gid)
            if not is_exact:
                os.fchmod(fd, entry.mode)
            if entry.xattrs:
                self._xattrs(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)
        self.file_bytes += entry.size

    def _directory(self, parent_fd: int, parent: bytes, name: bytes, entry: tar.TarEntry) -> None:
        fd = self._make_directory(parent_fd, name)
        try:
            self._implied.listed(fd)
            self._attributes(fd, entry)
        finally:
            os.close(fd)
        if entry.mode & stat.S_ISGID or entry.gid != self._owner[1] or entry.xattrs:
            self._plain = False
        self._directory_times[parent + b"/" + name if parent else name] = entry.mtime_ns

    def _make_directory(self, parent_fd: int, name: bytes) -> int:
        """Make or find the directory `name` and open it; one that takes the place of a whiteout is opaque."""
        opaque = False
        try:
            os.mkdir(name, 0o755, dir_fd=parent_fd)
        except FileExistsError:
            status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
            if not stat.S_ISDIR(status.st_mode):
                opaque = is_whiteout(status)
                self._clear(parent_fd, name)
                os.mkdir(name, 0o755, dir_fd=parent_fd)
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
        if opaque and self._target.whiteouts is WhiteoutStyle.OVERLAY:
            os.setxattr(fd, OVERLAY_OPAQUE, b"y")
        return fd

    def _hard_link(self, parent_fd: int, name: bytes, entry: tar.TarEntry) -> None:
        to_parent, to_name = split_path(entry.link)
        if not to_name:
            raise InvalidSpec(f"archive member {shown(entry.path)} is a hard link to the root directory")
        to_fd = self._parent(to_parent, make=False)
        if name == to_name and os.path.sameopenfile(parent_fd, to_fd):
            raise InvalidSpec(f"archive member {shown(entry.path)} is a hard link to itself")
        try:
            # Asked before what is at `name` is removed for it.
            os.stat(to_name, dir_fd=to_fd, follow_symlinks=False)
        except FileNotFoundError:
            raise InvalidSpec(
                f"archive member {shown(entry.path)} is a hard link to {shown(entry.link)}, which is not "
                "in the archive before it"
            ) from None
        self._make(
            parent_fd,
            name,
            lambda: os.link(to_name, name, src_dir_fd=to_fd, dst_dir_fd=parent_fd, follow_symlinks=False),
        )

    def _make(self, parent_fd: int, name: bytes, create: Callable[[], _Made]) -> _Made:
        try:
            return create()
        except FileExistsError:
            self._clear(parent_fd, name)
            return create()

    def _clear(self, parent_fd: int, name: bytes) -> None:
        """Remove what is at `name`, a whole tree if need be."""
        status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        if stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode):
            self._retire_parents()  # a path that led through it leads elsewhere now
        delete_tree(parent_fd, os.fsdecode(name), self._park)

    def _park(self, dir_fd: int, name: str) -> None:
        """Take a directory that lies too deep out of the tree being deleted, and delete it by itself."""
        self._parked += 1
        parked = f".mooring-parked-{os.getpid()}-{self._parked}"
        os.rename(name, parked, src_dir_fd=dir_fd, dst_dir_fd=self._root_fd)
        self._deep.append(parked)

    def _parent(self, path: bytes, *, make: bool = True) -> int:
        """Return an open directory, resolved in the root; missing ones are made unless told otherwise."""
        if not path:
            return self._root_fd
        fd = self._parents.get(path)
        if fd is None:
            try:
                fd = openat2(self._root_fd, path, _DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                if not make:
                    raise
                fd = self._make_parents(path)
            if len(self._parents) >= _OPEN_DIRECTORIES:
                self._retired.append(self._parents.pop(next(iter(self._parents))))
            self._parents[path] = fd
        return fd

    def _make_parents(self, path: bytes) -> int:
        current = self._root_fd
        prefix = b""
        for part in path.split(b"/"):
            prefix = prefix + b"/" + part if prefix else part
            try:
                below = openat2(self._root_fd, prefix, _DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                below = self._missing_parent(current, prefix, part)
            if current != self._root_fd:
                self._retired.append(current)
            current = below
        return current

    def _missing_parent(self, parent_fd: int, prefix: bytes, name: bytes) -> int:
        try:
            is_new = False
            if not is_whiteout(os.stat(name, dir_fd=parent_fd, follow_symlinks=False)):
                raise NotADirectoryError(errno.ENOTDIR, f"{shown(prefix)} is no directory")
        except FileNotFoundError:
            is_new = True
        fd = self._make_directory(parent_fd, name)
        # Whatever the directory above it passes on: the archive does not say so.
        os.fchown(fd, *self._owner)
        os.fchmod(fd, MODE)
        if is_new:
            self._implied.add(fd, prefix)
        return fd

    def _whiteout(self, parent: bytes, name: bytes) -> None:
        hidden = name[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise InvalidSpec(
                f"archive member {shown(parent + b'/' + name)} removes no name: the archive is hostile"
            )
        parent_fd = self._parent(parent)
        overlay = self._target.whiteouts is WhiteoutStyle.OVERLAY
        if name == _OPAQUE:
            if overlay:
                os.setxattr(parent_fd, OVERLAY_OPAQUE, b"y")
            else:
                self._keep_written(parent)
        elif name.startswith(_RESERVED):
            return
        elif overlay:
            self._overlay_whiteout(parent_fd, hidden)
        else:
            path = parent + b"/" + hidden if parent else hidden
            if path in self._written:
                self._keep_written(path)
            elif exists(parent_fd, hidden):
                self._clear(parent_fd, hidden)

    def _overlay_whiteout(self, parent_fd: int, name: bytes) -> None:
        """Hide `name` of the layers below; what this layer itself put there stays, before or after."""
        try:
            status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent_fd)
            return
        if stat.S_ISDIR(status.st_mode):
            self._implied.add_none(status)
            fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd)
            try:
                os.setxattr(fd, OVERLAY_OPAQUE, b"y")
            finally:
                os.close(fd)

    def _keep_written(self, path: bytes) -> None:
        """Delete everything in the directory `path` that does not come from this layer."""
        pending = [path]
        while pending:
            path = pending.pop()
            fd = openat2(
                self._root_fd, path or b".", _DIRECTORY, resolve=RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS
            )
            self._retired.append(fd)
            for name in map(os.fsencode, os.listdir(fd)):
                child = path + b"/" + name if path else name
                if child not in self._written:
                    self._clear(fd, name)
                elif stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):
                    pending.append(child)

    def _note(self, parent: bytes, name: bytes) -> None:
        """Remember that this layer wrote a path, and with it the directories above."""
        path = parent + b"/" + name if parent else name
        while path not in self._written:
            self._written.add(path)
            path = path.rpartition(b"/")[0]
            if not path:
                return

    def _attributes(self, fd: int, entry: tar.TarEntry) -> None:
        # In this order: chown clears the set-id bits and the capabilities.
        os.fchown(fd, entry.uid, entry.gid)
        os.fchmod(fd, entry.mode)
        self._xattrs(fd, entry)

    def _xattrs(self, fd: int, entry: tar.TarEntry) -> None:
        for key, value in entry.xattrs.items():
            if not key.startswith(FOREIGN_XATTRS):
                os.setxattr(fd, key, value)

    def _attributes_at(self, parent_fd: int, name: bytes, entry: tar.TarEntry) -> None:
        os.chown(name, entry.uid, entry.gid, dir_fd=parent_fd, follow_symlinks=False)
        if entry.kind != tar.SYMLINK:
            # By a descriptor: chmod(2) would follow a link that a container has put there meanwhile.
            node = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
            try:
                os.chmod(f"/proc/self/fd/{node}", entry.mode)
            finally:
                os.close(node)
        for key, value in entry.xattrs.items():
            if not key.startswith(FOREIGN_XATTRS):
                path = b"/proc/self/fd/%d/%s" % (parent_fd, name)
                os.setxattr(path, key, value, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent_fd, follow_symlinks=False)

    def _is_plain(self, directory: os.stat_result) -> bool:
        """Whether what is made in a directory belongs to whoever makes it, group included."""
        return not directory.st_mode & stat.S_ISGID and directory.st_gid == self._owner[1]

    def _retire_parents(self) -> None:
        self._retired.extend(self._parents.values())
        self._parents.clear()

    def _close_retired(self) -> None:
        for fd in self._retired:
            os.close(fd)
        self._retired.clear()
        while self._deep:
            delete_tree(self._root_fd, self._deep.pop(), self._park)
