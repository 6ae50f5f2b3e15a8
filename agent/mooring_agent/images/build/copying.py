# SPDX-License-Identifier: Apache-2.0
"""Where COPY puts things: the rules of its sources and its destination, on trees that are only read.

They are those of BuildKit: the content of a directory is copied, not itself; a destination with a slash at
its end is a directory; links in the destination and at the end of a source are followed, and links below a
source are copied as they are; what is missing on the way is made with mode 0755.
"""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.build.items import Item, item_of
from mooring_agent.images.build.modes import Modes
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.dockerfile.ignore import Ignore
from mooring_agent.images.dockerfile.path_patterns import PathPattern, has_wildcard

MADE_MODE = 0o755
"""The mode of a directory that is made on the way."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """What becomes of owners and modes: `owner` is that of everything, None to keep the source's."""

    owner: tuple[int, int] | None = (0, 0)
    modes: Modes | None = None
    parents: bool = False
    excludes: tuple[str, ...] = ()


class Placing:
    """What one instruction puts on top of a tree. Raises InvalidSpec where something is in the way."""

    def __init__(self, base: Tree, owner: tuple[int, int] = (0, 0)) -> None:
        """`owner` is that of directories that are made on the way."""
        self.base = base
        self._owner = owner
        self._items: dict[bytes, Item] = {}

    @property
    def items(self) -> tuple[Item, ...]:
        """Everything so far."""
        return tuple(self._items.values())

    def destination(self, text: str) -> bytes:
        """An absolute destination, resolved in the tree."""
        return self.base.resolve(os.fsencode(text))

    def kind(self, path: bytes) -> bytes | None:
        """Whether there is a directory (the root always is), a link or something else; None for nothing."""
        if not path:
            return tar.DIRECTORY
        item = self._items.get(path)
        if item is not None:
            return item.kind
        status = self.base.lstat(path)
        if status is None:
            return None
        if stat.S_ISDIR(status.st_mode):
            return tar.DIRECTORY
        return tar.SYMLINK if stat.S_ISLNK(status.st_mode) else tar.REGULAR

    def make_directory(self, path: bytes) -> None:
        """See to it that a directory is there, and those above it."""
        cut = 0
        while path and cut >= 0:
            cut = path.find(b"/", cut + 1) if cut else path.find(b"/")
            part = path if cut < 0 else path[:cut]
            kind = self.kind(part)
            if kind is None:
                uid, gid = self._owner
                self._items[part] = Item(part, tar.DIRECTORY, MADE_MODE, uid, gid, made=True)
            elif kind != tar.DIRECTORY:
                raise InvalidSpec(f"/{os.fsdecode(part)} is no directory, and one is needed there")

    def put(self, item: Item, *, over: bool = False) -> None:
        """Add one item; what is there is replaced, but with `over` alone also a directory by a file."""
        kind = self.kind(item.path)
        shown = f"/{os.fsdecode(item.path)}"
        if item.kind == tar.DIRECTORY:
            if kind not in (None, tar.DIRECTORY) and not over:
                raise InvalidSpec(f"{shown} is a file, and a directory is to be copied there")
        elif kind == tar.DIRECTORY and not over:
            raise InvalidSpec(f"{shown} is a directory, and a file is to be copied there")
        self._items[item.path] = item

    def copy(
        self, tree: Tree, source: str, destination: str, how: Treatment, *, what: str, several: bool = False
    ) -> int:
        """Copy what a source stands for, a path or a pattern; returns how many paths that were.

        `destination` is absolute. `what` names the tree in messages. Raises InvalidSpec for a path that is
        not there.
        """
        found = 0
        for path in matches(tree, source, what):
            self.copy_path(tree, path, destination, how, what=what, several=several)
            found += 1
        return found

    def copy_path(
        self, tree: Tree, path: str, destination: str, how: Treatment, *, what: str, several: bool = False
    ) -> None:
        """Copy one path, in which no character stands for others."""
        origin = tree.resolve(os.fsencode(path))
        status = tree.lstat(origin)
        is_directory = (status is not None and stat.S_ISDIR(status.st_mode)) or not origin
        if status is None and origin:
            raise InvalidSpec(f"{path!r} is not in {what}")
        into = destination.endswith("/") or several
        target = self.destination(destination)
        if how.parents:
            self._copy_with_parents(tree, path, origin, is_directory, target, how)
            return
        if is_directory:
            self.make_directory(target)
            self._copy_content(tree, origin, target, how)
            return
        assert status is not None
        if into or self.kind(target) == tar.DIRECTORY:
            target = _join(target, os.fsencode(posixpath.basename(path.rstrip("/"))))
        if _ignoring(how).excludes(posixpath.basename(path)):
            return
        self.make_directory(target.rpartition(b"/")[0])
        self._put_copy(tree, origin, status, target, how)

    def lay_over(self, tree: Tree, target: bytes, how: Treatment) -> None:
        """Put a whole tree at a directory, as unpacking an archive there would.

        What is in the way goes; but where the archive has a directory and there is a link to one, as /bin in
        many images, its content goes where the link leads to.
        """
        ignoring = _ignoring(how)
        moved: dict[bytes, bytes] = {}
        for path, status in tree.walk(b"", lambda each: ignoring.skips_directory(os.fsdecode(each))):
            parent, _, name = path.rpartition(b"/")
            place = _join(moved.get(parent, _join(target, parent)), name)
            if ignoring.excludes(os.fsdecode(path)):
                continue
            if stat.S_ISDIR(status.st_mode):
                led = self.base.resolve(place) if self.kind(place) == tar.SYMLINK else place
                moved[path] = led
                if led != place and self.kind(led) == tar.DIRECTORY:
                    continue
                moved[path] = place
            self.make_directory(place.rpartition(b"/")[0])
            item = item_of(tree, path, status, place)
            if item is not None:
                self.put(treated(item, how), over=True)

    def _copy_with_parents(
        self, tree: Tree, path: str, origin: bytes, is_directory: bool, target: bytes, how: Treatment
    ) -> None:
        """With the directories above a source, from `/./` in it on if that is there."""
        ignoring = _ignoring(how)
        before, pivot, kept = path.partition("/./")
        above = before if pivot else ""
        parts = [part for part in (kept if pivot else path).split("/") if part and part != "."]
        self.make_directory(target)
        for depth in range(1, len(parts) + (1 if is_directory else 0)):
            name = "/".join(parts[:depth])
            self._put_directory(tree, tree.resolve(os.fsencode(f"{above}/{name}")), target, name, how)
        whole = "/".join(parts)
        if is_directory:
            self._copy_content(tree, origin, _join(target, os.fsencode(whole)), how, whole)
        elif not ignoring.excludes(whole):
            status = tree.lstat(origin)
            assert status is not None
            self._put_copy(tree, origin, status, _join(target, os.fsencode(whole)), how)

    def _put_directory(self, tree: Tree, origin: bytes, target: bytes, name: str, how: Treatment) -> None:
        path = _join(target, os.fsencode(name))
        status = tree.lstat(origin)
        if self.kind(path) is None and status is not None:
            self._put_copy(tree, origin, status, path, how)

    def _copy_content(
        self, tree: Tree, origin: bytes, target: bytes, how: Treatment, above: str = ""
    ) -> None:
        """Everything below a directory but what is excluded; `above` is put before what is matched."""
        ignoring = _ignoring(how)
        start = len(origin) + 1 if origin else 0

        def relative(path: bytes) -> str:
            return posixpath.join(above, os.fsdecode(path[start:]))

        left_out: dict[bytes, os.stat_result] = {}
        for path, status in tree.walk(origin, lambda each: ignoring.skips_directory(relative(each))):
            if ignoring.excludes(relative(path)):
                if stat.S_ISDIR(status.st_mode):
                    left_out[path] = status
                continue
            for directory in _above(path, origin):
                if directory in left_out:  # something in it has been taken back in
                    self._put_copy(
                        tree, directory, left_out.pop(directory), _join(target, directory[start:]), how
                    )
            self._put_copy(tree, path, status, _join(target, path[start:]), how)

    def _put_copy(
        self, tree: Tree, origin: bytes, status: os.stat_result, target: bytes, how: Treatment
    ) -> None:
        item = item_of(tree, origin, status, target)
        if item is not None:
            self.put(treated(item, how))


def treated(item: Item, how: Treatment) -> Item:
    """The item with the owner and the mode that it shall have."""
    if how.owner is not None:
        item = replace(item, uid=how.owner[0], gid=how.owner[1])
    if how.modes is not None and item.kind != tar.SYMLINK:
        mode = how.modes.apply(item.mode, directory=item.kind == tar.DIRECTORY)
        item = replace(item, mode=mode)
    return item


def matches(tree: Tree, source: str, what: str) -> Iterator[str]:
    """The paths that a source stands for: itself, or what a pattern matches, maybe nothing.

    Raises InvalidSpec for a path that is not there.
    """
    if not has_wildcard(source):
        if tree.lstat(tree.resolve(os.fsencode(source))) is None and tree.resolve(os.fsencode(source)):
            raise InvalidSpec(
                f"{source!r} is not in {what}: expected a path relative to its root, that no ignore file "
                "leaves out"
            )
        yield source
        return
    parts = [part for part in source.split("/") if part and part != "."]
    found = [""]
    for part in parts:
        if not has_wildcard(part):
            found = [posixpath.join(path, part) for path in found]
            continue
        pattern = PathPattern(part, double_star=False)
        found = [
            posixpath.join(path, os.fsdecode(name))
            for path in found
            for name, _ in tree.names(tree.resolve(os.fsencode(path)))
            if pattern.matches(os.fsdecode(name))
        ]
    for path in found:
        if tree.lstat(tree.resolve(os.fsencode(path), last=False)) is not None:
            yield path


def _ignoring(how: Treatment) -> Ignore:
    return Ignore(how.excludes)


def _above(path: bytes, root: bytes) -> Iterator[bytes]:
    """The directories between a root and what is below it, from the top."""
    start = len(root) + 1 if root else 0
    cut = path.find(b"/", start)
    while cut >= 0:
        yield path[:cut]
        cut = path.find(b"/", cut + 1)


def _join(parent: bytes, name: bytes) -> bytes:
    return parent + b"/" + name if parent and name else parent or name
