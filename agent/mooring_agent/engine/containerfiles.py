# SPDX-License-Identifier: Apache-2.0
"""Files of containers, taken out and put in, whether they run or not: what `docker cp` does.

A container that runs is looked at through its root in /proc, with all that is mounted there. For one at rest
its layers and volumes are mounted as a start would do it, in a mount namespace that one thread has alone and
that goes with the thread. Paths are resolved by openat2(2) inside that root: no link leads out of it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import posixpath
import stat
import tempfile
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from ..errors import Conflict, Ended, InvalidSpec, MooringError, NotFound, NotSupported, ReadOnly, Unavailable
from ..images import tar_reader as tar
from ..images.archive import TreeArchive
from ..images.layers import NO_SPACE, Limits, apply_layer
from ..images.stream import HashingReader, decompress, detect, peek, read_chunks
from ..images.tar_writer import END
from ..linux import syscalls
from ..linux.paths import openat2
from ..runtime.join import is_still
from ..runtime.mounts import Bind, BindRoot, Overlay
from ..runtime.users import UnknownUser, read_accounts, resolve
from ..storage.snapshotter import Snapshotter, UnpackTarget, WhiteoutStyle
from ..storage.tree import walk_tree
from .apart import in_thread, mounted
from .container import Container
from .containers import Containers
from .imageworkers import streamed
from .mountsources import make_host_paths
from .volumemounts import Source

T = TypeVar("T")
P = ParamSpec("P")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_NOBODY_NAMED = "0"  # the user of a container for which neither its spec nor its image names one
_LOOK_EVERY = 16 << 20  # bytes that are written between two looks at how much room is left
_LEFT_FREE = 20  # the part of the disk that is left alone is one in so many


@dataclass(frozen=True, slots=True)
class FileStatus:
    """What is at a path: `mode` as st_mode has it, `size` in bytes, `target` where a link leads to."""

    name: str
    size: int
    mode: int
    mtime_ns: int
    target: str = ""


class ContainerFiles:
    """Reads and writes what containers have in their file trees; `directory_of` gives each a work place."""

    def __init__(
        self,
        containers: Containers,
        snapshotter: Snapshotter,
        directory_of: Callable[[Container], Path],
    ) -> None:
        self._containers = containers
        self._snapshotter = snapshotter
        self._directory_of = directory_of

    async def status(self, reference: str, path: str) -> FileStatus:
        """What is at a path; of a link itself, unless the path ends with a slash. Raises NotFound."""
        container = self._of(reference)

        def look(root: int) -> FileStatus:
            place = _found(root, container.name, path)
            try:
                return _status(place, container.name, path)
            finally:
                os.close(place.fd)

        return await self._within(container, look)

    async def read(self, reference: str, path: str) -> tuple[FileStatus, AsyncIterator[bytes]]:
        """What is at a path, and a tar archive of it whose members begin with its name, in pieces.

        What is mounted below it is left out. Of a container at rest the archive is written to a file first,
        so that no slow client keeps it from being started.
        """
        container = self._of(reference)
        return await self._containers.lifecycle.unless_ended(container, lambda: self._read(container, path))

    async def _read(self, container: Container, path: str) -> tuple[FileStatus, AsyncIterator[bytes]]:
        if container.running:

            def begin(root: int) -> tuple[FileStatus, Iterator[bytes]]:
                return _begun(_found(root, container.name, path), container.name, path)

            status, pieces = await asyncio.to_thread(_entering, container, begin)
            return status, streamed(_meant(container, pieces))
        spool = tempfile.TemporaryFile(dir=self._directory_of(container))  # noqa: SIM115 (the answer has it)
        try:

            def take(root: int) -> FileStatus:
                status, pieces = _begun(_found(root, container.name, path), container.name, path)
                _keep(pieces, spool, container.name)
                return status

            found = await self._work(container, take)
        except BaseException:
            spool.close()
            raise
        return found, streamed(_spooled(spool))

    async def write(
        self,
        reference: str,
        path: str,
        chunks: AsyncIterable[bytes],
        *,
        keep_kinds: bool = False,
        for_user: bool = False,
    ) -> None:
        """Unpack a tar archive, compressed or not, into the directory at a path, as its members say.

        With `keep_kinds` a directory is never replaced by something else, nor the other way round. With
        `for_user` all belongs to the user that the container runs as, if it has one, whatever the archive
        says. Nothing is changed before the whole archive has come.
        """
        container = self._of(reference)
        with tempfile.TemporaryFile(dir=self._directory_of(container)) as spool:
            async for chunk in chunks:
                await asyncio.to_thread(_told, container, spool.write, chunk)
            named = container.spec.user is not None or container.user != _NOBODY_NAMED
            user = container.user if for_user and named else ""
            await self._within(
                container,
                lambda root: _unpack(root, container.name, path, spool, keep_kinds=keep_kinds, user=user),
            )

    def _of(self, reference: str) -> Container:
        container = self._containers.get(reference)
        if container.spec.userns.mode != "host":
            raise NotSupported(
                f"container {container.name} has users of its own, and its files would come with the ids of "
                "others: use tar within it"
            )
        return container

    async def _within(self, container: Container, work: Callable[[int], T]) -> T:
        """What `work` makes of a descriptor of the container's root."""
        return await self._containers.lifecycle.unless_ended(container, lambda: self._work(container, work))

    async def _work(self, container: Container, work: Callable[[int], T]) -> T:
        """The same, once. Raises Ended."""
        async with container.lock:
            if not container.running:
                return await self._at_rest(container, work)
        return await in_thread(lambda: _entering(container, work))

    async def _at_rest(self, container: Container, work: Callable[[int], T]) -> T:
        """The same for one that does not run; the caller has its lock, so that it is not started."""
        await self._containers.lifecycle.berthing.forget(container)  # which has its layers mounted, too
        rootfs = self._snapshotter.rootfs(container.id)
        if rootfs.bind_source is not None:
            layers: Overlay | BindRoot = BindRoot(str(rootfs.bind_source))
        else:
            layers = Overlay(tuple(map(str, rootfs.lower)), str(rootfs.upper or ""), str(rootfs.work or ""))
        place = str(self._directory_of(container))
        async with self._containers.lifecycle.berthing.sources.volumes.held(container, "files") as volumes:
            mounts = _mounts(container, volumes)

            def inside() -> T:
                make_host_paths(container)
                with mounted(layers, place, mounts) as root:
                    if container.spec.read_only:
                        syscalls.mount_setattr(
                            root, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY
                        )
                    return work(root)

            return await in_thread(lambda: _told(container, inside))


def _mounts(container: Container, volumes: Mapping[str, Source]) -> list[Bind]:
    """The mounts of a container at rest: what is in memory is not there."""
    mounts = []
    for volume in container.spec.volumes:
        if volume.type == "tmpfs":
            continue
        source = volumes.get(volume.target)
        mounts.append(
            Bind(
                source.path if source else volume.source or "",
                volume.target,
                set=syscalls.MOUNT_ATTR_RDONLY if volume.read_only or volume.type == "image" else 0,
                recursive=False,
                subpath=volume.subpath or "",
                namespace=source.namespace if source else "",
            )
        )
    return mounts


def _told(container: Container, work: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Errors of the kernel as those of a user."""
    try:
        return work(*arguments, **options)
    except OSError as error:
        raise _meaning(container, error) from error


def _meaning(container: Container, error: OSError) -> MooringError:
    if error.errno in NO_SPACE:
        return Unavailable(f"container {container.name}: {error.strerror}: free some space")
    return InvalidSpec(f"container {container.name}: {error.filename or 'copying'}: {error.strerror}")


def _entering(container: Container, work: Callable[[int], T]) -> T:
    """What `work` makes of a descriptor of the root of a container that runs. It belongs to the thread: were
    it closed by who waits for that, and does no more, its number might come to stand for another directory.
    """
    root = _entered(container)
    try:
        return _told(container, work, root)
    finally:
        os.close(root)


def _entered(container: Container) -> int:
    """A descriptor of the root of a container that runs."""
    try:
        root = os.open(f"/proc/{container.pid}/root", _DIRECTORY | os.O_CLOEXEC)
    except OSError:
        root = -1
    # The number may have gone to another process before it was opened, not after.
    if root < 0 or not is_still(container.pid or 0, container.start_time):
        if root >= 0:
            os.close(root)
        raise Ended(f"container {container.name} has ended meanwhile: try again")
    return root


def _clean(path: str) -> str:
    """A path of a container from its root, without dots and repeated slashes."""
    return posixpath.normpath("/" + path.lstrip("/"))


@dataclass(frozen=True, slots=True)
class _Place:
    """What is at a path: the directory that has it, open, its name there ("." for the directory itself), and
    the name by which an archive calls it. It is found once, so that no link comes between.
    """

    fd: int
    name: bytes
    called: bytes


def _found(root: int, container: str, path: str) -> _Place:
    clean = os.fsencode(_clean(path))
    as_directory = path.endswith(("/", "/.")) or path in ("", ".") or clean == b"/"
    parent, _, name = clean.rpartition(b"/")
    try:
        fd = openat2(root, clean if as_directory else parent or b"/", _DIRECTORY)
    except OSError as error:
        if error.errno in _ABSENT:
            raise _nothing(container, path) from None
        raise
    if not as_directory:
        return _Place(fd, name, name)
    return _Place(fd, b".", b"" if clean == b"/" or path.endswith("/.") else name)


def _nothing(container: str, path: str) -> NotFound:
    # The words that clients know are dockerd's.
    return NotFound(f"Could not find the file {path} in container {container}")


def _status(place: _Place, container: str, path: str) -> FileStatus:
    try:
        found = os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
        target = os.readlink(place.name, dir_fd=place.fd) if stat.S_ISLNK(found.st_mode) else b""
    except OSError as error:
        if error.errno in (*_ABSENT, errno.EINVAL):
            raise _nothing(container, path) from None
        raise
    return FileStatus(
        os.fsdecode(place.called) or "/",
        found.st_size,
        found.st_mode,
        found.st_mtime_ns,
        _leads_to(path, target),
    )


def _leads_to(path: str, target: bytes) -> str:
    """Where a link at a path leads, as a path of the container; "" for no link."""
    if not target:
        return ""
    return posixpath.normpath(posixpath.join("/", posixpath.dirname(path), os.fsdecode(target)))


def _archive(place: _Place) -> Iterator[bytes]:
    """The archive of what is at a place, which is closed with it."""
    try:
        found = os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
        archive = TreeArchive(found.st_dev, layer=False)
        if stat.S_ISDIR(found.st_mode):
            yield from _tree(place, archive)
        else:
            yield from archive.members(b"", place.fd, ((place.name, found),))
    finally:
        os.close(place.fd)
    yield END


def _tree(place: _Place, archive: TreeArchive) -> Iterator[bytes]:
    # Not what a link has been put in the place of meanwhile.
    top = openat2(place.fd, place.name, _DIRECTORY | os.O_NOFOLLOW)
    try:
        yield archive.root(top, place.called or b".")
        for level in walk_tree(top, archive.enter):
            below = b"/".join(part for part in (place.called, level.path) if part)
            for entry in level.entries:
                try:
                    yield from archive.members(below, level.fd, (entry,))
                except FileNotFoundError:
                    continue  # it went meanwhile
    finally:
        os.close(top)


def _begun(place: _Place, container: str, path: str) -> tuple[FileStatus, Iterator[bytes]]:
    """What is at a place, and its archive, of which the first piece is there already. It closes the place."""
    try:
        status = _status(place, container, path)
    except BaseException:
        os.close(place.fd)
        raise
    pieces = _archive(place)
    try:
        first = next(pieces)
    except OSError as error:
        if error.errno in (*_ABSENT, errno.ELOOP):
            raise _nothing(container, path) from None
        raise
    return status, chain((first,), pieces)


def _keep(pieces: Iterator[bytes], spool: BinaryIO, container: str) -> None:
    """Write pieces to a file. What a container has may be longer in an archive than it is on the disk, so a
    part of that is left to everybody else.
    """
    unseen = 0
    for piece in pieces:
        spool.write(piece)
        unseen += len(piece)
        if unseen < _LOOK_EVERY:
            continue
        unseen = 0
        disk = os.fstatvfs(spool.fileno())
        if disk.f_bavail < disk.f_blocks // _LEFT_FREE:
            raise Unavailable(
                f"container {container} does not run, and what is copied out of it would fill the disk of "
                "the data root before it is sent: free some space, copy less, or start it"
            )
    spool.seek(0)


def _unpack(
    root: int, container: str, path: str, spool: BinaryIO, *, keep_kinds: bool, user: str = ""
) -> None:
    owner = _ids(root, container, user) if user else None
    try:
        fd = openat2(root, os.fsencode(_clean(path)), _DIRECTORY)
    except OSError as error:
        if error.errno == errno.ENOENT:
            raise _nothing(container, path) from None
        if error.errno == errno.ENOTDIR:
            raise InvalidSpec(
                f"{path} of container {container} is no directory: name one to unpack the archive in"
            ) from None
        raise
    try:
        if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
            raise ReadOnly(
                f"container {container} is read-only at {path}: copy to a volume that it may write to"
            )
        if keep_kinds:
            spool.seek(0)
            _check_kinds(fd, spool)
        spool.seek(0)
        head, whole = peek(read_chunks(spool))
        target = UnpackTarget(Path(f"/proc/self/fd/{fd}"), WhiteoutStyle.NONE, ())
        apply_layer(decompress(whole, detect(head)), target, owner=owner)
    finally:
        os.close(fd)


def _ids(root: int, container: str, user: str) -> tuple[int, int]:
    """The numbers of a user and its group in a container's own files. Raises Conflict if there is none."""
    try:
        found = resolve(user, _accounts(root, b"etc/passwd"), _accounts(root, b"etc/group"))
    except UnknownUser as error:
        raise Conflict(f"container {container} cannot be given files of its user {user}: {error}") from None
    return found.uid, found.gid


def _accounts(root: int, path: bytes) -> str:
    """The passwd(5) or group(5) of a container, "" if there is none."""
    try:
        fd = openat2(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    return read_accounts(fd)


def _check_kinds(directory: int, spool: BinaryIO) -> None:
    """Refuse an archive with a directory where something else is, or the other way round."""
    head, whole = peek(read_chunks(spool))
    for entry in tar.read_entries(HashingReader(decompress(whole, detect(head)), Limits().stream_bytes)):
        try:
            found = openat2(directory, entry.path.lstrip(b"/") or b".", os.O_PATH | os.O_NOFOLLOW)
        except OSError as error:
            if error.errno in _ABSENT:
                continue
            raise
        is_directory = stat.S_ISDIR(os.fstat(found).st_mode)
        os.close(found)
        if is_directory != (entry.kind == tar.DIRECTORY):
            kinds = ("directory", "non-directory") if is_directory else ("non-directory", "directory")
            raise InvalidSpec(
                f"{os.fsdecode(entry.path)}: cannot overwrite {kinds[0]} with {kinds[1]}: choose another name"
            )


def _meant(container: Container, pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except OSError as error:
        raise _meaning(container, error) from error


def _spooled(spool: BinaryIO) -> Iterator[bytes]:
    with spool:
        yield from read_chunks(spool)
