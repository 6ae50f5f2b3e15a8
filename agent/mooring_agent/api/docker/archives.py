# SPDX-License-Identifier: Apache-2.0
"""`docker cp`: GET, HEAD and PUT of `/containers/{id}/archive`."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import InvalidSpec
from ..messages import HeaderList, Reply, Request, Response, Stream
from ..router import Need, Route
from ..timestamps import rfc3339

if TYPE_CHECKING:
    from ...engine.containerfiles import FileStatus
    from ...engine.engine import Engine

_TAR = "application/x-tar"
_STATUS = "X-Docker-Container-Path-Stat"
# Kinds of files and special bits by st_mode as Go's io/fs.FileMode has them.
_KINDS = {
    stat.S_IFDIR: 1 << 31,
    stat.S_IFLNK: 1 << 27,
    stat.S_IFBLK: 1 << 26,
    stat.S_IFIFO: 1 << 25,
    stat.S_IFSOCK: 1 << 24,
    stat.S_IFCHR: 1 << 26 | 1 << 21,
}
# Nanoseconds; a container may give its files times of any year, and RFC 3339 has four digits for that.
_FIRST, _LAST = -30_610_224_000 * 10**9, 253_402_300_799 * 10**9
_BITS = {stat.S_ISUID: 1 << 23, stat.S_ISGID: 1 << 22, stat.S_ISVTX: 1 << 20}


class ArchiveCalls:
    """Calls that copy files out of containers and into them."""

    def __init__(self, engine: Engine) -> None:
        self._files = engine.files

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        path = "/containers/{id}/archive"
        yield Route("HEAD", path, self.status, versioned=True, needs=Need.ALL)
        yield Route("GET", path, self.read, versioned=True, needs=Need.ALL)
        yield Route("PUT", path, self.write, versioned=True, needs=Need.ALL)

    async def status(self, request: Request) -> Reply:
        """What is at a path, told in a header."""
        found = await self._files.status(request.params["id"], _path(request))
        return Response(200, headers=_told(found))

    async def read(self, request: Request) -> Reply:
        """A tar archive of what is at a path."""
        found, pieces = await self._files.read(request.params["id"], _path(request))
        return Stream(pieces, _TAR, headers=_told(found))

    async def write(self, request: Request) -> Reply:
        """Unpack the archive in the body into the directory at a path."""
        path = _path(request)
        query = request.query
        await self._files.write(
            request.params["id"],
            path,
            request.body,
            keep_kinds=query.flag("noOverwriteDirNonDir"),
            for_user=query.flag("copyUIDGID"),
        )
        return Response(200)


def _path(request: Request) -> str:
    path = request.query.text("path")
    if not path:
        raise InvalidSpec("path is missing: name a file or directory of the container")
    if "\0" in path:
        raise InvalidSpec("path has a NUL byte in it, which no name can have; remove it")
    return path


def _told(found: FileStatus) -> HeaderList:
    described = {
        "name": found.name,
        "size": found.size,
        "mode": go_mode(found.mode),
        "mtime": rfc3339(min(max(found.mtime_ns, _FIRST), _LAST)),
        "linkTarget": found.target,
    }
    return [(_STATUS, base64.b64encode(json.dumps(described).encode()).decode("ascii"))]


def go_mode(mode: int) -> int:
    """st_mode as Go writes it. Pure."""
    special = sum(go for bit, go in _BITS.items() if mode & bit)
    return mode & 0o777 | special | _KINDS.get(stat.S_IFMT(mode), 0)
