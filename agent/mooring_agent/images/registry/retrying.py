# SPDX-License-Identifier: Apache-2.0
"""When something is tried again, and after how long."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from mooring_agent.errors import Unavailable

TEMPORARY = frozenset((408, 429, 500, 502, 503, 504))
"""Statuses after which the same request may succeed."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after how long (seconds): `base` doubles with each attempt up to `longest`.

    `total` bounds all waits between the attempts at one thing.

    `unreachable` is the number of attempts where not even a connection comes about. A mirror has fewer of
    both, since there is another place to ask, and is left alone for `mirror_rest` after it failed.
    """

    attempts: int = 6
    unreachable: int = 5
    base: float = 0.4
    longest: float = 30.0
    total: float = 180.0
    mirror_attempts: int = 2
    mirror_rest: float = 60.0


class Retrying:
    """The attempts at one thing. `wait` sleeps, and returns True when the agent stops meanwhile."""

    def __init__(
        self,
        policy: RetryPolicy,
        wait: Callable[[float], bool],
        *,
        is_mirror: bool = False,
    ) -> None:
        self._policy, self._wait = policy, wait
        self._limit = policy.mirror_attempts if is_mirror else policy.attempts
        self._waited = 0.0
        self.attempts = 1

    def again(self, asked: float | None = None, *, unreachable: bool = False) -> bool:
        """Wait and return True if there is another attempt. `asked` is the wait that a Retry-After wants.

        One that is longer than what is left of the total means that there is none.
        """
        limit = min(self._limit, self._policy.unreachable) if unreachable else self._limit
        if self.attempts >= limit:
            return False
        # Jitter, so that a fleet does not come back all at once.
        delay = min(self._policy.base * 2 ** (self.attempts - 1), self._policy.longest)
        delay *= random.uniform(0.5, 1.0)
        if asked is not None:
            delay += asked
        if self._waited + delay > self._policy.total:
            return False
        self._waited += delay
        if self._wait(delay):
            raise Unavailable("the agent is stopping: registries are not asked any more")
        self.attempts += 1
        return True
