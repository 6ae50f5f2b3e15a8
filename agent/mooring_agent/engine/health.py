# SPDX-License-Identifier: Apache-2.0
"""Whether a container is healthy: what its check is, and what follows from the answers. Pure.

Follows dockerd: a container is "starting" until the first success, or until as many failures in a row as
`retries` says, of which those in the start period do not count. Spans are nanoseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import InvalidSpec
from .resources import ContainerSpec, Healthcheck
from .resources.health import NONE, SECOND, inherited, of_image

STARTING, HEALTHY, UNHEALTHY = "starting", "healthy", "unhealthy"
STATUSES = (STARTING, HEALTHY, UNHEALTHY)

# Docker's defaults.
_INTERVAL = 30 * SECOND
_TIMEOUT = 30 * SECOND
_START_INTERVAL = 5 * SECOND
_RETRIES = 3
_SHELL = ("/bin/sh", "-c")
_LOGGED = 5


@dataclass(frozen=True, slots=True)
class Check:
    """A check with nothing left open: `argv` is what is executed, `restart` that its restart policy starts a
    container again that is unhealthy.
    """

    argv: tuple[str, ...]
    interval: int
    timeout: int
    start_period: int
    start_interval: int
    retries: int
    restart: bool


@dataclass(frozen=True, slots=True)
class Probe:
    """One answer. Moments are nanoseconds since the epoch; an `exit_code` of -1 is a probe that did not come
    to its end, or could not begin.
    """

    start: int
    end: int
    exit_code: int
    output: str


@dataclass(frozen=True, slots=True)
class Health:
    """What is known of one run of a container. `log` has the last answers, the newest last; `served` says
    that it has been healthy in this run.
    """

    status: str = STARTING
    failing_streak: int = 0
    log: tuple[Probe, ...] = ()
    served: bool = False

    @property
    def output(self) -> str:
        """What the last probe has said."""
        return self.log[-1].output if self.log else ""


def image_part(config: Mapping[str, Any]) -> dict[str, Any]:
    """What has to be known of an image's configuration: its HealthConfig and its shell, unless it has none
    and the usual one.
    """
    return {key: config[key] for key in ("Healthcheck", "Shell") if config.get(key)}


def declared_check(spec: ContainerSpec, image: Mapping[str, Any]) -> Healthcheck | None:
    """What holds of the declaration and of the image, as `image_part` tells of it; None where both are
    silent. Raises InvalidSpec for an image's that means nothing, unless it is declared that there is none.
    """
    declared = spec.healthcheck
    if declared is not None and declared.test == NONE:
        return declared
    base = of_image(image.get("Healthcheck") or {}, f"image {spec.image}")
    return None if declared is None and base is None else inherited(declared, base)


def settled(spec: ContainerSpec, image: Mapping[str, Any], name: str) -> Check | None:
    """The check of the container `name`; None if it has none. Raises InvalidSpec for one without a test."""
    found = declared_check(spec, image)
    if found is None or found.test == NONE:
        return None
    if found.test is None:
        raise InvalidSpec(
            f"container {name} has a healthcheck without a test, and image {spec.image} gave it none; "
            "add the test, or remove the healthcheck"
        )
    kind, *command = found.test
    shell = image.get("Shell") or _SHELL
    return Check(
        argv=(*shell, *command) if kind == "CMD-SHELL" else tuple(command),
        interval=found.interval or _INTERVAL,
        timeout=found.timeout or _TIMEOUT,
        start_period=found.start_period or 0,
        start_interval=found.start_interval or _START_INTERVAL,
        retries=found.retries or _RETRIES,
        restart=found.on_unhealthy == "restart",
    )


def after(health: Health, probe: Probe, check: Check, age: int, *, extra: bool = False) -> Health:
    """What is known after a probe that began `age` after the container's start.

    The failure of an `extra` probe, made because somebody waits, is kept and does not count.
    """
    log = (*health.log, probe)[-_LOGGED:]
    if probe.exit_code == 0:
        return Health(HEALTHY, 0, log, served=True)
    if extra or (health.status == STARTING and age < check.start_period):
        return replace(health, log=log)
    streak = health.failing_streak + 1
    status = UNHEALTHY if streak >= check.retries else health.status
    return replace(health, status=status, failing_streak=streak, log=log)


def pause(health: Health, check: Check, age: int) -> int:
    """How long until the next probe, `age` after the container's start."""
    if health.status == STARTING and age < check.start_period:
        return check.start_interval
    return check.interval


def ended(health: Health) -> Health:
    """What is known of a container that has ended: as dockerd has it, it is unhealthy."""
    return replace(health, status=UNHEALTHY)
