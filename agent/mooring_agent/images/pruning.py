# SPDX-License-Identifier: Apache-2.0
"""Removing images: a name, or all that nothing uses."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from mooring_agent.errors import Conflict
from mooring_agent.failpoints import reached
from mooring_agent.images.image import Image
from mooring_agent.images.reference import Reference
from mooring_agent.images.state import StoreState


@dataclass(frozen=True, slots=True)
class Removed:
    """What a removal did: long names taken away, IDs of images deleted, bytes of disk freed by a prune."""

    untagged: tuple[str, ...]
    deleted: tuple[str, ...]
    freed: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class PruneFilter:
    """Which images go of those that no container uses.

    Without `all` those without a tag. `until` is a time in seconds since the epoch: only images created
    before it go. Labels are `NAME` or `NAME=value`: all of `labels` have to be there, none of `without`.
    """

    all: bool = False
    until: float | None = None
    labels: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def matches(self, image: Image) -> bool:
        """Whether an image that nothing uses goes."""
        if image.references and not self.all:
            return False
        if self.until is not None and image.created_at >= self.until:
            return False
        labels = image.config.get("Labels") or {}
        return all(_has(labels, label) for label in self.labels) and not any(
            _has(labels, label) for label in self.without
        )


def remove(
    state: StoreState, image: Image, reference: str, used: AbstractSet[str], *, force: bool
) -> Removed:
    """See ImageStore.remove; called with the lock held."""
    holdings = state.holdings
    name = holdings.catalogue.named(reference)
    every = holdings.names_of(image.id)
    leaving = every if name is None else _with_digests(name, every)
    if name is None and len(image.references) > 1 and not force:
        names = ", ".join(Reference.parse(each).familiar for each in image.references)
        raise Conflict(f"image {reference} has the names {names}: remove it by name or with force")
    staying = set(every) - set(leaving)
    delete = not staying and image.id not in used
    if not staying and not delete and not (force and leaving):
        raise Conflict(f"image {image.name} ({image.id[7:19]}) is in use by a container: remove that first")
    if delete:
        holdings.discard(image.id)
    else:
        holdings.unname(leaving)
    state.save()
    reached("images-removed")
    state.collect()
    return Removed(tuple(leaving), (image.id,) if delete else ())


def prune(
    state: StoreState, wanted: PruneFilter, used: AbstractSet[str], *, dry_run: bool = False
) -> Removed:
    """See ImageStore.prune; called with the lock held."""
    going = [
        image for image in state.holdings.catalogue.images() if image.id not in used and wanted.matches(image)
    ]
    untagged = [name for image in going for name in state.holdings.names_of(image.id)]
    if dry_run:
        return Removed(tuple(untagged), tuple(image.id for image in going))
    for image in going:
        state.holdings.discard(image.id)
    if going:
        state.save()
        reached("images-pruned")
    freed = state.drop_unfinished() + state.collect(measure=True)
    return Removed(tuple(untagged), tuple(image.id for image in going), freed)


def _with_digests(name: str, every: Sequence[str]) -> tuple[str, ...]:
    """A name that goes, and those by digest of its repository when no tag of that is left."""
    repository = Reference.parse(name).repository
    beside = [other for other in every if other != name and Reference.parse(other).repository == repository]
    return (name, *beside) if all("@" in other for other in beside) else (name,)


def _has(labels: dict[str, str], wanted: str) -> bool:
    name, equals, value = wanted.partition("=")
    return name in labels and (not equals or labels[name] == value)
