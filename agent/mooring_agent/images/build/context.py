# SPDX-License-Identifier: Apache-2.0
"""The build context: a directory as a tar stream, and a tar stream as a directory that is private to a build.

What arrives is hostile as layers are: it is unpacked through descriptors with RESOLVE_IN_ROOT (layers.py). An
ignore file is heeded on both sides: by who sends, to send less, and by who receives, who cannot know.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.items import Item, archive_items, digest_items, item_of
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.dockerfile.ignore import Ignore
from mooring_agent.images.stream import detect, peek
from mooring_agent.images.unpacking import unpack_layer
from mooring_agent.storage.changes import is_opaque, is_whiteout
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle

DOCKERFILE = "Dockerfile"
_IGNORE = ".dockerignore"
LONGEST = 4 << 20
"""Bytes of a Dockerfile or an ignore file."""


@dataclass(frozen=True, slots=True)
class Context:
    """A context that has arrived: its tree without what is ignored, and the text of the Dockerfile."""

    tree: Tree
    dockerfile: bytes


def archive_context(directory: Path, dockerfile: str = DOCKERFILE) -> Generator[bytes, None, None]:
    """Yield a directory as the tar archive of a context, without what its ignore file leaves out.

    The Dockerfile and the ignore file are always in it. Owners and extended attributes are not. Raises
    InvalidSpec when it is no directory or the ignore file is not valid.
    """
    with _gathered(directory, dockerfile) as items:
        yield from archive_items(items)


def digest_context(directory: Path, dockerfile: str = DOCKERFILE) -> str:
    """What tells a directory, as `archive_context` takes it, from one with other content; times do not count.

    Raises InvalidSpec as that does.
    """
    with _gathered(directory, dockerfile) as items:
        return digest_items(items)


@contextmanager
def _gathered(directory: Path, dockerfile: str) -> Iterator[list[Item]]:
    if not directory.is_dir():
        raise InvalidSpec(f"the build context {directory} is no directory: expected one with a Dockerfile")
    tree = Tree((directory,))
    try:
        ignoring, ignore_file = _read_ignore(tree, dockerfile)
        always = {name for name in (dockerfile, ignore_file) if name}
        items: dict[bytes, Item] = {}
        for path, status in tree.walk(b"", lambda each: ignoring.skips_directory(os.fsdecode(each))):
            if ignoring.excludes(os.fsdecode(path)):
                continue
            _take(items, tree, path, status)
        for name in always:
            path = tree.resolve(os.fsencode(name), last=False)
            found = tree.lstat(path)
            if found is not None:
                _take(items, tree, path, found)
        yield list(items.values())
    finally:
        tree.close()


def receive_context(
    chunks: Iterator[bytes], directory: Path, dockerfile: str = DOCKERFILE, text: bytes | None = None
) -> Context:
    """Unpack a context into an empty directory, and take away what its ignore file leaves out.

    `text` is the Dockerfile if it is not in the context. Raises InvalidSpec for a bad archive, one without
    the Dockerfile, a bad ignore file; Unavailable when the disk is full.
    """
    head, whole = peek(chunks)
    unpack_layer(whole, UnpackTarget(directory, WhiteoutStyle.OVERLAY, ()), detect(head))
    _refuse_whiteouts(directory)
    tree = Tree((directory,))
    try:
        if text is None:
            text = _read(tree, dockerfile)
            if text is None:
                raise InvalidSpec(
                    f"the build context has no file {dockerfile!r}: expected a Dockerfile there, or the name "
                    "of another one"
                )
        ignoring, _ = _read_ignore(tree, dockerfile)
        _prune(tree, directory, ignoring)
    finally:
        tree.close()
    return Context(Tree((directory,)), text)


def _refuse_whiteouts(directory: Path) -> None:
    """In a layer names that begin with .wh. remove others; in a context they would be files that get lost."""
    for top, directories, files in os.walk(directory):
        marked = [name for name in files if is_whiteout(os.lstat(os.path.join(top, name)))]
        marked += [
            f"{name}/.wh..wh..opq"
            for name in directories
            if not os.path.islink(path := os.path.join(top, name)) and is_opaque(os.fsencode(path))
        ]
        if marked:
            name = os.path.relpath(os.path.join(top, marked[0]), directory)
            raise InvalidSpec(
                f"the build context removes {name!r}, as layers do with names that begin with .wh.: rename "
                "that file, or leave it out with an ignore file"
            )


def _read_ignore(tree: Tree, dockerfile: str) -> tuple[Ignore, str]:
    """The ignore file of a Dockerfile, or else that of the context, and its name, "" if there is none."""
    for name in (f"{dockerfile}{_IGNORE}", _IGNORE):
        text = _read(tree, name)
        if text is not None:
            return Ignore.parse(text, name), name
    return Ignore(()), ""


def _read(tree: Tree, name: str) -> bytes | None:
    path = tree.resolve(os.fsencode(name))
    status = tree.lstat(path)
    if status is None or not path:
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > LONGEST:
        raise InvalidSpec(f"{name!r} in the build context is no file of at most {LONGEST} bytes")
    with open(tree.open(path), "rb") as file:
        return file.read(LONGEST)


def _take(items: dict[bytes, Item], tree: Tree, path: bytes, status: os.stat_result) -> None:
    item = item_of(tree, path, status, path)
    if item is not None:
        items[path] = replace(item, uid=0, gid=0, xattrs=())


def _prune(tree: Tree, directory: Path, ignoring: Ignore) -> None:
    """Delete what is ignored; a directory stays if something in it is taken back in."""
    emptied: list[bytes] = []
    for path, status in list(tree.walk(b"", lambda each: ignoring.skips_directory(os.fsdecode(each)))):
        name = os.fsdecode(path)
        if not ignoring.excludes(name):
            continue
        if not stat.S_ISDIR(status.st_mode):
            os.unlink(directory / name)
        elif ignoring.skips_directory(name):
            shutil.rmtree(directory / name)
        else:
            emptied.append(path)
    for path in reversed(emptied):
        if not os.listdir(directory / os.fsdecode(path)):
            os.rmdir(directory / os.fsdecode(path))
