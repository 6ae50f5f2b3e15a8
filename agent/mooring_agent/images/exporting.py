# SPDX-License-Identifier: Apache-2.0
"""The whole file tree of a snapshot as a tar archive: its layers as a container sees them, merged.

Nothing is mounted: whiteouts and opaque directories are followed as overlay does
(Documentation/filesystems/overlayfs.rst).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack

from mooring_agent.images.archive import TreeArchive
from mooring_agent.images.tar_writer import END
from mooring_agent.linux.paths import open_directory
from mooring_agent.storage.changes import is_opaque, is_whiteout
from mooring_agent.storage.snapshotter import Rootfs

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def export_rootfs(rootfs: Rootfs) -> Iterator[bytes]:
    """Yield a tar archive of everything in a root file system; the same tree gives the same bytes.

    What is mounted in the container is left out, its mount points are in. A container may run meanwhile:
    a file that goes while it is read is left out, one that changes is archived as it was read.
    """
    layers = (*([rootfs.upper] if rootfs.upper is not None else []), *rootfs.lower)
    with ExitStack() as opened:
        roots = []
        for layer in layers:
            fd = os.open(layer, _DIRECTORY)
            opened.callback(os.close, fd)
            roots.append(fd)
        archive = TreeArchive(os.fstat(roots[0]).st_dev)
        yield archive.root(roots[0])
        pending: list[tuple[bytes, tuple[int, ...]]] = [(b"", tuple(range(len(roots))))]
        while pending:
            path, merged = pending.pop()
            below: list[tuple[bytes, tuple[int, ...]]] = []
            with ExitStack() as level:
                fds = {}
                for index in merged:
                    try:
                        fds[index] = open_directory(roots[index], path)
                    except (FileNotFoundError, NotADirectoryError):
                        continue  # it went meanwhile
                    level.callback(os.close, fds[index])
                for name, status, where in _seen(fds):
                    child = path + b"/" + name if path else name
                    if stat.S_ISDIR(status.st_mode) and archive.enter(status):
                        below.append((child, where))
                    try:
                        yield from archive.members(path, fds[where[0]], ((name, status),))
                    except FileNotFoundError:
                        continue
            pending.extend(reversed(below))
    yield END


def _seen(fds: dict[int, int]) -> Iterator[tuple[bytes, os.stat_result, tuple[int, ...]]]:
    """What is seen in a directory, sorted: name, what it is, and the layers that have it, topmost first."""
    found: dict[bytes, tuple[os.stat_result, list[int], bool]] = {}  # the last: nothing below shows through
    hidden: set[bytes] = set()
    for index, fd in fds.items():
        for name in map(os.fsencode, os.listdir(fd)):
            known = found.get(name)
            if name in hidden or (known is not None and known[2]):
                continue
            try:
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            if is_whiteout(status) or (known is not None and not stat.S_ISDIR(status.st_mode)):
                if known is None:
                    hidden.add(name)
                else:
                    found[name] = known[0], known[1], True
                continue
            closed = not stat.S_ISDIR(status.st_mode) or is_opaque(b"/proc/self/fd/%d/%s" % (fd, name))
            where = [*known[1], index] if known is not None else [index]
            found[name] = known[0] if known is not None else status, where, closed
    for name in sorted(found):
        status, where, _ = found[name]
        yield name, status, tuple(where)
