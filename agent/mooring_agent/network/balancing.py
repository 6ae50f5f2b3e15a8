# SPDX-License-Identifier: Apache-2.0
"""How new connections to one port are spread over several containers: pure functions.

The firewall draws a number, by counting or from the client's address, and looks it up in a table of slots;
which container has which slot is decided here.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

ROUND_ROBIN = "round_robin"
SOURCE = "source"
METHODS = (ROUND_ROBIN, SOURCE)
MOST_WEIGHT = 100
SOURCE_SLOTS = 256
"""How finely clients are spread by their address. A power of two, more than a port has containers."""

M = TypeVar("M", bound=str)


def slots(method: str, weights: Mapping[M, int]) -> Sequence[M]:
    """Who has each slot; empty when nobody has a weight above 0."""
    serving = {member: weight for member, weight in sorted(weights.items()) if weight > 0}
    if not serving:
        return ()
    if method == SOURCE:
        return [_owner(number, serving) for number in range(SOURCE_SLOTS)]
    return _turns(serving)


def _turns(weights: Mapping[M, int]) -> list[M]:
    """One round in which everybody has as many turns as its weight says, spread as evenly as possible: the
    smooth weighted round robin that nginx has made known.
    """
    divisor = math.gcd(*weights.values())
    shares = {member: weight // divisor for member, weight in weights.items()}
    total = sum(shares.values())
    credit = dict.fromkeys(shares, 0)
    turns = []
    for _ in range(total):
        for member, share in shares.items():
            credit[member] += share
        chosen = max(shares, key=lambda member: credit[member])
        credit[chosen] -= total
        turns.append(chosen)
    return turns


def _owner(number: int, weights: Mapping[M, int]) -> M:
    """Weighted rendezvous hashing (Thaler and Ravishankar 1998): when somebody comes or goes, no slot moves
    between two others.
    """
    return max(weights, key=lambda member: -weights[member] / math.log(_draw(number, member)))


def _draw(number: int, member: str) -> float:
    """A number between 0 and 1, always the same for a slot and a member."""
    digest = hashlib.sha256(f"{number}/{member}".encode()).digest()
    return (int.from_bytes(digest[:6], "big") + 0.5) / 2**48
