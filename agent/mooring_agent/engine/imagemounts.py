# SPDX-License-Identifier: Apache-2.0
"""The file system of an image as something that is mounted elsewhere than at a root."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass

from ..errors import NotFound
from ..images.store import ImageStore
from ..linux import syscalls
from ..runtime.mounts import BindRoot, MountOperation, Overlay
from ..storage.snapshotter import Snapshotter

_EMPTY, _TREE = "empty", "tree"


@dataclass(frozen=True)
class LayerTree(MountOperation):
    """Layers, topmost first, as one read-only tree on the directory `target` of the calling thread's mount
    namespace, which they cover. Overlay wants two layers at least, so an empty one is among them.
    """

    layers: Overlay | BindRoot
    target: str

    def describe(self) -> str:
        """One line for people."""
        return f"{self.layers.describe()} on {self.target}"

    def execute(self, root: int) -> None:
        """Mount it. `root` is the directory `target`. Changes the working directory."""
        if isinstance(self.layers, Overlay) and len(self.layers.lower) < 2:
            syscalls.mount("tmpfs", self.target, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=0755")
            for name in (_EMPTY, _TREE):
                os.mkdir(f"{self.target}/{name}", 0o755)
            Overlay((*self.layers.lower, f"{self.target}/{_EMPTY}")).mount(f"{self.target}/{_TREE}")
            tree = f"{self.target}/{_TREE}"
            syscalls.mount(tree, self.target, None, syscalls.MS_BIND)
        else:
            self.layers.mount(self.target)


def layer_tree(images: ImageStore, snapshots: Snapshotter, image_id: str, target: str) -> LayerTree:
    """The mount of an image that is unpacked. Its layers stay as long as the image does.

    Raises NotFound.
    """
    image = images.get(image_id)
    if image.chain_id is None:
        raise NotFound(f"image {image.name} has no layers: there is nothing to mount at {target}")
    key = f"image-{uuid.uuid4().hex}"
    rootfs = snapshots.view(key, image.chain_id)
    snapshots.remove(key)
    if rootfs.bind_source is not None and not snapshots.stacked:
        return LayerTree(BindRoot(str(rootfs.bind_source)), target)
    return LayerTree(Overlay(tuple(map(str, rootfs.lower))), target)
