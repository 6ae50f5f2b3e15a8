# SPDX-License-Identifier: Apache-2.0
"""The options of `mooring run` that say how a container is asked whether it is healthy."""

from __future__ import annotations

import argparse


def health(run: argparse.ArgumentParser) -> None:
    """The options, as docker has them."""
    run.add_argument("--health-cmd", metavar="COMMAND", help="what a shell runs to ask whether it is healthy")
    run.add_argument("--health-interval", metavar="TIME", help='between two checks, such as "30s"')
    run.add_argument("--health-timeout", metavar="TIME", help="how long a check may take")
    run.add_argument("--health-start-period", metavar="TIME", help="for how long failures do not count")
    run.add_argument("--health-start-interval", metavar="TIME", help="between two checks meanwhile")
    run.add_argument("--health-retries", type=int, metavar="N", help="failures in a row that it may not have")
    run.add_argument("--no-healthcheck", action="store_true", help="leave the image's check out")
