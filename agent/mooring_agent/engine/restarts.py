# SPDX-License-Identifier: Apache-2.0
"""When a container that has ended is started again: Docker's restart policies and its pauses. Pure."""

from __future__ import annotations

from .container import Container
from .health import UNHEALTHY

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
    failed = container.exit_code != 0 or container.failing
    return failed and (not policy.max_retries or container.restart_count < policy.max_retries)


def restarts_unhealthy(container: Container) -> bool:
    """Whether a container that runs and is unhealthy is to be started again: its policy would do so after an
    end, and its check asks for it.
    """
    policy, check, health = container.spec.restart, container.check, container.health
    if check is None or not check.restart or health is None or health.status != UNHEALTHY:
        return False
    if container.status != "running" or not container.wanted or policy.name == "no":
        return False
    count = 0 if health.served else container.restart_count
    return policy.name != "on-failure" or not policy.max_retries or count < policy.max_retries


def count_so_far(container: Container) -> int:
    """How many restarts in a row there have been; a good run ends the row, one that never got healthy and was
    ended for that is none.
    """
    ran = (container.finished_at or 0) - (container.started_at or 0)
    in_vain = container.failing and container.health is not None and not container.health.served
    return 0 if ran >= _GOOD_RUN and not in_vain else container.restart_count


def pause(count: int) -> float:
    """Seconds until the next restart, after `count` in a row."""
    return min(_PAUSE_FIRST * (1 << min(count, 16)), _PAUSE_MOST)
