# SPDX-License-Identifier: Apache-2.0
"""The mounts of a RUN: what of them the cache depends on, and what they are while the command runs."""

from __future__ import annotations

import os
import posixpath
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mooring_agent.errors import InvalidSpec, NotFound, NotSupported
from mooring_agent.images.build.cachemounts import CacheMounts
from mooring_agent.images.build.items import Item, archive_items, digest_items, item_of
from mooring_agent.images.build.running import RunBind, RunFile, RunMount, RunTmpfs
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.dockerfile.mounts import Mount, MountKind, Sharing
from mooring_agent.images.layers import apply_layer
from mooring_agent.images.turns import Stop
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle

_SECRETS = "/run/secrets"
_SECRET_MODE = 0o400
_CACHE_MODE = 0o755
_BIND_MODE = 0o755

Origin = Callable[[str], tuple[Tree, str]]
"""The tree of a stage or image by its name, "" for the context, and what to call it in a message."""


@dataclass(frozen=True, slots=True)
class Mounting:
    """What the mounts of one instruction have around them. `workdir` is absolute."""

    mounts: tuple[Mount, ...]
    workdir: str
    origin: Origin
    secrets: Mapping[str, bytes]
    caches: CacheMounts
    scratch: Path

    def facts(self) -> list[Any]:
        """What the result of the command may depend on, as JSON values: no secrets, no content of caches."""
        found: list[Any] = []
        for mount in self.mounts:
            facts: list[Any] = [mount.kind.value, self.target(mount), mount.read_only]
            if mount.kind is MountKind.BIND:
                tree, path = self._source(mount)
                facts += [digest_items(_content(tree, path)), path == b""]
            elif mount.kind is MountKind.CACHE:
                facts += [self._cache_name(mount), mount.mode, mount.uid, mount.gid]
            elif mount.kind is MountKind.SECRET:
                facts += [mount.secret_id, mount.env, mount.mode, mount.uid, mount.gid, mount.required]
            elif mount.kind is MountKind.TMPFS:
                facts.append(mount.size)
            found.append(facts)
        return found

    def check(self) -> None:
        """Raise what cannot be mounted, before anything else is done."""
        for mount in self.mounts:
            if mount.kind is MountKind.SSH:
                raise NotSupported(
                    "--mount=type=ssh is not supported: no ssh agent is forwarded to builds; give a key "
                    "as a secret (--mount=type=secret) instead"
                )
            if mount.kind is MountKind.SECRET and mount.required and mount.secret_id not in self.secrets:
                raise NotFound(
                    f"secret {mount.secret_id} is required and was not given: give it with "
                    f"--secret id={mount.secret_id},src=FILE"
                )
            if self.target(mount) == "/" and mount.env is None:
                raise InvalidSpec("--mount: the target is the root directory: expected one below it")

    def target(self, mount: Mount) -> str:
        """Where a mount goes, absolute."""
        if mount.kind is MountKind.SECRET and not mount.target:
            return f"{_SECRETS}/{mount.secret_id}"
        return posixpath.normpath(posixpath.join("/", self.workdir, mount.target))

    def environment(self) -> dict[str, str]:
        """The variables that are secrets."""
        return {
            mount.env: self.secrets[mount.secret_id].decode("utf-8", "surrogateescape")
            for mount in self.mounts
            if mount.env is not None and mount.secret_id in self.secrets
        }

    def ready(self, held: ExitStack, stop: Stop) -> Iterator[RunMount]:
        """Yield the mounts, those above first; what they need is kept until `held` is closed."""
        caches = self._caches(held, stop)
        for mount in sorted(self.mounts, key=lambda one: self.target(one).count("/")):
            target = self.target(mount)
            if mount.kind is MountKind.TMPFS:
                yield RunTmpfs(target, mount.size)
            elif mount.kind is MountKind.BIND:
                yield self._bind(mount, target)
            elif mount.kind is MountKind.CACHE:
                yield RunBind(target, (caches[self._cache_name(mount)],), mount.read_only)
            elif mount.secret_id in self.secrets and (mount.env is None or mount.target):
                mode = _SECRET_MODE if mount.mode is None else mount.mode
                content = self.secrets[mount.secret_id]
                yield RunFile(target, content, mode, mount.uid or 0, mount.gid or 0)

    def _caches(self, held: ExitStack, stop: Stop) -> dict[str, Path]:
        """The directories of all caches by name, each once; all builds lock them in the same order."""
        named = {self._cache_name(mount): mount for mount in self.mounts if mount.kind is MountKind.CACHE}
        found = {}
        for name, mount in sorted(named.items(), key=lambda one: one[0]):
            sharing = mount.sharing or Sharing.SHARED
            found[name] = held.enter_context(self.caches.use(name, sharing, partial(self._fill, mount), stop))
        return found

    def _bind(self, mount: Mount, target: str) -> RunBind:
        tree, path = self._source(mount)
        if mount.read_only:
            return RunBind(target, tree.places(path), True)
        # What is written is dropped, so it goes to a copy.
        copy = Path(tempfile.mkdtemp(dir=self.scratch))
        copy.chmod(_BIND_MODE)
        _copy_out(_content(tree, path), copy)
        status = tree.lstat(path)
        if status is not None and not stat.S_ISDIR(status.st_mode):
            return RunBind(target, (copy / os.fsdecode(path.rpartition(b"/")[2]),), False)
        if status is not None:
            os.chown(copy, status.st_uid, status.st_gid)
            os.chmod(copy, stat.S_IMODE(status.st_mode))
        return RunBind(target, (copy,), False)

    def _fill(self, mount: Mount, directory: Path) -> None:
        """The first content of a cache."""
        if mount.origin:
            tree, path = self._source(mount)
            _copy_out(_content(tree, path), directory)
        os.chown(directory, mount.uid or 0, mount.gid or 0)
        os.chmod(directory, _CACHE_MODE if mount.mode is None else mount.mode)

    def _cache_name(self, mount: Mount) -> str:
        return f"{mount.id or self.target(mount)}\n{mount.origin}\n{mount.source if mount.origin else ''}"

    def _source(self, mount: Mount) -> tuple[Tree, bytes]:
        tree, what = self.origin(mount.origin)
        path = tree.resolve(os.fsencode(mount.source))
        if path and tree.lstat(path) is None:
            raise InvalidSpec(f"--mount: {mount.source!r} is not in {what}")
        return tree, path


def _content(tree: Tree, path: bytes) -> Iterator[Item]:
    """What is at a path, by names relative to it; of a file the file itself."""
    status = tree.lstat(path)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        item = item_of(tree, path, status, path.rpartition(b"/")[2])
        if item is not None:
            yield item
        return
    start = len(path) + 1 if path else 0
    for child, found in tree.walk(path):
        item = item_of(tree, child, found, child[start:])
        if item is not None:
            yield item


def _copy_out(items: Iterator[Item], directory: Path) -> None:
    apply_layer(archive_items(items), UnpackTarget(directory, WhiteoutStyle.DELETE, ()))
