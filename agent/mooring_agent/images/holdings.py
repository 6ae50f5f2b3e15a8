# SPDX-License-Identifier: Apache-2.0
"""Which images a store holds, under which names: index.json in memory.

A name points to the digest of a manifest or of an index, of which one image is chosen and held. Several
manifests may hold one configuration, pushed as Docker's and as OCI's or packed with gzip and with zstd: they
are one image with one ID.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from mooring_agent.errors import InvalidSpec, MooringError, NotFound
from mooring_agent.images.catalogue import Catalogue
from mooring_agent.images.content import ContentStore, Descriptor
from mooring_agent.images.image import Image, chain_id
from mooring_agent.images.manifests import (
    ConfigFile,
    Index,
    Manifest,
    check_pair,
    parse_config,
    parse_manifest,
)
from mooring_agent.images.reference import Reference

_log = logging.getLogger(__name__)

_REFERENCE = "org.opencontainers.image.ref.name"  # image-spec, annotations.md
_CHOSEN = "mooring.index.manifest"  # on an index: the digest of the image of it that is held


Key = tuple[str, str]
"""What a name points to: the digests of a manifest or index, and of the image that is held of it."""


@dataclass(frozen=True, slots=True)
class Holding:
    """A manifest or index that is held: what names point to, and the image that it stands for."""

    top: Descriptor
    manifest: Manifest
    config: ConfigFile

    @property
    def key(self) -> Key:
        """What names point to."""
        return self.top.digest, self.manifest.descriptor.digest

    @property
    def image_id(self) -> str:
        """The ID of the image."""
        return self.manifest.config.digest

    def digests(self) -> frozenset[str]:
        """All blobs that have to stay."""
        return self.manifest.digests() | {self.top.digest}

    def chains(self) -> list[str]:
        """The chain IDs of the layers, bottom first."""
        diff_ids = self.config.diff_ids
        return [chain_id(diff_ids[: count + 1]) or "" for count in range(len(diff_ids))]


@dataclass(frozen=True, slots=True)
class Broken:
    """An entry of the index whose documents cannot be read, and why; `blobs` are those that are known."""

    entry: Descriptor
    chosen: str | None
    reason: str
    blobs: tuple[Descriptor, ...]


class Holdings:
    """The index: callers serialise what changes it; `catalogue` may be looked at without a lock."""

    def __init__(self, content: ContentStore, measure: Callable[[str, Descriptor], int]) -> None:
        """Read the index; `measure` tells the bytes that the layer of a chain ID occupies."""
        self._content = content
        self._measure = measure
        self.catalogue = Catalogue()
        self.broken: dict[Key, Broken] = {}
        self._held: dict[Key, Holding] = {}  # the newest last
        self._names: dict[str, Key] = {}  # by long name
        self.load()

    def load(self) -> None:
        """Take over what is on the disk."""
        held: dict[Key, Holding] = {}
        names: dict[str, Key] = {}
        broken: dict[Key, Broken] = {}
        for entry in self._content.read_index():
            chosen = entry.annotations.get(_CHOSEN)
            key = entry.digest, chosen or entry.digest
            if key not in held and key not in broken:
                bare = _bare(entry)
                try:
                    held[key] = self.read(bare, chosen)
                except MooringError as error:
                    _log.warning("image %s is damaged: %s", entry.digest, error)
                    broken[key] = Broken(bare, chosen, error.message, self._reachable(bare, chosen))
            name = entry.annotations.get(_REFERENCE)
            if name is not None:
                names[name] = key
        self._held, self._names, self.broken = held, names, broken
        self.catalogue = Catalogue(
            self._image(image_id) for image_id in dict.fromkeys(each.image_id for each in held.values())
        )

    def save(self) -> None:
        """Write the index as memory has it; when that fails, memory goes back to what is on the disk."""
        names: dict[Key, list[str]] = {}
        for name in sorted(self._names):
            names.setdefault(self._names[name], []).append(name)
        entries: list[Descriptor] = []
        for key, holding in self._held.items():
            notes = {_CHOSEN: key[1]} if key[1] != key[0] else {}
            for named in [{_REFERENCE: name} for name in names.get(key, ())] or [{}]:
                entries.append(replace(holding.top, annotations=named | notes))
        for key, damaged in self.broken.items():
            notes = {_CHOSEN: damaged.chosen} if damaged.chosen else {}
            for name in names.get(key, ()):
                entries.append(replace(damaged.entry, annotations={_REFERENCE: name} | notes))
        try:
            self._content.write_index(entries)
        except OSError:
            self.load()
            raise

    def read(self, top: Descriptor, chosen: str | None = None) -> Holding:
        """Read a holding from the content; raises MooringError when a part is damaged, absent or no image."""
        parsed = parse_manifest(self._content.read(top), top)
        if isinstance(parsed, Index):
            found = [entry for entry in parsed.manifests if entry.digest == chosen]
            if not found:
                raise NotFound(f"index {top.digest} has no image {chosen}: pull it again")
            image = parse_manifest(self._content.read(found[0]), found[0])
            if isinstance(image, Index):
                raise InvalidSpec(f"index {top.digest} has an index in the place of an image")
            manifest = image
        else:
            manifest = parsed
        config = parse_config(self._content.read(manifest.config), manifest.config.digest)
        check_pair(manifest, config)
        return Holding(_bare(top), manifest, config)

    def put(self, holding: Holding, names: Iterable[str] = ()) -> Image:
        """Hold an image, and have names point to it; call `save` afterwards."""
        self._held.pop(holding.key, None)
        self._held[holding.key] = holding
        self.broken.pop(holding.key, None)
        self._point(names, holding.key)
        return self.catalogue.get(holding.image_id)

    def name(self, image: Image, names: Iterable[str]) -> Image:
        """Have names point to what an image is held by; call `save` afterwards."""
        self._point(names, self.of_image(image.id)[-1].key)
        return self.catalogue.get(image.id)

    def unname(self, names: Iterable[str]) -> None:
        """Take names away; the image stays, even without any; call `save` afterwards."""
        self._refresh({image_id for name in names for image_id in self._forget(name)})

    def discard(self, image_id: str) -> None:
        """Forget an image and its names; call `save` afterwards."""
        gone = {each.key for each in self.of_image(image_id)}
        for key in gone:
            del self._held[key]
        self._names = {name: key for name, key in self._names.items() if key not in gone}
        self.catalogue.discard(image_id)

    def all(self) -> list[Holding]:
        """Everything that is held, the newest last."""
        return list(self._held.values())

    def of_image(self, image_id: str) -> list[Holding]:
        """What an image is held by, the newest last."""
        return [holding for holding in self._held.values() if holding.image_id == image_id]

    def by_name(self, name: str) -> Holding | None:
        """What a long name points to."""
        key = self._names.get(name)
        return self._held.get(key) if key is not None else None

    def names_of(self, image_id: str) -> tuple[str, ...]:
        """All long names of an image, sorted: with tags, and those by which it was pulled by digest."""
        keys = {holding.key for holding in self.of_image(image_id)}
        return tuple(sorted(name for name, key in self._names.items() if key in keys))

    def broken_names(self) -> dict[str, Broken]:
        """The names that point to something damaged."""
        return {name: self.broken[key] for name, key in self._names.items() if key in self.broken}

    def digests(self) -> set[str]:
        """All blobs that an image needs."""
        found = set().union(*(holding.digests() for holding in self._held.values()))
        for damaged in self.broken.values():
            found |= {blob.digest for blob in damaged.blobs}
        return found

    def chains(self) -> set[str]:
        """All snapshots that an image needs."""
        return {chain for holding in self._held.values() for chain in holding.chains()}

    def _point(self, names: Iterable[str], key: Key) -> None:
        touched = {self._held[key].image_id}
        for name in names:
            touched |= self._forget(name)
            self._names[name] = key
        self._refresh(touched)

    def _forget(self, name: str) -> set[str]:
        """Take a name away; returns the ID of the image that it named, if any."""
        key = self._names.pop(name, None)
        if key in self._held:
            return {self._held[key].image_id}
        if key is not None and key not in self._names.values():
            self.broken.pop(key, None)
        return set()

    def _refresh(self, image_ids: Iterable[str]) -> None:
        """Drop the holdings that lost their names to another one of their image, and show what is left."""
        named = set(self._names.values())
        for image_id in sorted(image_ids, key=lambda each: bool(self.names_of(each))):
            keys = [holding.key for holding in self.of_image(image_id)]
            keep = [key for key in keys if key in named] or keys[-1:]
            for key in set(keys) - set(keep):
                del self._held[key]
            self.catalogue.put(self._image(image_id))

    def _image(self, image_id: str) -> Image:
        newest = self.of_image(image_id)[-1]
        config, names = newest.config, self.names_of(image_id)
        pointed = {f"{Reference.parse(name).repository}@{self._names[name][0]}" for name in names}
        chains = newest.chains()
        return Image(
            id=image_id,
            manifest_digest=newest.manifest.descriptor.digest,
            references=tuple(name for name in names if Reference.parse(name).tag is not None),
            created_at=config.created_at,
            architecture=config.platform.architecture,
            os=config.platform.os,
            config=config.config,
            history=config.history,
            diff_ids=config.diff_ids,
            chain_id=chains[-1] if chains else None,
            size=sum(map(self._measure, chains, newest.manifest.layers)),
            digests=tuple(sorted(pointed)),
            variant=config.platform.variant,
            author=config.author,
        )

    def _reachable(self, entry: Descriptor, chosen: str | None) -> tuple[Descriptor, ...]:
        """What is known of the blobs of a damaged image, so that what is there of it stays."""
        found = [entry]
        try:
            parsed = parse_manifest(self._content.read(entry), entry)
            if isinstance(parsed, Index):
                inner = [each for each in parsed.manifests if each.digest == chosen]
                found += inner
                for each in inner:
                    parsed = parse_manifest(self._content.read(each), each)
            if isinstance(parsed, Manifest):
                found += [parsed.config, *parsed.layers]
        except MooringError as error:
            _log.info("of image %s no more is known: %s", entry.digest, error)
        return tuple(found)


def _bare(descriptor: Descriptor) -> Descriptor:
    return replace(descriptor, annotations={})
