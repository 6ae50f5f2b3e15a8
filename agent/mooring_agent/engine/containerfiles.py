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
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import BinaryIO, TypeVar

from ..errors import Conflict, InvalidSpec, MooringError, NotFound, NotSupported, Unavailable
from ..images import tar_reader as tar
from ..images.archive import TreeArchive
from ..images.layers import NO_SPACE, Limits, apply_layer
from ..images.stream import HashingReader, decompress, detect, peek, read_chunks
from ..images.tar_writer import END
from ..linux import syscalls
from ..linux.paths import openat2
from ..runtime.join import start_time
from ..runtime.mounts import BindRoot, Overlay
from ..runtime.mounts_targets import CLONE, EMPTY_TO_EMPTY, open_target
from ..storage.snapshotter import Snapshotter, UnpackTarget, WhiteoutStyle
from ..storage.tree import walk_tree
from .container import Container
from .containers import Containers
from .imageworkers import streamed
from .volumes import Volumes

T = TypeVar("T")

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_ABSENT = (errno.ENOENT, errno.ENOTDIR)
_READ_ONLY = "is read-only there"


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
        volumes: Volumes,
        directory_of: Callable[[Container], Path],
    ) -> None:
        self._containers = containers
        self._snapshotter = snapshotter
        self._volumes = volumes
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
        if container.running:
            root = await asyncio.to_thread(_entered, container)
            try:
                place = await asyncio.to_thread(
                    _told, container, lambda root: _found(root, container.name, path), root
                )
            finally:
                os.close(root)
            try:
                status, pieces = await asyncio.to_thread(
                    _told, container, lambda _: _begun(place, container.name, path), place.fd
                )
            except BaseException:
                os.close(place.fd)
                raise
            return status, streamed(_closing(container, place.fd, pieces))
        spool = tempfile.TemporaryFile(dir=self._directory_of(container))  # noqa: SIM115 (the answer has it)
        try:

            def take(root: int) -> FileStatus:
                place = _found(root, container.name, path)
                try:
                    status, pieces = _begun(place, container.name, path)
                    for piece in pieces:
                        spool.write(piece)
                finally:
                    os.close(place.fd)
                spool.seek(0)
                return status

            found = await self._within(container, take)
        except BaseException:
            spool.close()
            raise
        return found, streamed(_spooled(spool))

    async def write(
        self, reference: str, path: str, chunks: AsyncIterable[bytes], *, keep_kinds: bool = False
    ) -> None:
        """Unpack a tar archive, compressed or not, into the directory at a path, as its members say.

        With `keep_kinds` a directory is never replaced by something else, nor the other way round. Nothing is
        changed before the whole archive has come.
        """
        container = self._of(reference)
        if container.spec.read_only:
            raise Conflict(f"container {container.name} {_READ_ONLY}: its root file system is declared so")
        with tempfile.TemporaryFile(dir=self._directory_of(container)) as spool:
            async for chunk in chunks:
                await asyncio.to_thread(spool.write, chunk)
            spool.seek(0)
            await self._within(
                container, lambda root: _unpack(root, container.name, path, spool, keep_kinds=keep_kinds)
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
        async with container.lock:
            if not container.running:
                return await self._at_rest(container, work)
        root = await asyncio.to_thread(_entered, container)
        try:
            return await asyncio.to_thread(_told, container, work, root)
        finally:
            os.close(root)

    async def _at_rest(self, container: Container, work: Callable[[int], T]) -> T:
        """The same for one that does not run; the caller has its lock, so that it is not started."""
        rootfs = self._snapshotter.rootfs(container.id)
        paths = self._volumes.paths(container.volumes)
        mounts = [
            (volume.target, paths.get(volume.target, volume.source or ""), volume.read_only)
            for volume in container.spec.volumes
            if volume.type != "tmpfs"
        ]
        if rootfs.bind_source is not None:
            layers: Overlay | BindRoot = BindRoot(str(rootfs.bind_source))
        else:
            layers = Overlay(tuple(map(str, rootfs.lower)), str(rootfs.upper or ""), str(rootfs.work or ""))
        place = str(self._directory_of(container))

        def apart() -> T:
            with _mounted(layers, mounts, place) as root:
                return _told(container, work, root)

        return await asyncio.wrap_future(_in_thread(apart))


def _told(container: Container, work: Callable[[int], T], root: int) -> T:
    """Errors of the kernel as those of a user."""
    try:
        return work(root)
    except OSError as error:
        raise _meaning(container, error) from error


def _meaning(container: Container, error: OSError) -> MooringError:
    if error.errno in NO_SPACE:
        return Unavailable(f"container {container.name}: {error.strerror}: free some space")
    if error.errno == errno.EROFS:
        return Conflict(f"container {container.name} {_READ_ONLY}: copy to another place")
    return InvalidSpec(f"container {container.name}: {error.filename or 'copying'}: {error.strerror}")


def _in_thread(work: Callable[[], T]) -> Future[T]:
    """Run it in a thread of its own, which ends with it: it may leave the thread in another namespace."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except Exception as error:  # noqa: BLE001 (it is raised where the work is waited for)
            done.set_exception(error)

    threading.Thread(target=run, name="mooring-cp", daemon=True).start()
    return done


def _entered(container: Container) -> int:
    """A descriptor of the root of a container that runs."""
    try:
        root = os.open(f"/proc/{container.pid}/root", _DIRECTORY | os.O_CLOEXEC)
    except OSError:
        root = -1
    # The number may have gone to another process before it was opened, not after.
    if root < 0 or start_time(container.pid or 0) != container.start_time:
        if root >= 0:
            os.close(root)
        raise Conflict(f"container {container.name} has ended meanwhile: try again")
    return root


@contextmanager
def _mounted(layers: Overlay | BindRoot, mounts: list[tuple[str, str, bool]], place: str) -> Iterator[int]:
    """A descriptor of a root with its mounts, in a mount namespace that the thread is given for good."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", place, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0700")
    target = f"{place}/root"
    os.mkdir(target)
    layers.mount(target)
    root = os.open(target, _DIRECTORY | os.O_CLOEXEC)
    try:
        for inside, source, read_only in mounts:
            _attach(root, inside, source, read_only=read_only)
        yield root
    finally:
        os.close(root)
        os.chdir("/")
        syscalls.umount(place, syscalls.MNT_DETACH)


def _attach(root: int, target: str, source: str, *, read_only: bool) -> None:
    with ExitStack() as opened:
        there = os.open(source, os.O_PATH | os.O_CLOEXEC)
        opened.callback(os.close, there)
        point = open_target(root, target, directory=stat.S_ISDIR(os.fstat(there).st_mode))
        opened.callback(os.close, point)
        tree = syscalls.open_tree(there, "", CLONE | syscalls.AT_EMPTY_PATH)
        opened.callback(os.close, tree)
        if read_only:
            syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
        syscalls.move_mount(tree, "", point, "", EMPTY_TO_EMPTY)


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
    found = os.stat(place.name, dir_fd=place.fd, follow_symlinks=False)
    archive = TreeArchive(found.st_dev, layer=False)
    if not stat.S_ISDIR(found.st_mode):
        yield from archive.members(b"", place.fd, ((place.name, found),))
    else:
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
    yield END


def _begun(place: _Place, container: str, path: str) -> tuple[FileStatus, Iterator[bytes]]:
    """What is at a place, and its archive, of which the first piece is there already."""
    status = _status(place, container, path)
    pieces = _archive(place)
    try:
        first = next(pieces)
    except OSError as error:
        if error.errno in (*_ABSENT, errno.ELOOP):
            raise _nothing(container, path) from None
        raise
    return status, chain((first,), pieces)


def _unpack(root: int, container: str, path: str, spool: BinaryIO, *, keep_kinds: bool) -> None:
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
        if keep_kinds:
            _check_kinds(fd, spool)
        head, whole = peek(read_chunks(spool))
        target = UnpackTarget(Path(f"/proc/self/fd/{fd}"), WhiteoutStyle.NONE, ())
        apply_layer(decompress(whole, detect(head)), target)
    finally:
        os.close(fd)


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
    spool.seek(0)


def _closing(container: Container, fd: int, pieces: Iterator[bytes]) -> Iterator[bytes]:
    try:
        yield from pieces
    except OSError as error:
        raise _meaning(container, error) from error
    finally:
        os.close(fd)


def _spooled(spool: BinaryIO) -> Iterator[bytes]:
    with spool:
        yield from read_chunks(spool)
