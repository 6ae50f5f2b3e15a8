# SPDX-License-Identifier: Apache-2.0
"""A build context that nobody sends: it is fetched, from a git repository or as a file over HTTP.

A file is a tar archive, packed or not, or else the text of a Dockerfile that needs no context.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.context import LONGEST, archive_context
from mooring_agent.images.build.reporting import OUTPUT
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.fetching import Download, fetch_git, is_git, is_url
from mooring_agent.images.image import Progress, ProgressEvent
from mooring_agent.images.stream import Compression, detect, peek
from mooring_agent.images.turns import Stop

_HEAD = 512  # bytes of a tar archive's first header
_MAGIC = slice(257, 262)
_EMPTY = bytes(1024)  # an archive without members


def check_remote(address: str) -> None:
    """Raises InvalidSpec unless a context could be fetched from this address."""
    if not (is_git(address) or is_url(address)):
        raise InvalidSpec(
            f"remote context {address!r} is not usable: expected http:// or https:// and a Dockerfile or an "
            "archive, or the address of a git repository, such as "
            "https://host/repository.git#branch:directory"
        )


def remote_context(
    address: str, dockerfile: str, scratch: Path, held: ExitStack, stop: Stop, progress: Progress
) -> tuple[Iterator[bytes], bytes | None]:
    """The archive of a context, and the Dockerfile where the archive has none.

    What is open is closed with `held`, and what a repository has comes into a directory of its own in
    `scratch`. Raises InvalidSpec, MissingProgram, Unavailable, Cancelled.
    """

    def tell(event: ProgressEvent) -> None:
        total = f" of {event.total}" if event.total else ""
        progress(ProgressEvent(OUTPUT, detail=f"{event.detail}: {event.current}{total} bytes\n"))

    if is_git(address):
        directory = Path(tempfile.mkdtemp(dir=scratch))
        fetched = fetch_git(address, directory, keep_git_dir=False, stop=stop)
        return archive_context(_within(address, fetched.directory, fetched.name), dockerfile), None
    download = held.enter_context(closing(Download(address, stop, tell)))
    head, whole = peek(download.pieces(), _HEAD)
    if detect(head[:6]) is not Compression.NONE or head[_MAGIC] == b"ustar":
        return whole, None
    return iter((_EMPTY,)), _text(address, whole)


def _within(address: str, directory: Path, name: str) -> Path:
    """A directory of a repository, whose links lead nowhere else."""
    with closing(Tree((directory,))) as tree:
        path = tree.resolve(os.fsencode(name))
        found = tree.lstat(path)
    if found is None or not stat.S_ISDIR(found.st_mode):
        raise InvalidSpec(f"{address} has no directory {name!r}: expected one that is in the repository")
    return directory / os.fsdecode(path)


def _text(address: str, pieces: Iterator[bytes]) -> bytes:
    """The Dockerfile that is all of a file."""
    text = bytearray()
    for piece in pieces:
        text += piece
        if len(text) > LONGEST:
            break
    try:
        if len(text) <= LONGEST and b"\0" not in text:
            text.decode("utf-8")
            return bytes(text)
    except UnicodeDecodeError:
        pass
    raise InvalidSpec(
        f"{address} is neither a tar archive nor a Dockerfile of at most {LONGEST} bytes: expected one "
        "of these"
    )
