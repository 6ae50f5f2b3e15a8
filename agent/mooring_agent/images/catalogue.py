# SPDX-License-Identifier: Apache-2.0
"""Which image a word means: a short or long name, name and digest, ID or the beginning of one.

Lookups take no lock: every method changes single dictionary entries, and those who change serialise among
themselves.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from mooring_agent.errors import Conflict, InvalidSpec, NotFound
from mooring_agent.images.image import Image
from mooring_agent.images.reference import DEFAULT_TAG, Reference

_ID_PREFIX = re.compile(r"(?:sha256:)?([a-f0-9]{1,64})")
_SHOWN = 5  # images listed in a message


class Catalogue:
    """All images of a store, each under its ID and the spellings of its names."""

    def __init__(self, images: Iterable[Image] = ()) -> None:
        self._images: dict[str, Image] = {}
        self._names: dict[str, str] = {}  # long name → ID
        self._spellings: dict[str, str] = {}  # the usual spellings of names → ID, so that get is one lookup
        for image in images:
            self.put(image)

    def __len__(self) -> int:
        return len(self._images)

    def __contains__(self, image_id: object) -> bool:
        return image_id in self._images

    def images(self) -> list[Image]:
        """All images, newest first."""
        return sorted(self._images.values(), key=lambda image: (-image.created_at, image.id))

    def get(self, text: str) -> Image:
        """Return the image that a user's word means.

        A name wins over an ID. Raises NotFound for nothing, Conflict when an ID's beginning fits several
        images, which it lists, and InvalidSpec when the word is neither a name nor an ID.
        """
        image = self._images.get(self._spellings.get(text, text))
        return image or self._by_digest(text) or self._by_prefix(text)

    def named(self, text: str) -> str | None:
        """The long name that a word means, None when it means an image by its ID."""
        try:
            name = str(Reference.parse(text))
        except InvalidSpec:
            return None
        return name if name in self._names else None

    def holder(self, reference: str) -> Image | None:
        """The image that bears a long name."""
        return self._images.get(self._names.get(reference, ""))

    def put(self, image: Image) -> None:
        """Add or replace an image; its names are taken away from whoever bore them."""
        known = self._images.get(image.id)
        for reference in image.references:
            holder = self.holder(reference)
            if holder is not None and holder.id != image.id:
                self._store(replace(holder, references=tuple(r for r in holder.references if r != reference)))
        for reference in set(known.references if known else ()) - set(image.references):
            self._unname(reference)
        self._store(image)
        for reference in image.references:
            self._names[reference] = image.id
            for spelling in _spellings(reference):
                self._spellings[spelling] = image.id

    def discard(self, image_id: str) -> None:
        """Forget an image and its names."""
        for reference in self._images[image_id].references:
            self._unname(reference)
        del self._images[image_id]

    def _store(self, image: Image) -> None:
        self._images[image.id] = image

    def _unname(self, reference: str) -> None:
        self._names.pop(reference, None)
        for spelling in _spellings(reference):
            self._spellings.pop(spelling, None)

    def _by_digest(self, text: str) -> Image | None:
        """`name@sha256:…`: the image of that manifest or ID, if it has a name in that repository."""
        try:
            wanted = Reference.parse(text)
        except InvalidSpec:
            return None
        if wanted.digest is None:
            return self.holder(str(wanted))
        exact = f"{wanted.repository}@{wanted.digest}"
        for image in tuple(self._images.values()):
            if exact in image.digests or (
                wanted.digest in (image.manifest_digest, image.id)
                and any(Reference.parse(name).repository == wanted.repository for name in image.references)
            ):
                return image
        return None

    def _by_prefix(self, text: str) -> Image:
        match = _ID_PREFIX.fullmatch(text)
        if match is None:
            raise NotFound(f"no such image: {Reference.parse(text).familiar}")
        images = tuple(self._images.values())
        found = [image for image in images if image.id.startswith(f"sha256:{match[1]}")]
        if not found:
            raise NotFound(f"no such image: {text}")
        if len(found) > 1:
            listed = ", ".join(f"{image.id[7:19]} ({image.name})" for image in found[:_SHOWN])
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise Conflict(
                f"image ID {text} is ambiguous: it begins {listed}{more}; give more digits", code="ambiguous"
            )
        return found[0]


def _spellings(reference: str) -> set[str]:
    name = Reference.parse(reference)
    found = {str(name), name.familiar}
    if name.tag == DEFAULT_TAG and name.digest is None:
        found |= {name.repository, name.familiar_repository}
    return found
