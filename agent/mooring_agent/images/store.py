# SPDX-License-Identifier: Apache-2.0
"""The images of a host: their content, their names, their layers as snapshots."""

from __future__ import annotations

import builtins
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mooring_agent.errors import InvalidSpec, NotFound, Unavailable
from mooring_agent.images.archives.loading import load
from mooring_agent.images.archives.writing import Saved, select, write_archive
from mooring_agent.images.committing import Commit, commit
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.content import Descriptor
from mooring_agent.images.exporting import export_rootfs
from mooring_agent.images.image import Image, Progress, no_progress
from mooring_agent.images.layers import Limits
from mooring_agent.images.leases import Lease
from mooring_agent.images.making import Maker, built_at
from mooring_agent.images.peering.flights import Flights
from mooring_agent.images.peering.shelf import Shelf
from mooring_agent.images.platform import OS, Platform
from mooring_agent.images.pruning import PruneFilter, Removed, prune, remove
from mooring_agent.images.pulling import PARALLEL, Puller
from mooring_agent.images.pushing import push
from mooring_agent.images.readying import ensure_layers
from mooring_agent.images.reference import Reference
from mooring_agent.images.specs import TemplateSpec
from mooring_agent.images.state import StoreState
from mooring_agent.images.transfer import Sink, Source
from mooring_agent.images.turns import Stop
from mooring_agent.images.usage import DiskUsage, HistoryEntry, measure, tell_history
from mooring_agent.images.verifying import OpenRepository, Verdict, Verifier
from mooring_agent.storage.snapshotter import Change, Snapshotter

__all__ = ["ImageStore", "Removed"]


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

    @property
    def state(self) -> StoreState:
        """The store's parts, for what makes images in a way of its own (build/)."""
        return self._state

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

    def pointed(self, reference: str) -> tuple[Descriptor, Descriptor]:
        """What a name points to, an image or an index, and the manifest of the image that is here of it.

        Raises NotFound.
        """
        name = Reference.parse(reference)
        with self._state.lock:
            holding = self._state.holdings.by_name(_pulled_name(name))
        if holding is None:
            raise NotFound(f"no such image: {name.familiar}")
        return holding.top, holding.manifest.descriptor

    def list(self) -> tuple[Image, ...]:
        """All images, newest first; like `get`, it waits for nobody who changes them."""
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
            self._state.collect()  # the manifest that bore the name may be needed no more
            return named

    def remove(self, reference: str, *, force: bool = False) -> Removed:
        """Take a name away, and with the last one the image and the layers that nothing else uses.

        Given an ID, an image with several names needs `force`. An image that a container uses is not
        deleted: Conflict, or with `force` it only loses its name. The digest by which a repository's image
        was pulled goes with the last tag of that repository.
        """
        used = self._state.in_use()
        with self._state.lock:
            return remove(self._state, self.get(reference), reference, used, force=force)

    def prune(self, wanted: PruneFilter | None = None, *, dry_run: bool = False) -> Removed:
        """Delete images that no container uses, those without a tag unless `wanted` says more.

        What broken-off pulls left to go on with goes too, and is in the bytes freed. With `dry_run` nothing
        goes, and no bytes are told.
        """
        used = self._state.in_use()
        with self._state.lock:
            return prune(self._state, wanted or PruneFilter(), used, dry_run=dry_run)

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

    def push(
        self,
        sink: Sink,
        reference: str,
        *,
        to: str | None = None,
        parallel: int = PARALLEL,
        progress: Progress = no_progress,
        cancelled: threading.Event | None = None,
    ) -> str:
        """Send the image of a name to the repository of that name; returns the digest of its manifest.

        With `to` it is sent under that name, which need not be one of it here, and may be given by its ID.
        Blobs that are there are not sent, nor those that another repository of the same host is known to
        have. Of an index the image that is here goes. Raises NotFound for a name that is not here, what the
        sink raises, Unavailable when a blob here is damaged, Cancelled.
        """
        name = Reference.parse(reference if to is None else _taggable(to))
        with self._state.leases.hold(f"push of {name.familiar}") as lease:
            with self._state.lock:
                if to is None:
                    holding = self._state.holdings.by_name(str(name))
                else:
                    holding = self._state.holdings.of_image(self.get(reference).id)[-1]
                if holding is None:
                    raise NotFound(f"no such image: {name.familiar}: give an image this name first")
                lease.add(*holding.digests())
            stop = Stop(f"the push of {name.familiar}", cancelled)
            push(self._state, sink, holding.manifest, name, stop, progress, parallel=parallel)
            return holding.manifest.descriptor.digest

    def load(
        self,
        chunks: Iterator[bytes],
        *,
        platform: Platform | None = None,
        progress: Progress = no_progress,
        cancelled: threading.Event | None = None,
        limits: Limits | None = None,
    ) -> builtins.list[Image]:
        """Take in the images of an archive with their names: all of them, or, when it raises, none.

        What is returned has of its names those in the archive alone.
        Archives of `docker save` since Docker 1.10, of podman and skopeo, and OCI archives, plain or packed
        with gzip or zstd. Of an index the image for `platform`, or else for this host, is taken. Raises
        InvalidSpec for an archive that is damaged, hostile or something else, Unavailable when the disk is
        full, Cancelled.
        """
        with self._moving("load of images") as lease:
            return load(
                self._state,
                lease,
                chunks,
                progress,
                platform=platform,
                cancelled=cancelled,
                limits=limits,
            )

    def save(self, references: Sequence[str], *, docker: bool = True) -> Iterator[bytes]:
        """Return the archive of images as a stream: an OCI layout, with `docker` readable by Docker too.

        A name without tag stands for all tags of its repository; an image that is given by its ID has no name
        in the archive. Raises NotFound at once; while the stream is read, Unavailable for a damaged blob.
        """
        with self._state.lock:
            images = select(self._state, references, self.get)
        return self._saving(images, docker)

    def _saving(self, images: builtins.list[Saved], docker: bool) -> Iterator[bytes]:
        with self._state.leases.hold("save of images") as lease:
            lease.add(*(digest for image in images for digest in image.manifest.digests()))
            yield from write_archive(self._state.content, images, docker=docker)

    def commit(
        self,
        key: str,
        image: Image,
        reference: str | None = None,
        what: Commit | None = None,
        progress: Progress = no_progress,
        cancelled: threading.Event | None = None,
    ) -> Image:
        """Make an image of the changes in the snapshot `key`, a container's, on the layers of its image.

        Whoever runs the container sees to it that nothing writes meanwhile. Nothing changed makes an image
        without a further layer. Raises Cancelled.
        """
        names = _names(reference)
        with self._moving(f"commit of {key[:12]}") as lease:
            with self._state.lock:
                holdings = self._state.holdings.of_image(image.id)
                if not holdings:
                    raise NotFound(f"no such image any more: {image.name}")
                lease.add(*holdings[-1].digests(), *holdings[-1].chains())
            stop = Stop(f"the commit of {key[:12]}", cancelled)
            return commit(self._state, lease, key, holdings[-1], names, what or Commit(), progress, stop)

    def changes(self, key: str) -> Iterator[Change]:
        """Yield what the snapshot `key`, a container's, changed of its image; see Snapshotter.changes."""
        return self._state.snapshots.changes(key)

    def export(self, key: str) -> Iterator[bytes]:
        """Return the whole file tree of the snapshot `key` as a tar archive; NotFound at once."""
        return export_rootfs(self._state.snapshots.rootfs(key))

    def history(self, reference: str) -> tuple[HistoryEntry, ...]:
        """The steps in which an image was made, newest first, with the bytes of their layers."""
        with self._state.lock:
            holding = self._state.holdings.of_image(self.get(reference).id)[-1]
            sizes = list(map(self._state.layer_size, holding.chains(), holding.manifest.layers))
        return tell_history(holding.config.history, sizes)

    def usage(self, containers: Mapping[str, int] | None = None) -> DiskUsage:
        """How much disk the images take; `containers` tells how many containers an image's ID has."""
        return measure(self._state, containers or {})

    def verify(
        self,
        reference: str | None = None,
        *,
        repositories: OpenRepository | None = None,
        progress: Progress = no_progress,
        cancelled: threading.Event | None = None,
    ) -> builtins.list[Verdict]:
        """Read every blob of an image, or of all images, and look whether its layers are unpacked.

        With `repositories` what is damaged or gone is fetched again from where it is known to be, and layers
        that are not there are unpacked. Raises Cancelled.
        """
        image_id = self.get(reference).id if reference is not None else None
        return Verifier(self._state, repositories, progress, cancelled).run(image_id)

    def import_rootfs(
        self,
        source: Path | BinaryIO,
        reference: str | None = None,
        config: ImageConfig | None = None,
        progress: Progress = no_progress,
        *,
        metadata: Path | None = None,
        architecture: str | None = None,
        operating_system: str = OS,
        comment: str = "",
        limits: Limits | None = None,
        cancelled: threading.Event | None = None,
    ) -> Image:
        """Make an image of one layer from a tar archive, plain or packed, a stream of one, or a directory.

        The architecture is found out from the programs in it unless given. `metadata` is LXC's, a file of its
        own; an Incus image in one archive brings it along, and a root file system may be a squashfs where the
        host has unsquashfs (see lxc.py). Importing the same content with the same config again gives the same
        image. Raises InvalidSpec naming the source for what cannot be read as a root file system, Unavailable
        when the disk is full or the source fails, Cancelled.
        """
        return self._maker.import_rootfs(
            source,
            _names(reference),
            config or ImageConfig(),
            progress,
            metadata=metadata,
            architecture=architecture,
            operating_system=operating_system,
            comment=comment,
            limits=limits,
            cancelled=cancelled,
        )

    def from_template(
        self,
        template: TemplateSpec,
        reference: str | None = None,
        config: ImageConfig | None = None,
        progress: Progress = no_progress,
        cancelled: threading.Event | None = None,
    ) -> Image:
        """Make an image from a template; what was built from the same things, not too long ago, is not again.

        Raises MissingProgram naming the package that the host lacks, Cancelled.
        """
        return self._maker.from_template(
            template, _names(reference), config or ImageConfig(), progress, cancelled
        )

    def built_at(self, image: Image) -> float:
        """When an image was built from a template, in seconds since the epoch; 0: it was not."""
        with self._state.lock:
            return max(map(built_at, self._state.holdings.of_image(image.id)), default=0.0)

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

    def shelf(self, flights: Flights) -> Shelf:
        """What may be read of the store from outside, with what the pulls in `flights` have here."""
        return Shelf(self._state, flights)

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
