# SPDX-License-Identifier: Apache-2.0
"""Getting an image from a source: layers in parallel, unpacked while others still come (see stacking.py).

Bytes go through `ingest/`, so memory stays bounded whatever the size, and a download that breaks off is gone
on with from there. A layer that several pulls want comes once: the others wait for their turn and find it.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from mooring_agent.errors import InvalidSpec, NotFound, Unavailable
from mooring_agent.failpoints import reached
from mooring_agent.images.content import MAX_DOCUMENT, BlobWriter, Descriptor, digest_of
from mooring_agent.images.holdings import Holding
from mooring_agent.images.image import Progress, ProgressEvent
from mooring_agent.images.layers import Limits
from mooring_agent.images.leases import Lease
from mooring_agent.images.manifests import (
    ConfigFile,
    Index,
    Manifest,
    check_pair,
    choose,
    parse_config,
    parse_manifest,
)
from mooring_agent.images.platform import Platform, check_platform
from mooring_agent.images.stacking import LayerStack, wanted_layers
from mooring_agent.images.state import StoreState
from mooring_agent.images.transfer import Source
from mooring_agent.images.turns import Cancelled, Stop

PARALLEL = 3
"""Layers that one pull or push moves at a time, if nothing else is said."""

_INTERVAL = 0.1  # seconds between two events of progress for one layer
_CONTINUED = 16  # times that one blob is gone on with, each after it grew


class Puller:
    """One image on its way in. Used once, by one thread, within its lease."""

    def __init__(
        self,
        state: StoreState,
        source: Source,
        lease: Lease,
        stop: Stop,
        progress: Progress,
        *,
        name: str,
        parallel: int = PARALLEL,
        limits: Limits | None = None,
    ) -> None:
        """Prepare to pull `name` (for messages); `parallel` layers are downloaded at a time."""
        self.state = state
        self.lease = lease
        self.stop = stop
        self._content = state.content
        self._source = source
        self._progress = progress
        self._name = name
        self._parallel = parallel
        self._limits = limits

    def pull(self, reference: str, platform: Platform | None = None, digest: str | None = None) -> Holding:
        """Have everything of an image here and leased, and return what is to be registered.

        `reference` is what the source is asked for, `digest` what has to come if that is known. Without
        `platform` it must be one that this host runs.
        """
        top, body = self._source.manifest(reference)
        top = self._keep(top, body, digest)
        reached("images-pull-manifest")
        parsed = parse_manifest(body, top)
        if isinstance(parsed, Index):
            chosen = choose(parsed, platform, self._name)
            _, body = self._source.manifest(chosen.digest)
            manifest = parse_manifest(body, self._keep(replace(chosen, annotations={}), body, chosen.digest))
            if isinstance(manifest, Index):
                raise InvalidSpec(
                    f"image {self._name} is an index of indexes: expected images in {top.digest}"
                )
            top = parsed.descriptor
        else:
            manifest = parsed
            top = parsed.descriptor
        config = self._config(manifest)
        self.check_platform(config.platform, platform)
        self._layers(manifest, config)
        return Holding(replace(top, annotations={}), manifest, config)

    def _keep(self, told: Descriptor, body: bytes, digest: str | None) -> Descriptor:
        """Verify a document and store it; returns its descriptor."""
        wanted = digest or told.digest
        if len(body) > MAX_DOCUMENT:
            raise InvalidSpec(f"manifest {wanted} has {len(body)} bytes, more than {MAX_DOCUMENT}")
        if (digest_of(body), len(body)) != (wanted, told.size):
            raise InvalidSpec(
                f"manifest {wanted} of {self._name} came as {digest_of(body)}: it was damaged on its way, or "
                "is not what it says"
            )
        with self.state.lock:
            self.lease.add(wanted)
            with self.state.taking("manifest"):
                self._content.add_bytes(told.media_type, body)
        return replace(told, digest=wanted)

    def _config(self, manifest: Manifest) -> ConfigFile:
        if manifest.config.size > MAX_DOCUMENT:
            raise InvalidSpec(f"configuration {manifest.config.digest} has more than {MAX_DOCUMENT} bytes")
        self.fetch(manifest.config, quiet=True)
        config = parse_config(self._content.read(manifest.config), manifest.config.digest)
        check_pair(manifest, config)
        return config

    def check_platform(self, has: Platform, wanted: Platform | None) -> None:
        """Raise for an image that is not for the platform, or for this host if there is none."""
        if wanted is None:
            check_platform(self._name, has.architecture, has.os)
            return
        if not wanted.takes(has.os, has.architecture):
            raise NotFound(
                f"image {self._name} is for {has} only and {wanted} was asked for: use another image, or "
                f"ask for {has}",
                code="no_platform",
            )

    def _layers(self, manifest: Manifest, config: ConfigFile) -> None:
        blobs = {each.digest: each for each in manifest.layers}
        with ThreadPoolExecutor(max(1, self._parallel), thread_name_prefix="mooring-pull") as pool:
            downloads = {digest: pool.submit(self.fetch, blob) for digest, blob in blobs.items()}
            try:
                LayerStack(
                    self.state,
                    self.lease,
                    self.stop,
                    self._progress,
                    wanted_layers(manifest.layers, config.diff_ids),
                    arrivals=downloads,
                    limits=self._limits,
                ).build()
            except BaseException:
                self.stop.set()
                for future in downloads.values():
                    future.cancel()
                raise

    def fetch(self, blob: Descriptor, *, quiet: bool = False) -> None:
        """Have a blob in the store, verified and leased."""

        def tell(step: str, current: int) -> None:
            if not quiet:
                self._progress(ProgressEvent(step, current, blob.size, blob.short))

        with self.state.turns.turn(
            blob.digest, self.stop, lambda: tell("download", self._content.partial_size(blob.digest))
        ):
            with self.state.lock:
                self.lease.add(blob.digest)
                there = self._content.has(blob.digest)
            if there:
                tell("exists", blob.size)
                return
            with self.state.taking("blob"), self._content.resume(blob) as writer:
                self._fill(writer, blob, quiet)
                tell("verify", blob.size)
                try:
                    writer.finish()
                except InvalidSpec as error:
                    error.put_before(f"image {self._name}: ")
                    raise
                reached("images-pull-blob")
                self._content.publish(writer)
            reached("images-pull-published")

    def _fill(self, writer: BlobWriter, blob: Descriptor, quiet: bool) -> None:
        """Write what is missing of a blob, going on where the source breaks off."""
        resumed = writer.size > 0
        told = 0.0
        for _ in range(_CONTINUED):
            start = writer.size
            try:
                for chunk in self._source.blob(blob, start) if start < blob.size else ():
                    self.stop.check()
                    writer.write(chunk)
                    now = time.monotonic()
                    if not quiet and now - told >= _INTERVAL:
                        told = now
                        self._progress(ProgressEvent("download", writer.size, blob.size, blob.short))
                    reached("images-pull-chunk")
            except Cancelled:
                # When another layer failed for good, nothing will go on from this one.
                self.lease.survive |= self.stop.cancelled
                writer.keep = self.lease.survive
                raise
            except Unavailable:
                if writer.size > start:
                    continue
                writer.keep = self.lease.survive = True
                raise
            if writer.size == blob.size:
                if writer.digest == blob.digest:
                    return
                # What an earlier process had left was damaged, or what a place of several sent.
                if not resumed and not self._source.mistrust(blob.digest):
                    return
                resumed = False
                writer.restart()
            elif writer.size == start:
                break
        writer.keep = self.lease.survive = True
        raise Unavailable(
            f"blob {blob.digest} of {self._name} ended after {writer.size} of {blob.size} bytes: try again "
            "to go on from there"
        )
