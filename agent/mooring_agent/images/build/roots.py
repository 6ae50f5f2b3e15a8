# SPDX-License-Identifier: Apache-2.0
"""The trees of images and stages, held as long as a build needs them."""

from __future__ import annotations

import threading
import uuid
from contextlib import ExitStack
from pathlib import Path

from mooring_agent.images.build.tree import Tree
from mooring_agent.images.ingest import temporary_snapshot
from mooring_agent.storage.snapshotter import Snapshotter


class Roots:
    """Trees by chain ID; "" is an empty tree. Close it at the end of the build. For several threads.

    A temporary snapshot keeps the layers of each from being removed; a killed process leaves none.
    """

    def __init__(self, snapshots: Snapshotter) -> None:
        self._snapshots = snapshots
        self._held = ExitStack()
        self._lock = threading.Lock()
        self._trees: dict[str, Tree] = {}

    def tree(self, chain: str) -> Tree:
        """What a container on these layers would see."""
        with self._lock:
            tree = self._trees.get(chain)
            if tree is None:
                tree = self._trees[chain] = Tree(self._directories(chain))
                self._held.callback(tree.close)
            return tree

    def close(self) -> None:
        """Let go of all trees."""
        self._held.close()

    def _directories(self, chain: str) -> tuple[Path, ...]:
        if not chain:
            return ()
        key = f"build-{uuid.uuid4().hex}"
        target = self._held.enter_context(temporary_snapshot(self._snapshots, key, chain))
        return target.parents or (target.directory,)
