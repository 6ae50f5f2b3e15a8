# SPDX-License-Identifier: Apache-2.0
"""Looking at everything that images are made of: a damaged blob is found, and fetched again."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from mooring_agent.errors import MooringError, NotFound, Unavailable
from mooring_agent.images.content import Descriptor
from mooring_agent.images.holdings import Broken, Holding
from mooring_agent.images.image import Progress, ProgressEvent
from mooring_agent.images.manifests import MANIFEST_TYPES
from mooring_agent.images.readying import ensure_layers
from mooring_agent.images.reference import Reference
from mooring_agent.images.state import StoreState
from mooring_agent.images.transfer import Source
from mooring_agent.images.turns import Stop

_log = logging.getLogger(__name__)

_ROUNDS = 4  # index, manifest, configuration, layers: each names the next

OpenRepository = Callable[[str], Source]
"""Gives the repository of a long name without tag, such as docker.io/library/busybox."""


@dataclass(frozen=True, slots=True)
class Damage:
    """What was wrong with a part of an image, and the repository from which it was made right again."""

    digest: str
    problem: str
    repaired_from: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """One image after the look: its name for the eye, its ID if that is known, what was wrong."""

    name: str
    image_id: str | None
    blobs: int
    damages: tuple[Damage, ...]
    missing_layers: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """Whether everything is there and right by now."""
        return not self.missing_layers and all(each.repaired_from for each in self.damages)


class Verifier:
    """One look at all images of a store, or at one of them."""

    def __init__(
        self,
        state: StoreState,
        repositories: OpenRepository | None,
        progress: Progress,
        cancelled: threading.Event | None,
    ) -> None:
        """With `repositories`, what is damaged is fetched again from where it came from."""
        self._state = state
        self._repositories = repositories
        self._progress = progress
        self._stop = Stop("the look at the images", cancelled)
        self._looked: dict[str, Damage | None] = {}  # by digest: what was wrong

    def run(self, image_id: str | None = None) -> list[Verdict]:
        """Look at one image, or at all, the damaged ones that have no ID any more included."""
        with self._state.leases.hold("verify") as lease:
            damages: dict[str, list[Damage]] = {}
            for _ in range(_ROUNDS):
                with self._state.lock:
                    broken = list(self._state.holdings.broken.values()) if image_id is None else []
                    lease.add(*(blob.digest for each in broken for blob in each.blobs))
                if not self._repair_documents(broken, damages):
                    break
            with self._state.lock:
                holdings = [each for each in self._state.holdings.all() if image_id in (None, each.image_id)]
                broken = list(self._state.holdings.broken.values()) if image_id is None else []
                lease.add(*(digest for each in holdings for digest in each.digests()))
            verdicts = [self._broken(each) for each in broken]
            looked = [self._verdict(each, damages.get(each.top.digest, [])) for each in holdings]
            verdicts += [verdict for verdict in looked if verdict is not None]
            if any(damages.values()):
                with self._state.lock:
                    self._state.holdings.load()  # by now their layers are unpacked, and have sizes
            return verdicts

    def _repair_documents(self, broken: list[Broken], damages: dict[str, list[Damage]]) -> bool:
        """Fetch manifests and configurations again that cannot be read; whether that changed anything."""
        changed = False
        for each in broken:
            for blob in each.blobs:
                if blob.digest in self._looked:
                    continue
                found = self._look(blob, self._names(each.entry.digest))
                if found is not None:
                    damages.setdefault(each.entry.digest, []).append(found)
                    changed |= found.repaired_from is not None
        if changed:
            with self._state.lock:
                self._state.holdings.load()
        return changed

    def _broken(self, broken: Broken) -> Verdict:
        found = [damage for blob in broken.blobs if (damage := self._looked.get(blob.digest))]
        names = self._names(broken.entry.digest)
        damages = tuple(found) or (Damage(broken.entry.digest, broken.reason),)
        name = names[0] if names else broken.entry.short
        return Verdict(name, None, len(broken.blobs), damages, ())

    def _verdict(self, holding: Holding, before: list[Damage]) -> Verdict | None:
        """None for one that has been removed meanwhile: blobs are kept for the look, layers are not."""
        with self._state.lock:
            names = self._state.holdings.names_of(holding.image_id)
        damages = {each.digest: each for each in before}
        blobs = [holding.manifest.descriptor, holding.manifest.config, *holding.manifest.layers]
        blobs += [holding.top] if holding.top.digest != holding.manifest.descriptor.digest else []
        for blob in blobs:
            if blob.digest not in self._looked:
                self._look(blob, names)
            damage = self._looked[blob.digest]
            if damage is not None:
                damages[blob.digest] = damage
        missing = [chain for chain in holding.chains() if not self._state.has_layer(chain)]
        with self._state.lock:
            if not self._state.holdings.of_image(holding.image_id):
                return None
        if missing and self._repositories is not None:
            try:
                ensure_layers(self._state, holding, self._progress, within=self._stop)
                missing = []
            except MooringError as error:
                _log.warning("layers of %s are not there and cannot be unpacked: %s", holding.image_id, error)
        name = names[0] if names else holding.image_id[7:19]
        return Verdict(name, holding.image_id, len(blobs), tuple(damages.values()), tuple(missing))

    def _look(self, blob: Descriptor, names: Iterable[str]) -> Damage | None:
        """Read a blob; one that is damaged or gone is fetched again if that can be."""
        self._stop.check()
        self._progress(ProgressEvent("verify", 0, blob.size, blob.short))
        damage: Damage | None = None
        try:
            for _ in self._state.content.chunks(blob):
                self._stop.check()
            self._progress(ProgressEvent("verify", blob.size, blob.size, blob.short))
        except NotFound:
            damage = Damage(blob.digest, "it is gone")
        except (Unavailable, OSError) as error:
            self._stop.check()
            damage = Damage(blob.digest, "it is damaged" if isinstance(error, Unavailable) else str(error))
        if damage is not None and self._repositories is not None:
            damage = self._fetch(blob, damage, names)
        self._looked[blob.digest] = damage
        return damage

    def _fetch(self, blob: Descriptor, damage: Damage, names: Iterable[str]) -> Damage:
        """Get a blob again from the repositories that are known to have it."""
        assert self._repositories is not None
        named = (Reference.parse(name).repository for name in names)
        for repository in dict.fromkeys((*self._state.origins.of(blob.digest), *named)):
            try:
                source = self._repositories(repository)
                with self._state.taking("blob"):
                    self._fetch_from(source, blob)
            except MooringError as error:
                self._stop.check()
                damage = replace(damage, problem=f"{damage.problem}; {repository}: {error.message}")
                continue
            return replace(damage, repaired_from=repository)
        return damage

    def _fetch_from(self, source: Source, blob: Descriptor) -> None:
        if blob.media_type in MANIFEST_TYPES:
            chunks: Iterator[bytes] = iter((source.manifest(blob.digest)[1],))
        else:
            chunks = source.blob(blob)
        with self._state.content.ingest(blob) as writer:
            for chunk in chunks:
                self._stop.check()
                writer.write(chunk)
                self._progress(ProgressEvent("download", writer.size, blob.size, blob.short))
            writer.finish()
            with self._state.lock:
                self._state.content.replace(writer)

    def _names(self, digest: str) -> list[str]:
        with self._state.lock:
            broken = self._state.holdings.broken_names()
        return sorted(name for name, each in broken.items() if each.entry.digest == digest)
