# SPDX-License-Identifier: Apache-2.0
"""The images of a host: their content, their names, their layers as snapshots."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mooring_agent.errors import Conflict, InvalidSpec, NotFound, Unavailable
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.image import Image, Progress, no_progress
from mooring_agent.images.layers import Limits
from mooring_agent.images.leases import Lease
from mooring_agent.images.making import Maker
from mooring_agent.images.platform import OS, Platform
from mooring_agent.images.pulling import PARALLEL, Puller
from mooring_agent.images.reference import Reference
from mooring_agent.images.specs import TemplateSpec
from mooring_agent.images.state import StoreState
from mooring_agent.images.transfer import Source
from mooring_agent.images.turns import Stop
from mooring_agent.images.readying import ensure_layers
from mooring_agent.storage.snapshotter import Snapshotter


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did: long names taken away, IDs of images deleted, bytes of disk that it freed."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]


class ImageStore:
    """Images on disk: an OCI image layout for the content, a snapshotter for the layers.

    All methods may be called from any thread. `get` is a lookup in memory. A process killed at any point
    leaves an image wholly there or not at all; what was half made is deleted when the store is opened
    again, but for the parts of a pull, with which it goes on (see leases.py).
    """

    def __init__(
        self, root: Path, snapshotter: Snapshotter, *, in_use: Callable[[], AbstractSet[str]] = frozenset
    ) -> None:
        """Open the store below `root`, made if absent; `in_use` tells the IDs that containers use."""
        self._state = StoreState(root, snapshotter, in_use)
        self._maker = Maker(self._state)

    def get(self, reference: str) -> Image:
        """Return the image of a name, an ID or the beginning of an ID.

        Raises NotFound, Conflict (`ambiguous`) listing the candidates, or Unavailable when it is there but
        damaged.
        """
        try:
            return self._state.holdings.catalogue.get(reference)
        except NotFound:
            if self._state.holdings.broken:
                name = str(Reference.parse(reference))
                damaged = self._state.holdings.broken_names().get(name)
                if damaged is not None:
                    raise Unavailable(f"image {name} is damaged: {damaged.reason}") from None
            raise

    def list(self) -> tuple[Image, ...]:
        """All images, newest first."""
        with self._state.lock:
            return tuple(self._state.holdings.catalogue.images())

    def tag(self, image: str, reference: str) -> Image:
        """Give an image one more name; an image that bore it loses it."""
        name = _taggable(reference)
        with self._state.lock:
            found = self.get(image)
            if name in found.references:
                return found
            named = self._state.holdings.name(found, (name,))
            self._state.save()
            return named

    def remove(self, reference: str, *, force: bool = False) -> Removed:
        """Take a name away, and with the last one the image and the layers that nothing else uses.

        Given an ID, an image with several names needs `force`. An image that a container uses is not
        deleted: Conflict, or with `force` it only loses its name. The digest by which a repository's image
        was pulled goes with the last tag of that repository.
        """
        used = self._state.in_use()
        with self._state.lock:
            image = self.get(reference)
            holdings = self._state.holdings
            name = holdings.catalogue.named(reference)
            every = holdings.names_of(image.id)
            leaving = every if name is None else _with_digests(name, every)
            staying = set(every) - set(leaving)
            if name is None and len({name for name in leaving if "@" not in name}) > 1 and not force:
                raise Conflict(
                    f"image {reference} has the names {_familiar(leaving)}: remove it by name or with force"
                )
            delete = not staying and image.id not in used
            if not staying and not delete and not (force and leaving):
                raise Conflict(
                    f"image {image.name} ({image.id[7:19]}) is in use by a container: remove that first"
                )
            if delete:
                holdings.discard(image.id)
            else:
                holdings.unname(leaving)
            self._state.save()
            self._state.collect()
            return Removed(tuple(leaving), (image.id,) if delete else ())

    def prune(self) -> Removed:
        """Delete the images that have no name and that no container uses."""
        used = self._state.in_use()
        with self._state.lock:
            unnamed = [
                image.id
                for image in self._state.holdings.catalogue.images()
                if not image.references and image.id not in used
            ]
            for image_id in unnamed:
                self._state.holdings.discard(image_id)
            if unnamed:
                self._state.save()
                self._state.collect()
            return Removed((), tuple(unnamed))

    def pull(
        self,
        source: Source,
        reference: str,
        *,
        platform: Platform | None = None,
        parallel: int = PARALLEL,
        progress: Progress = no_progress,
        cancelled: threading.Event | None = None,
        limits: Limits | None = None,
    ) -> Image:
        """Get an image from the repository of its name and register it under that name.

        What is here already is not fetched again; a pull that broke off, or was cancelled by the event, is
        gone on with by the next one within a day. Without `platform` the image must be one that this host
        runs. Raises InvalidSpec for an image that is damaged, hostile or none, NotFound for one that is not
        there or not for the platform (`no_platform`), Unavailable when the source breaks off or the disk is
        full, Cancelled.
        """
        name = Reference.parse(reference)
        asked = name.digest or name.tag
        assert asked is not None
        with self._moving(f"pull of {name.familiar}", durable=True) as lease:
            puller = Puller(
                self._state,
                source,
                lease,
                Stop(f"the pull of {name.familiar}", cancelled),
                progress,
                name=name.familiar,
                parallel=parallel,
                limits=limits,
            )
            holding = puller.pull(asked, platform, name.digest)
            image = self._state.register(holding, (_pulled_name(name),))
            self._state.origins.add(holding.digests(), name.repository)
            self._state.origins.save(self._state.content.digests())
            return image

    def import_rootfs(
        self,
        source: Path | BinaryIO,
        reference: str | None = None,
        config: ImageConfig | None = None,
        progress: Progress = no_progress,
        *,
        architecture: str | None = None,
        operating_system: str = OS,
        comment: str = "",
        limits: Limits | None = None,
    ) -> Image:
        """Make an image of one layer from a tar archive, plain or packed, a stream of one, or a directory.

        The architecture is found out from the programs in it unless given. Importing the same content with
        the same config again gives the same image. Raises InvalidSpec naming the source for what cannot be
        read as a root file system, Unavailable when the disk is full or the source fails.
        """
        return self._maker.import_rootfs(
            source,
            _names(reference),
            config or ImageConfig(),
            progress,
            architecture=architecture,
            operating_system=operating_system,
            comment=comment,
            limits=limits,
        )

    def from_template(
        self,
        template: TemplateSpec,
        reference: str | None = None,
        config: ImageConfig | None = None,
        progress: Progress = no_progress,
    ) -> Image:
        """Make an image from a template; what was built before from the same things is not built again.

        Raises MissingProgram naming the package that the host lacks.
        """
        return self._maker.from_template(template, _names(reference), config or ImageConfig(), progress)

    def ensure_unpacked(self, image: Image, progress: Progress = no_progress) -> str:
        """Return the snapshot to prepare a container on; a lookup, unless layers have to be unpacked again.

        Raises Unavailable when a blob that is needed for that is damaged or gone, NotFound for an image
        without layers.
        """
        if image.chain_id is None:
            raise NotFound(f"image {image.name} has no layers, so there is nothing to run in it")
        if not self._state.has_layer(image.chain_id):
            with self._state.lock:
                holdings = self._state.holdings.of_image(image.id)
            if not holdings:
                raise NotFound(f"no such image any more: {image.name}")
            ensure_layers(self._state, holdings[-1], progress)
        return image.chain_id

    @contextmanager
    def _moving(self, what: str, *, durable: bool = False) -> Iterator[Lease]:
        """Hold a lease for a work, and collect what it leaves, whether it succeeds or fails."""
        try:
            with self._state.leases.hold(what, durable=durable) as lease:
                yield lease
        finally:
            self._state.collect()


def _names(reference: str | None) -> tuple[str, ...]:
    return (_taggable(reference),) if reference is not None else ()


def _taggable(reference: str) -> str:
    name = Reference.parse(reference)
    if name.digest is not None:
        raise InvalidSpec(f"image name {reference!r} has a digest in it: expected a name and a tag only")
    return str(name)


def _pulled_name(name: Reference) -> str:
    """The name to register what was pulled under: with a tag, or by digest alone."""
    return f"{name.repository}@{name.digest}" if name.digest is not None else str(name)


def _with_digests(name: str, every: Sequence[str]) -> tuple[str, ...]:
    """A name that goes, and those by digest of its repository when no tag of that is left."""
    repository = Reference.parse(name).repository
    beside = [other for other in every if other != name and Reference.parse(other).repository == repository]
    return (name, *beside) if all("@" in other for other in beside) else (name,)


def _familiar(names: Sequence[str]) -> str:
    return ", ".join(Reference.parse(name).familiar for name in names)
