# SPDX-License-Identifier: Apache-2.0
"""What COPY, ADD and WORKDIR put into a layer: a list of members, its digest and its archive.

The digest is what the cache goes by: paths, types, modes, owners, links, attributes and contents count, times
do not. The same members make the same archive, byte for byte.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.stream import CHUNK
from mooring_agent.images.tar_writer import END, member_header, padding

SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Item:
    """One member of a layer. A file's content is that of `origin` in `tree`, or `content`.

    `identity` is the same for names of one file (hard links), None for what has one name. `made` says that
    nobody copied it: a directory on the way to others, which has no time of its own.
    """

    path: bytes
    kind: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    tree: Tree | None = field(default=None, compare=False)
    origin: bytes = b""
    content: bytes = b""
    identity: tuple[int, int] | None = None
    made: bool = False


def item_of(tree: Tree, origin: bytes, status: os.stat_result, path: bytes) -> Item | None:
    """What is at `origin` of a tree, to be put at `path`; None for a socket, which no layer can hold."""
    kind = tar.kind_of(status)
    if kind is None:
        return None
    if any(part.startswith(b".wh.") for part in path.split(b"/")):
        raise InvalidSpec(
            f"{os.fsdecode(path)!r} cannot be in a layer, where a name that begins with .wh. marks a removed "
            "file: rename it, or exclude it"
        )
    several = kind != tar.DIRECTORY and status.st_nlink > 1
    return Item(
        path,
        kind,
        stat.S_IMODE(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_mtime_ns,
        status.st_size if kind == tar.REGULAR else 0,
        tree.readlink(origin) if kind == tar.SYMLINK else b"",
        (os.major(status.st_rdev), os.minor(status.st_rdev)),
        tuple(tree.xattrs(origin).items()),
        tree,
        origin,
        identity=(status.st_dev, status.st_ino) if several else None,
    )


def in_order(items: Iterable[Item]) -> list[Item]:
    """Sorted by path, directories before what they hold; of two of the same path the later one."""
    latest = {item.path: item for item in items}
    return sorted(latest.values(), key=lambda item: item.path.split(b"/"))


def digest_items(items: Iterable[Item]) -> str:
    """What the items are, but for their times."""
    whole = hashlib.sha256()
    for item in in_order(items):
        content = ""
        if item.kind == tar.REGULAR:
            file = hashlib.sha256()
            for chunk in _content(item):
                file.update(chunk)
            content = file.hexdigest()
        facts = (
            item.path, item.kind, item.mode, item.uid, item.gid, item.size, item.link, item.device,
            item.xattrs, content,
        )  # fmt: skip
        whole.update(repr(facts).encode() + b"\n")
    return whole.hexdigest()


def archive_items(
    items: Iterable[Item], latest: int | None = None, *, otherwise_ns: int = 0
) -> Iterator[bytes]:
    """Yield the archive; `latest` is the time, in seconds since the epoch, that none is later than.

    A directory that was made on the way has the time of the newest thing that was copied, and
    `otherwise_ns` where nothing was.
    """
    ordered = in_order(items)
    newest = max((item.mtime_ns for item in ordered if not item.made), default=otherwise_ns)
    first: dict[tuple[object, ...], bytes] = {}
    for item in ordered:
        mtime = max(item.mtime_ns, newest) if item.made else item.mtime_ns
        if latest is not None:
            mtime = min(mtime, latest * SECOND)
        entry = tar.TarEntry(
            item.path,
            item.kind,
            mode=item.mode,
            uid=item.uid,
            gid=item.gid,
            mtime_ns=mtime,
            link=item.link,
            device=item.device,
            xattrs=dict(item.xattrs),
        )
        if item.identity is not None:
            alike = (id(item.tree), item.identity, item.mode, item.uid, item.gid)
            known = first.setdefault(alike, item.path)
            if known != item.path:
                entry.kind, entry.link, entry.xattrs = tar.HARD_LINK, known, {}
                yield member_header(entry)
                continue
        if item.kind == tar.REGULAR:
            entry.size = entry.stored = item.size
            yield member_header(entry)
            yield from _content(item)
            if item.size % tar.BLOCK:
                yield padding(item.size)
        else:
            yield member_header(entry)
    yield END


def _content(item: Item) -> Iterator[bytes]:
    """The bytes of a file, exactly as many as its size says."""
    if item.tree is None:
        yield item.content
        return
    left = item.size
    with open(item.tree.open(item.origin), "rb", buffering=0) as file:
        while left:
            chunk = file.read(min(CHUNK, left))
            if not chunk:
                raise InvalidSpec(f"file {os.fsdecode(item.origin)!r} became shorter while it was read")
            left -= len(chunk)
            yield chunk
