# SPDX-License-Identifier: Apache-2.0
"""Who of those that want a blob fetches it from the registry, while the others wait. Pure.

Each host tells of a blob whether it has it, fetches it (`claimed`) or wants it. One that finds nobody who has
it claims it, unless another one has, or one that ranks higher wants it; having claimed, it asks those that
rank higher once more and steps back if one of them wants it by now. Whoever claims sees the claim or the wish
of every other one, or is seen by it, so that two fetch at once only if they cannot reach each other. Ranks
are by the digest (rendezvous hashing): each host is the first of as many layers as any other.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass


class Holds(enum.Enum):
    """What a peer says of a blob; the values are those of the header `Mooring-Blob`."""

    HELD = "held"  # and it sends it at once
    BUSY = "busy"  # held, and as much is being sent as may be
    CLAIMED = "claimed"  # it is receiving it
    WANTED = "wanted"  # it looks for it
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a peer says, and how many bytes of the blob it has."""

    holds: Holds
    received: int = 0


NOTHING = Answer(Holds.ABSENT)


def rank(digest: str, member: str) -> bytes:
    """A member's rank for a blob: the greatest is the first."""
    return hashlib.sha256(f"{digest} {member}".encode()).digest()


def higher(digest: str, me: str, others: Iterable[str]) -> tuple[str, ...]:
    """Those that rank higher than `me`."""
    mine = rank(digest, me)
    return tuple(other for other in others if rank(digest, other) > mine)


def whom_to_await(digest: str, me: str, answers: Mapping[str, Answer]) -> str | None:
    """The peer from which a blob that nobody sends at once is most likely to come, None for nobody."""
    claimed = [peer for peer, answer in answers.items() if answer.holds is Holds.CLAIMED]
    if claimed:
        return max(claimed, key=lambda peer: (answers[peer].received, rank(digest, peer)))
    busy = [peer for peer, answer in answers.items() if answer.holds is Holds.BUSY]
    if busy:
        # Ranks differ with who asks, so that not all come to the same one.
        return max(busy, key=lambda peer: rank(digest + me, peer))
    wanting = [peer for peer in higher(digest, me, answers) if answers[peer].holds is Holds.WANTED]
    return max(wanting, key=lambda peer: rank(digest, peer), default=None)


def must_step_back(digest: str, me: str, answers: Mapping[str, Answer]) -> bool:
    """Whether one that has claimed a blob has to leave it to another one."""
    return any(answers[peer].holds is not Holds.ABSENT for peer in higher(digest, me, answers))
