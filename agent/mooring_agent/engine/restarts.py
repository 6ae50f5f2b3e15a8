# SPDX-License-Identifier: Apache-2.0
"""When a container that has ended is started again: Docker's restart policies and its pauses. Pure."""

from __future__ import annotations

from .container import Container

# Docker's figures: the pause before a restart doubles from 100 ms to a minute, and starts over after ten good
# seconds.
_PAUSE_FIRST = 0.1
_PAUSE_MOST = 60.0
_GOOD_RUN = 10.0


def restarts(container: Container) -> bool:
    """Whether the policy of a container that has ended wants it back."""
    policy = container.spec.restart
    if not container.wanted or policy.name == "no":
        return False
    if policy.name != "on-failure":
        return True
    return container.exit_code != 0 and (
        not policy.max_retries or container.restart_count < policy.max_retries
    )


def count_so_far(container: Container) -> int:
    """How many restarts in a row there have been; a good run ends the row."""
    ran = (container.finished_at or 0) - (container.started_at or 0)
    return 0 if ran >= _GOOD_RUN else container.restart_count


def pause(count: int) -> float:
    """Seconds until the next restart, after `count` in a row."""
    return min(_PAUSE_FIRST * (1 << min(count, 16)), _PAUSE_MOST)
