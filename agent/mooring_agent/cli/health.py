# SPDX-License-Identifier: Apache-2.0
"""How a container is asked whether it is healthy, from the options of `mooring run`."""

from __future__ import annotations

import argparse
from typing import Any

from ..engine.resources.health import DOCKER, NONE, SPANS, Span
from ..errors import InvalidSpec


def healthcheck(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """These options as `Healthcheck` of the Docker Engine API; None where none was given."""
    spans = {
        DOCKER[name]: Span().parse(text, f"--health-{name.replace('_', '-')}") or 0
        for name in SPANS
        if (text := getattr(arguments, f"health_{name}")) is not None
    }
    check: dict[str, Any] = dict(spans)
    if arguments.health_cmd is not None:
        check["Test"] = ["CMD-SHELL", arguments.health_cmd]
    if arguments.health_retries is not None:
        check["Retries"] = arguments.health_retries
    if not arguments.no_healthcheck:
        return check or None
    if check:
        raise InvalidSpec(
            "--no-healthcheck cannot be combined with other options about health: leave it or them out"
        )
    return {"Test": list(NONE)}
