# SPDX-License-Identifier: Apache-2.0
"""COPY and ADD: from where, to where, as whose."""

from __future__ import annotations

import os
import posixpath
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import fetching
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.build import adding
from mooring_agent.images.build.config import joined
from mooring_agent.images.build.copying import Placing, Treatment, matches, treated
from mooring_agent.images.build.items import Item
from mooring_agent.images.build.modes import Modes
from mooring_agent.images.build.owners import chown_of
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.build.work import Work
from mooring_agent.images.dockerfile.instructions import Add, Copy, InlineFile, Transfer
from mooring_agent.images.dockerfile.plan import PlannedStage

_CONTEXT = "the build context"
_INLINE_MODE = 0o644


class Transfers:
    """What COPY and ADD put on a tree. Raises InvalidSpec, Unavailable."""

    def __init__(self, work: Work, stage: PlannedStage, base: Tree, config: Mapping[str, Any]) -> None:
        self._work = work
        self._stage = stage
        self._base = base
        self._config = config

    def items(self, transfer: Transfer) -> tuple[Item, ...]:
        """Everything that an instruction, which is expanded, puts there."""
        destination = joined(self._config, transfer.destination)
        several = len(transfer.sources) + len(transfer.files) > 1
        if several and not destination.endswith("/"):
            raise InvalidSpec(
                f"several sources are to be copied to {transfer.destination!r}: expected a directory, with a "
                "slash at its end"
            )
        owner = chown_of(self._base, transfer.chown) if transfer.chown else None
        modes = Modes(transfer.chmod) if transfer.chmod else None
        placing = Placing(self._base, owner or (0, 0))
        from_elsewhere = isinstance(transfer, Copy) and bool(transfer.origin)
        how = Treatment(
            owner if owner is not None or from_elsewhere else (0, 0),
            modes,
            isinstance(transfer, Copy) and transfer.parents,
            transfer.excludes,
        )
        found = len(transfer.files)
        for file in transfer.files:
            self._put_inline(placing, file, destination, how)
        if isinstance(transfer, Add):
            found += self._add(placing, transfer, destination, how, owner, several)
        else:
            assert isinstance(transfer, Copy)
            tree, what = self._work.origin(self._stage, transfer.origin)
            for source in transfer.sources:
                found += placing.copy(tree, source, destination, how, what=what, several=several)
        if not found:
            raise InvalidSpec(f"nothing matches {' '.join(transfer.sources)}: expected one file at least")
        return placing.items

    def _put_inline(self, placing: Placing, file: InlineFile, destination: str, how: Treatment) -> None:
        target = placing.destination(destination)
        if destination.endswith("/") or placing.kind(target) == tar.DIRECTORY:
            target = b"/".join(part for part in (target, os.fsencode(file.name)) if part)
        content = file.content.encode("utf-8", "surrogateescape")
        placing.make_directory(target.rpartition(b"/")[0])
        item = Item(target, tar.REGULAR, _INLINE_MODE, size=len(content), content=content)
        placing.put(treated(item, how))

    # ADD

    def _add(
        self,
        placing: Placing,
        add: Add,
        destination: str,
        how: Treatment,
        owner: tuple[int, int] | None,
        several: bool,
    ) -> int:
        """All sources of ADD; returns how many were found."""
        remote = [one for one in add.sources if fetching.is_git(one) or fetching.is_url(one)]
        if add.checksum and (len(remote) != 1 or fetching.is_git(remote[0]) or len(add.sources) > 1):
            raise InvalidSpec("--checksum is about the one URL of a file: expected that as the only source")
        if add.keep_git_dir is not None and not any(map(fetching.is_git, remote)):
            raise InvalidSpec("--keep-git-dir is about git repositories: expected one as a source")
        found = 0
        for source in add.sources:
            if fetching.is_git(source):
                directory = self._new_directory()
                fetched = fetching.fetch_git(
                    source, directory, keep_git_dir=bool(add.keep_git_dir), stop=self._work.stop
                )
                tree = self._work.opened(fetched.directory)
                found += placing.copy(tree, fetched.name, destination, how, what=source)
            elif fetching.is_url(source):
                name = "" if destination.endswith("/") or several else posixpath.basename(destination)
                fetched = fetching.fetch_url(
                    source, add.checksum, self._new_directory(), name, self._work.stop
                )
                tree = self._work.opened(fetched.directory)
                unpack = bool(add.unpack)
                self._put_file(placing, tree, fetched.name, destination, how, owner, several, unpack, source)
                found += 1
            else:
                tree = self._work.context.tree
                for path in matches(tree, source, _CONTEXT):
                    unpack = add.unpack is not False
                    self._put_file(placing, tree, path, destination, how, owner, several, unpack, _CONTEXT)
                    found += 1
        return found

    def _put_file(
        self,
        placing: Placing,
        tree: Tree,
        path: str,
        destination: str,
        how: Treatment,
        owner: tuple[int, int] | None,
        several: bool,
        unpack: bool,
        what: str,
    ) -> None:
        """Copy a file, or what is in it if it is an archive that shall be unpacked."""
        unpacked = self._unpacked(tree, path) if unpack else None
        if unpacked is None:
            placing.copy_path(tree, path, destination, how, what=what, several=several)
            return
        placing.make_directory(placing.destination(destination))
        everything = Treatment(owner, how.modes, excludes=how.excludes)
        placing.lay_over(unpacked, placing.destination(destination), everything)

    def _unpacked(self, tree: Tree, path: str) -> Tree | None:
        """The tree in an archive; None if the file is none."""
        origin = tree.resolve(os.fsencode(path))
        status = tree.lstat(origin)
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        descriptor = tree.open(origin)
        try:
            if not adding.is_archive(descriptor):
                return None
            directory = self._new_directory()
            adding.unpack_archive(descriptor, directory)
            return self._work.opened(directory)
        finally:
            os.close(descriptor)

    def _new_directory(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self._work.scratch))
