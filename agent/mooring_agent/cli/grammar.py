# SPDX-License-Identifier: Apache-2.0
"""How commands are added to the command line: each names its module, so that only that one is imported."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

USAGE = 2


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        print(f"{self.prog}: {message}; see '{self.prog} --help'", file=sys.stderr)
        sys.exit(USAGE)


if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[Parser]


def add_socket(command: argparse.ArgumentParser) -> None:
    """Let the agent's socket be named."""
    # A default of a subcommand would override what stands before it.
    command.add_argument(
        "--socket",
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="the agent's socket (default: $MOORING_SOCKET, else /run/mooring/mooring.sock)",
    )


def add_command(
    commands: Commands, name: str, help: str, call: str, *, output: bool = False
) -> argparse.ArgumentParser:
    """A command that is done by `call`, "MODULE.FUNCTION"."""
    command = commands.add_parser(name, help=help, description=help)
    command.set_defaults(call=call)
    add_socket(command)
    if output:
        command.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    return command


def add_group(commands: Commands, name: str, help: str) -> Commands:
    """A command that others follow."""
    group = commands.add_parser(name, help=help, description=help)
    return group.add_subparsers(metavar="COMMAND", required=True)
