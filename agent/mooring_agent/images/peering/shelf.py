# SPDX-License-Identifier: Apache-2.0
"""What of a store may be read from outside: the images it holds, and what a pull has verified so far."""

from __future__ import annotations

from typing import BinaryIO

from mooring_agent.errors import NotFound
from mooring_agent.images.content import Descriptor, check_digest
from mooring_agent.images.holdings import Holding
from mooring_agent.images.peering.election import Holds
from mooring_agent.images.peering.flights import Flights
from mooring_agent.images.reference import Reference
from mooring_agent.images.state import StoreState


class Shelf:
    """The read side of a store; methods may be called from any thread."""

    def __init__(self, state: StoreState, flights: Flights) -> None:
        """Show what `state` holds, and the blobs that are here of the pulls in `flights`."""
        self._state = state
        self.flights = flights

    def manifest(self, path: str, domain: str | None, reference: str) -> tuple[Descriptor, bytes]:
        """The manifest or index of a tag or digest; raises NotFound.

        `path` is a repository without its registry, which is `domain` if that is known. By digest it may
        belong to any repository, since several name the same.
        """
        with self._state.lock:
            descriptor = (
                self._by_digest(reference) if ":" in reference else self._by_tag(path, domain, reference)
            )
        return descriptor, self._state.content.read(descriptor)

    def open_blob(self, digest: str) -> BinaryIO | None:
        """Open a blob of an image that is held, or one that a pull has here; None for any other."""
        with self._state.lock:
            readable = digest in self._state.holdings.digests() or self.flights.of(digest) is not Holds.ABSENT
        if not readable:
            return None
        try:
            return open(self._state.content.path(digest), "rb")
        except FileNotFoundError:
            return None

    def received(self, digest: str) -> int:
        """Bytes that are here of a blob on its way."""
        return self._state.content.partial_size(digest)

    def _by_digest(self, digest: str) -> Descriptor:
        check_digest(digest)
        for holding in self._state.holdings.all():
            for descriptor in (holding.top, holding.manifest.descriptor):
                if descriptor.digest == digest:
                    return descriptor
        raise NotFound(f"no manifest {digest} is held here")

    def _by_tag(self, path: str, domain: str | None, tag: str) -> Descriptor:
        found: dict[str, Holding] = {}
        for image in self._state.holdings.catalogue.images():
            for name in image.references:
                parsed = Reference.parse(name)
                if (parsed.path, parsed.tag) != (path, tag) or domain not in (None, parsed.domain):
                    continue
                holding = self._state.holdings.by_name(name)
                if holding is not None:
                    found[parsed.domain] = holding
        if len(found) > 1:
            raise NotFound(
                f"{path}:{tag} is held of {', '.join(sorted(found))}: say which by the query ns=REGISTRY"
            )
        for holding in found.values():
            return holding.top
        raise NotFound(f"no image {path}:{tag} is held here")
