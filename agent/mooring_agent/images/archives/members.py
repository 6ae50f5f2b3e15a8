# SPDX-License-Identifier: Apache-2.0
"""The files of an image archive, taken out of a stream into a directory of ours under numbers.

Names of the archive never become names on the disk, and no link is made: the links that older archives have
from one layer to another are looked up among the names. What no kind of archive needs is passed over.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.content import MAX_DOCUMENT
from mooring_agent.images.member_names import split_path
from mooring_agent.images.stream import CHUNK, HashingReader, decompress, detect, peek

_BLOB = re.compile(r"blobs/sha256/([a-f0-9]{64})")
_WANTED = re.compile(
    r"manifest\.json|index\.json|oci-layout|repositories|blobs/sha256/[^/]+"
    r"|[^/]+\.json|[^/]+\.tar|[^/]+/layer\.tar"
)
_LINKS = 8  # links followed from one name
_MAX_STREAM = 1 << 40  # bytes of a whole archive, unpacked
_MAX_MEMBERS = 100_000
_MAX_TRAILING = 64 << 20


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive: where it lies, its length in bytes, its digest."""

    path: Path
    size: int
    digest: str


class Members:
    """The files of an archive by their names."""

    def __init__(self, files: dict[str, Member], links: dict[str, str]) -> None:
        self._files = files
        self._links = links
        self._by_digest = {member.digest: member for member in files.values()}

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def get(self, name: str) -> Member:
        """A file by its name; raises InvalidSpec when the archive has it not."""
        found = self._find(name)
        if found is None:
            raise InvalidSpec(f"the archive has no file {name[:200]!r}, which it speaks of: it is damaged")
        return found

    def by_digest(self, digest: str) -> Member | None:
        """A file by what is in it."""
        return self._by_digest.get(digest)

    def document(self, name: str) -> bytes:
        """The bytes of a small file."""
        member = self.get(name)
        if member.size > MAX_DOCUMENT:
            raise InvalidSpec(
                f"{name[:200]!r} in the archive has {member.size} bytes, at most {MAX_DOCUMENT}"
            )
        return member.path.read_bytes()

    def _find(self, name: str) -> Member | None:
        name = posixpath.normpath(name)
        for _ in range(_LINKS):
            if name in self._files:
                return self._files[name]
            target = self._links.get(name)
            if target is None:
                return None
            name = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
        return None


def take_out(
    chunks: Iterator[bytes], directory: Path, watch: Callable[[int], None] = lambda count: None
) -> Members:
    """Read an archive, plain or packed, to its end; `watch` is told how many bytes were read so far.

    Raises InvalidSpec for what is damaged or hostile: names that lead out, a name twice, links other than
    those between layers, a blob that is not what its name says. OSError when the disk is full.
    """
    head, whole = peek(chunks)
    with closing(decompress(whole, detect(head))) as plain:
        reader = HashingReader(plain, _MAX_STREAM)
        files: dict[str, Member] = {}
        links: dict[str, str] = {}
        count = 0
        for count, entry in enumerate(tar.read_entries(reader), 1):
            if count > _MAX_MEMBERS:
                raise InvalidSpec(f"the archive has more than the limit of {_MAX_MEMBERS} members")
            watch(reader.position)
            name = _name(entry)
            if entry.kind == tar.DIRECTORY or not name:
                continue
            if name in files or name in links:
                raise InvalidSpec(f"the archive has {name!r} twice: it is refused as ambiguous")
            if entry.kind == tar.SYMLINK and name.endswith(".tar"):
                links[name] = _link(name, entry)
            elif entry.kind != tar.REGULAR:
                raise InvalidSpec(
                    f"the archive has {name!r} of type {entry.kind.decode(errors='replace')!r}: expected "
                    "files and directories"
                )
            elif _WANTED.fullmatch(name):
                files[name] = _take(reader, entry, name, directory / str(count), watch)
        reader.drain(_MAX_TRAILING)
    if not files:
        raise InvalidSpec("the archive has no images in it: expected one of docker save, or of OCI")
    return Members(files, links)


def _name(entry: tar.TarEntry) -> str:
    if entry.path.startswith(b"/") or b".." in entry.path.split(b"/"):
        raise InvalidSpec(f"archive member {entry.path[:200]!r} leads out of the archive: it is hostile")
    parent, name = split_path(entry.path)
    try:
        return (parent + b"/" + name if parent else name).decode()
    except UnicodeDecodeError:
        raise InvalidSpec(f"archive member {entry.path[:200]!r} has a name that is no text") from None


def _link(name: str, entry: tar.TarEntry) -> str:
    """Where a link of a layer to another one leads; it has to stay in the archive."""
    target = entry.link.decode(errors="replace")
    whole = posixpath.normpath(posixpath.join(posixpath.dirname(name), target))
    if target.startswith("/") or whole == ".." or whole.startswith("../"):
        raise InvalidSpec(f"link {name!r} leads out of the archive, to {target[:200]!r}: it is hostile")
    return target


def _take(
    reader: HashingReader, entry: tar.TarEntry, name: str, path: Path, watch: Callable[[int], None]
) -> Member:
    if entry.parts is not None:
        raise InvalidSpec(
            f"archive member {name!r} is a sparse file: expected plain files in such an archive"
        )
    digest, left = hashlib.sha256(), entry.size
    with open(path, "xb", buffering=0) as file:
        while left:
            chunk = reader.read(min(left, CHUNK))
            if not chunk:
                raise InvalidSpec(f"the archive ends within {name!r}: it is truncated")
            digest.update(chunk)
            left -= len(chunk)
            rest = memoryview(chunk)
            while rest:
                rest = rest[os.write(file.fileno(), rest) :]
            watch(reader.position)
        os.fsync(file.fileno())
    member = Member(path, entry.size, f"sha256:{digest.hexdigest()}")
    expected = _BLOB.fullmatch(name)
    if expected is not None and member.digest != f"sha256:{expected[1]}":
        raise InvalidSpec(
            f"blob {name} in the archive is {member.digest}: it is damaged, or not what it says"
        )
    return member
