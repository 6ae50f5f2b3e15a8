# SPDX-License-Identifier: Apache-2.0
"""A registry with the peers ahead of it: what a tag means comes from it, blobs from whoever is nearest.

Nothing that a peer says is believed: who pulls verifies each blob by its digest, and `mistrust` leads it to
others, at last to the registry.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from mooring_agent.images.content import Descriptor
from mooring_agent.images.peering.client import PeerClient, PeerFailed
from mooring_agent.images.peering.election import (
    Answer,
    Holds,
    higher,
    must_step_back,
    whom_to_await,
)
from mooring_agent.images.peering.flights import Flights
from mooring_agent.images.peering.settings import PeerSettings
from mooring_agent.images.transfer import Source

_log = logging.getLogger(__name__)

_SMALL = 64 << 10
"""Bytes up to which a blob is not worth asking around for."""

_TURN = 1.0
"""Seconds for which one stands in line at a peer that had a turn free a moment ago."""


class PeerSource:
    """What one pull reads from. Close it when the pull has ended: until then peers may wait for its blobs."""

    def __init__(
        self, origin: Source, name: str, settings: PeerSettings, client: PeerClient, flights: Flights
    ) -> None:
        """Read the repository `name` (without its registry) of `origin`, the peers of `settings` ahead."""
        self._origin, self._name = origin, name
        self._me, self._others = settings.address, settings.others
        self._client, self._flights = client, flights
        self._avoided: dict[str, set[str]] = {}  # by digest: peers that failed with it
        self._senders: dict[str, set[str]] = {}  # by digest: peers that its bytes came from

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Tell the peers no more of what this pull is after."""
        self._flights.drop(self)

    def manifest(self, reference: str) -> tuple[Descriptor, bytes]:
        """What a tag or digest names, from the registry."""
        return self._origin.manifest(reference)

    def blob(self, descriptor: Descriptor, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from `offset` on, an empty piece now and then while it is waited for."""
        if descriptor.size > _SMALL:
            wait = _Wait(self._client.patience.wait + descriptor.size / self._client.patience.pace_of_others)
            while offset < descriptor.size and not self._falls_to_us(descriptor.digest, wait):
                yield b""
                if wait.peer:
                    for chunk in self._take(wait.peer, descriptor, offset, wait.poll):
                        offset += len(chunk)
                        yield chunk
        if offset < descriptor.size:
            yield from self._origin.blob(descriptor, offset)

    def mistrust(self, digest: str) -> bool:
        """Leave out the peers that a blob's bytes came from; if there are none, have the registry judge."""
        senders = self._senders.pop(digest, set())
        for peer in senders:
            self._avoided.setdefault(digest, set()).add(peer)
            self._client.leave_alone(peer, f"{digest} did not come from it as it should be", lied=True)
        return bool(senders) or self._origin.mistrust(digest)

    def _falls_to_us(self, digest: str, wait: _Wait) -> bool:
        """Ask around; True when nobody else is to be waited for, else `wait` says what to try."""
        self._flights.mark(self, digest, Holds.WANTED)
        answers = self._ask(digest, self._others)
        free = [peer for peer, answer in answers.items() if answer.holds is Holds.HELD]
        wait.look(answers)
        if free and not wait.is_over:
            wait.peer, wait.poll = random.choice(free), _TURN
            return False
        awaited = whom_to_await(digest, self._me, answers)
        if awaited is not None and not wait.is_over and wait.stood_still < self._client.patience.still:
            wait.peer, wait.poll = awaited, self._client.patience.poll
            return False
        self._flights.mark(self, digest, Holds.CLAIMED)
        rivals = higher(digest, self._me, self._others) if awaited is None and not wait.is_over else ()
        if must_step_back(digest, self._me, self._ask(digest, rivals)):
            self._flights.mark(self, digest, Holds.WANTED)
            wait.peer = ""
            return False
        return True

    def _ask(self, digest: str, peers: tuple[str, ...]) -> dict[str, Answer]:
        avoided = self._avoided.get(digest, set())
        return self._client.ask(self._name, digest, [peer for peer in peers if peer not in avoided])

    def _take(self, peer: str, descriptor: Descriptor, offset: int, poll: float) -> Iterator[bytes]:
        """Yield what a peer sends, which may be nothing, or less than all if it fails."""
        digest, began = descriptor.digest, False
        try:
            for chunk in self._client.read(self._name, digest, peer, range(offset, descriptor.size), poll):
                if not began:
                    began = True
                    self._flights.mark(self, digest, Holds.CLAIMED)
                    self._senders.setdefault(digest, set()).add(peer)
                yield chunk
        except PeerFailed as error:
            _log.warning("peer %s does not send %s: %s", peer, digest, error)
            self._avoided.setdefault(digest, set()).add(peer)


@dataclass(slots=True)
class _Wait:
    """How a wait for a blob goes: its limit in seconds, and whom to read from next."""

    limit: float
    peer: str = ""
    poll: float = 0.0
    began: float = field(default_factory=time.monotonic)
    _moved: float = field(default_factory=time.monotonic)
    _seen: object = None

    def look(self, answers: dict[str, Answer]) -> None:
        """Note whether anything has changed at the peers."""
        if answers != self._seen:
            self._seen, self._moved = answers, time.monotonic()

    @property
    def is_over(self) -> bool:
        return time.monotonic() - self.began > self.limit

    @property
    def stood_still(self) -> float:
        """Seconds for which nothing has changed."""
        return time.monotonic() - self._moved
