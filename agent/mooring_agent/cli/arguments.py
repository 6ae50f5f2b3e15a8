# SPDX-License-Identifier: Apache-2.0
"""The grammar of the command line; a command names its module, so that only that one is imported."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import __version__
from ..config import DEFAULT_DATA_ROOT, DEFAULT_NETWORK_PREFIX, DEFAULT_RUN_ROOT

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def parser() -> argparse.ArgumentParser:
    """The parser of `mooring`."""
    top = argparse.ArgumentParser(prog="mooring", description="A container fleet: the agent of one host.")
    top.add_argument("--version", action="version", version=f"mooring {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _agent(commands)
    return top


def _agent(commands: _Commands) -> None:
    agent = commands.add_parser("agent", help="run the agent in the foreground")
    agent.set_defaults(module="agent", call="run")
    agent.add_argument(
        "--data-root", default=str(DEFAULT_DATA_ROOT), metavar="DIR", help="what is kept: images, state"
    )
    agent.add_argument(
        "--run-root", default=str(DEFAULT_RUN_ROOT), metavar="DIR", help="what a reboot may take"
    )
    agent.add_argument("--socket", metavar="PATH", help="where it answers (default: RUN-ROOT/mooring.sock)")
    agent.add_argument("--cgroup-parent", metavar="NAME", help="the cgroup above all containers")
    agent.add_argument(
        "--network-prefix", default=DEFAULT_NETWORK_PREFIX, metavar="CIDR", help="networks take a /24 of this"
    )
    agent.add_argument("--name", metavar="NAME", help="how the agent calls itself (default: the host's name)")
    agent.add_argument("--log-level", default="info", choices=("debug", "info", "warning", "error"))
