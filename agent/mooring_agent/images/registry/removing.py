# SPDX-License-Identifier: Apache-2.0
"""Removal of a name at its registry, without other names going with it unasked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from mooring_agent.errors import Conflict, InvalidSpec, NotFound
from mooring_agent.images.content import Descriptor
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry.client import Repository

_AT_ONCE = 8  # tags that are looked up at a time
_NAMED = 5  # tags that an error names


def find(repository: Repository, name: Reference) -> Descriptor | None:
    """What the registry itself has under a tag or a digest, None if nothing.

    Raises InvalidSpec for a name with both.
    """
    if name.tag and name.digest:
        raise InvalidSpec(
            f"removal of {name.familiar} at its registry: expected a tag or a digest, not both; give the tag "
            "to remove that alone, or the digest for the manifest with all of its tags"
        )
    try:
        return repository.stored(name.digest or name.tag or "")
    except NotFound:
        return None


def remove(repository: Repository, name: Reference, found: Descriptor, *, force: bool) -> None:
    """Remove a tag, or a manifest with all of its tags, of which `find` has given the descriptor.

    Where the registry cannot remove a tag alone, its manifest goes. Raises Conflict if other tags lead to
    that, unless with `force`; NotSupported where the registry lets nothing be removed.
    """
    if name.tag and not repository.delete_tag(name.tag):
        others = [] if force else _others(repository, name.tag, found)
        if others:
            more = f" and {len(others) - _NAMED} more" if len(others) > _NAMED else ""
            raise Conflict(
                f"removal of {name.familiar}: {name.domain} removes no tag alone, and the manifest "
                f"{found.digest} has the tags {', '.join(others[:_NAMED])}{more} as well: remove it with all "
                "of them by force, or push another image under this tag"
            )
        _remove_manifest(repository, found)
    elif name.digest:
        _remove_manifest(repository, found)


def _remove_manifest(repository: Repository, found: Descriptor) -> None:
    try:
        repository.delete_manifest(found.digest)
    except NotFound:
        return  # somebody else was faster


def _others(repository: Repository, tag: str, found: Descriptor) -> list[str]:
    """The other tags that lead to the same manifest."""

    def leads_there(other: str) -> bool:
        try:
            return repository.stored(other).digest == found.digest
        except NotFound:
            return False  # it has gone since they were listed

    tags = [other for other in repository.tags() if other != tag]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="mooring-tags") as pool:
        return [other for other, same in zip(tags, pool.map(leads_there, tags), strict=True) if same]
