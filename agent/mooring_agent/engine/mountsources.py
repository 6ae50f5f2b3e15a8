# SPDX-License-Identifier: Apache-2.0
"""What is mounted into a container, made ready before it is: directories of the host that are missing, and
volumes that begin with what the image has at their place.

Such a volume is filled once, while it is empty. What the image has is copied beside it first, or within it
where it is on another mount; when that is whole and on the disk it gets another name, and is moved into the
volume piece by piece. Whoever is killed on the way has left a copy that is thrown away, or one that is moved
to its end. Nothing that is in the volume is replaced, and its directory stays the same for whoever has it
mounted.
"""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from ..errors import Conflict, MooringError, Unavailable
from ..failpoints import reached
from ..images.archive import archive_directory, xattrs_of
from ..images.layers import NO_SPACE, apply_layer
from ..linux.paths import openat2
from ..linux.syscalls import syncfs
from ..runtime.mounts import BindRoot, Overlay
from ..storage.snapshotter import Rootfs, Snapshotter, UnpackTarget, WhiteoutStyle
from .apart import EMPTY, in_thread, mounted
from .container import Container
from .volumemounts import VolumeMounts

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_NOTHING_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
_IN_THE_WAY = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR)
# Beside the directory of a volume: a copy that grows, and one that is whole.
_BESIDE = ("_draft", "_copy")
# The same within one that nothing can be moved into from beside it.
_WITHIN = (".mooring-draft", ".mooring-copy")


class MountSources:
    """Makes them ready; `directory_of` gives each container a work place."""

    def __init__(
        self,
        snapshotter: Snapshotter,
        volume_mounts: VolumeMounts,
        directory_of: Callable[[Container], Path],
    ) -> None:
        self._snapshotter = snapshotter
        self.volumes = volume_mounts
        self._directory_of = directory_of
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def make_ready(self, container: Container) -> None:
        """Do what a start needs. Raises Conflict, Unavailable, NotFound, and what an image has that cannot be
        copied.
        """
        if any(volume.create_host_path for volume in container.spec.volumes):
            await asyncio.to_thread(make_host_paths, container)
        if container.volumes and container.started_at is None and not container.filled:
            await self.fill(container)  # the agent that made it was killed

    async def fill(self, container: Container) -> None:
        """Give empty volumes of a container what its image has at their places; it has never run. Those in
        memory are left as they are, since they would lose it with their last user.
        """
        names = dict(container.volumes)
        wanted = [
            volume.target
            for volume in container.spec.volumes
            if volume.type == "volume"
            and not volume.nocopy
            and volume.subpath is None
            and not self.volumes.is_in_memory(names[volume.target])
        ]
        if wanted and self.volumes.has_any(container):
            wanted = await self._found_in_image(container, wanted)  # nothing is mounted for nothing
        if wanted:
            async with self.volumes.held(container, "fill", only=wanted) as sources:
                for target in wanted:
                    lock = self._locks.setdefault(names[target], asyncio.Lock())
                    async with lock:
                        await self._fill(container, target, sources[target].directory)
        container.filled = True

    async def _found_in_image(self, container: Container, targets: list[str]) -> list[str]:
        rootfs = self._snapshotter.rootfs(container.id)
        place = str(self._directory_of(container))
        try:
            return await in_thread(lambda: _directories(rootfs, place, targets))
        except OSError as error:
            raise _meaning(container, targets[0], error) from error

    async def _fill(self, container: Container, target: str, directory: Path) -> None:
        try:
            drafts = _drafts_of(directory)
            # A server may keep waiting whoever looks.
            apart = _is_apart(directory)
            wanted = await in_thread(drafts.are_wanted) if apart else drafts.are_wanted()
            if not wanted:
                return
            rootfs = self._snapshotter.rootfs(container.id)
            place = str(self._directory_of(container))
            await in_thread(lambda: _fill(rootfs, place, target, drafts))
        except OSError as error:
            raise _meaning(container, target, error) from error
        except MooringError as error:
            error.put_before(f"container {container.name}: the volume at {target} cannot be filled: ")
            raise


@dataclass(frozen=True)
class _Drafts:
    """Where the content of a volume is drafted and kept whole before it is moved to `directory`."""

    directory: Path
    draft: Path
    copy: Path

    def are_wanted(self) -> bool:
        """Whether the volume is empty, or a copy is left that has not been moved to its end."""
        if self.copy.exists():
            return True
        own = {self.draft.name, self.copy.name} if self.draft.parent == self.directory else set()
        with os.scandir(self.directory) as found:
            return all(entry.name in own for entry in found)


def _drafts_of(directory: Path) -> _Drafts:
    """Beside a volume that is a directory on the mount of its parent: nothing can be moved from one mount to
    another, not even of the same file system.
    """
    if not _is_apart(directory) and _mount_at(directory) == _mount_at(directory.parent):
        draft, copy = (directory.parent / name for name in _BESIDE)
        return _Drafts(directory, draft, copy)
    if not _is_apart(directory):  # somebody has mounted something there since it was drafted
        for name in _BESIDE:
            if (directory.parent / name).exists():
                shutil.rmtree(directory.parent / name)
    draft, copy = (directory / name for name in _WITHIN)
    return _Drafts(directory, draft, copy)


def _is_apart(directory: Path) -> bool:
    """Whether it is one of a volume that is mounted in a namespace of its own, and has nothing beside it."""
    return directory.is_relative_to("/proc/self/fd")


def _mount_at(directory: Path) -> str:
    """The number of the mount that a directory is on, proc_pid_fdinfo(5)."""
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        lines = Path(f"/proc/self/fdinfo/{fd}").read_text(encoding="ascii").splitlines()
    finally:
        os.close(fd)
    return next(line for line in lines if line.startswith("mnt_id:"))


def make_host_paths(container: Container) -> None:
    """Make the directories of the host that the container's binds are to make. Raises Conflict."""
    for volume in container.spec.volumes:
        if not volume.create_host_path or volume.source is None or os.path.exists(volume.source):
            continue
        try:
            os.makedirs(volume.source, mode=0o755, exist_ok=True)
        except OSError as error:
            raise Conflict(
                f"container {container.name}: {volume.source}, which is to be mounted at {volume.target}, is "
                f"not there and cannot be made ({error.strerror}): make it, or name another directory"
            ) from error


def _fill(rootfs: Rootfs, place: str, target: str, drafts: _Drafts) -> None:
    """Copy, unless there is a whole copy already, and move it into the volume."""
    draft, copy = drafts.draft, drafts.copy
    if not copy.exists():
        if draft.exists():
            shutil.rmtree(draft)
        try:
            if not _draw(rootfs, place, target, draft):
                return
            _write_out(draft)
        except BaseException:
            if draft.exists():
                shutil.rmtree(draft)
            raise
        reached("volume.drafted")
        draft.rename(copy)
    reached("volume.copied")
    _move(copy, drafts.directory)


def _write_out(draft: Path) -> None:
    """Have a draft on the disk: its new name might be there before its files' content otherwise."""
    fd = os.open(draft, _DIRECTORY)
    try:
        if os.listdir(fd):
            syncfs(fd)
    finally:
        os.close(fd)


def _directories(rootfs: Rootfs, place: str, targets: list[str]) -> list[str]:
    """Those of the paths at which the image has a directory."""
    with mounted(_image_of(rootfs, place), place) as root:
        found = []
        for target in targets:
            source = _open_in(root, target)
            if source >= 0:
                os.close(source)
                found.append(target)
        return found


def _open_in(root: int, target: str) -> int:
    """The directory that an image has at a path, links followed within it; -1 if there is none."""
    try:
        return openat2(root, os.fsencode(target), _DIRECTORY)
    except OSError as error:
        if error.errno in _NOTHING_THERE:
            return -1
        raise


def _draw(rootfs: Rootfs, place: str, target: str, draft: Path) -> bool:
    """Copy what the image has at a path; False if it has no directory there."""
    with mounted(_image_of(rootfs, place), place) as root:
        source = _open_in(root, target)
        if source < 0:
            return False
        try:
            draft.mkdir(mode=0o700)
            pieces = archive_directory(Path(f"/proc/self/fd/{source}"))
            apply_layer(pieces, UnpackTarget(draft, WhiteoutStyle.NONE, ()))
            copy = os.open(draft, _DIRECTORY)
            try:
                _take_attributes(source, copy)
            finally:
                os.close(copy)
        finally:
            os.close(source)
    return True


def _image_of(rootfs: Rootfs, place: str) -> Overlay | BindRoot:
    """What is below a container's own layer, read-only, so that it may be mounted elsewhere meanwhile; of one
    that is a whole tree, that.
    """
    if rootfs.bind_source is not None:
        return BindRoot(str(rootfs.bind_source))
    layers = tuple(map(str, rootfs.lower))
    # An overlay without a layer to write to wants two others.
    return Overlay(layers if len(layers) > 1 else (*layers, f"{place}/{EMPTY}"))


def _move(copy: Path, directory: Path) -> None:
    source, target = os.open(copy, _DIRECTORY), os.open(directory, _DIRECTORY)
    try:
        _take_attributes(source, target)
        for name in os.listdir(source):
            _move_one(source, target, name)
            reached("volume.moved")
    finally:
        os.close(source)
        os.close(target)
    shutil.rmtree(copy)


def _move_one(source: int, target: int, name: str) -> None:
    """Move something to where nothing is; what somebody else has put there stays."""
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=source, follow_symlinks=False).st_mode):
            os.rename(name, name, src_dir_fd=source, dst_dir_fd=target)
        else:
            os.link(name, name, src_dir_fd=source, dst_dir_fd=target, follow_symlinks=False)
            os.unlink(name, dir_fd=source)
    except OSError as error:
        if error.errno not in _IN_THE_WAY:
            raise


def _take_attributes(source: int, target: int) -> None:
    found, there = os.fstat(source), os.fstat(target)
    # A server may refuse even a change that is none.
    if (found.st_uid, found.st_gid) != (there.st_uid, there.st_gid):
        os.fchown(target, found.st_uid, found.st_gid)
    if found.st_mode != there.st_mode:
        os.fchmod(target, stat.S_IMODE(found.st_mode))
    for name, value in xattrs_of(source).items():
        os.setxattr(target, name, value)


def _meaning(container: Container, target: str, error: OSError) -> MooringError:
    what = f"container {container.name}: the volume at {target} cannot be filled"
    if error.errno in NO_SPACE:
        return Unavailable(f"{what} ({error.strerror}): free some space")
    return Conflict(
        f"{what} with what the image has there ({error.filename or 'copying'}: {error.strerror}): mount it "
        "with nocopy"
    )
