# SPDX-License-Identifier: Apache-2.0
"""`Healthcheck` of a body, and `State.Health` of an answer: health checks in Docker's words.

Follows `HealthConfig` and `Health` of the Docker Engine API 1.47, and dockerd's `validateHealthCheck` for
what is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ...engine.health import declared_check
from ...engine.resources.health import DOCKER, KINDS, LEAST_SPAN, SPANS, from_docker, to_docker
from ...errors import InvalidSpec
from ..timestamps import rfc3339
from .rules import Draft, canonical, integer, mapping, refused, texts

if TYPE_CHECKING:
    from ...engine.container import Container

_KNOWN = tuple(DOCKER.values())
_NOT_CHECKED = "none"
STATUSES = ("starting", "healthy", "unhealthy", _NOT_CHECKED)


def healthcheck(draft: Draft, value: Any, where: str) -> None:
    """A check, or a part of one that the image completes."""
    given = canonical(mapping(value, where) or {}, _KNOWN)
    for key in given:
        if key not in _KNOWN:
            raise InvalidSpec(f"option {where}.{key} is not known: expected one of {', '.join(_KNOWN)}")
    test = texts(given.get("Test"), f"{where}.Test")
    if test and (test[0] not in KINDS or (len(test) == 1) is not (test[0] == "NONE")):
        expected = '["NONE"], ["CMD", ARGUMENT, …] or ["CMD-SHELL", COMMAND]'
        raise refused(f"{where}.Test", test, expected)
    for name in map(DOCKER.__getitem__, SPANS):
        span = integer(given.get(name), f"{where}.{name}")
        if span is not None and span < LEAST_SPAN:
            raise refused(f"{where}.{name}", span, "nanoseconds, 1000000 (a millisecond) at least, or 0")
    retries = integer(given.get("Retries"), f"{where}.Retries")
    if retries is not None and retries < 0:
        raise refused(f"{where}.Retries", retries, "a number of failures in a row, or 0")
    if test == ["NONE"]:
        draft.spec["healthcheck"] = {"test": test}
    elif check := from_docker(given):
        draft.spec["healthcheck"] = check


def config(container: Container) -> dict[str, Any] | None:
    """`Config.Healthcheck`: what holds, the image's with it; None where there is nothing."""
    check = declared_check(container.spec, container.image_health)
    return None if check is None else to_docker(check)


def health(container: Container) -> dict[str, Any] | None:
    """`State.Health`; None for a container without a check."""
    found = container.health
    if found is None:
        return None
    return {
        "Status": found.status,
        "FailingStreak": found.failing_streak,
        "Log": [
            {
                "Start": rfc3339(probe.start),
                "End": rfc3339(probe.end),
                "ExitCode": probe.exit_code,
                "Output": probe.output,
            }
            for probe in found.log
        ],
    }


def status(container: Container) -> str:
    """The word for a container that filters go by."""
    return _NOT_CHECKED if container.health is None else container.health.status


def suffix(container: Container) -> str:
    """What `docker ps` puts behind how long a container has been up."""
    word = status(container)
    if word == _NOT_CHECKED:
        return ""
    return f" (health: {word})" if word == "starting" else f" ({word})"


def selected(values: tuple[str, ...]) -> Mapping[str, None]:
    """The statuses that a filter `health=` names. Raises InvalidSpec for a word that is none."""
    for value in values:
        if value not in STATUSES:
            raise InvalidSpec(f"filter health={value!r} is unknown: expected one of {', '.join(STATUSES)}")
    return dict.fromkeys(values)
