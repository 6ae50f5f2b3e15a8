# SPDX-License-Identifier: Apache-2.0
"""What a killed agent had begun to make or to remove goes when the next one starts."""

from __future__ import annotations

import asyncio
import shutil

from ..cgroups.hierarchy import Hierarchy
from ..config import AgentConfig
from ..storage.snapshotter import SnapshotKind, Snapshotter
from .buildruns import abandoned_group
from .mountpoints import MountPoints
from .registry import Registry
from .volumes import Volumes

_SECONDS = 5.0


class Sweeping:
    """Removes the layers, files and control groups of containers that are not."""

    def __init__(
        self,
        config: AgentConfig,
        registry: Registry,
        snapshotter: Snapshotter,
        mount_points: MountPoints,
        volumes: Volumes,
        hierarchy: Hierarchy,
    ) -> None:
        self._config = config
        self._registry = registry
        self._snapshotter = snapshotter
        self._mount_points = mount_points
        self._volumes = volumes
        self._hierarchy = hierarchy
        self._abandoned_groups: list[str] = []  # of commands of builds

    def sweep(self) -> None:
        """Remove layers and files that no container has. To be called before anything is made."""
        known = {container.id for container in self._registry}
        snapshots = self._snapshotter.list()
        self._mount_points.sweep([one.key for one in snapshots if one.kind is SnapshotKind.COMMITTED])
        for snapshot in snapshots:
            if snapshot.kind is SnapshotKind.VIEW:  # one that was looked up, see `imagemounts`
                self._snapshotter.remove(snapshot.key)
            if snapshot.kind is SnapshotKind.ACTIVE and _is_id(snapshot.key) and snapshot.key not in known:
                self._snapshotter.remove(snapshot.key)
        self._volumes.sweep()
        for directory in (self._config.data_root / "containers", self._config.run_root / "etc"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for entry in directory.iterdir():
                if _is_id(entry.name) and entry.name not in known:
                    if (group := abandoned_group(entry)) is not None:
                        self._abandoned_groups.append(group)
                    shutil.rmtree(entry, ignore_errors=True)

    async def sweep_groups(self) -> None:
        """Remove the control groups of containers that had been made ahead, and those that `sweep` found."""
        parent = self._config.cgroup_parent
        for name in self._hierarchy.group(parent).children():
            if _is_id(name) and self._registry.find(name) is None:
                self._abandoned_groups.append(f"{parent}/{name}")
        for path in self._abandoned_groups:
            await asyncio.to_thread(self._hierarchy.group(path).remove, _SECONDS)


def _is_id(text: str) -> bool:
    return len(text) == 64 and all(sign in "0123456789abcdef" for sign in text)
