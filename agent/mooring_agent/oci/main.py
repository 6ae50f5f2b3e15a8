# SPDX-License-Identifier: Apache-2.0
"""The entry point of `mooring oci` and of the executable `mooring-oci`."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import cast

from .. import __version__
from ..errors import MooringError
from .commands import COMMANDS, GLOBAL
from .options import Parsed, describe, parse
from .runtime import Runtime

SPEC_VERSION = "1.2.0"
FAILED = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    # No stack of Python's for ^C, and a reader that has left is no error of ours.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    runtime: Runtime | None = None
    try:
        options, rest = parse(GLOBAL, given, stop_after=0)
        runtime = Runtime.from_options(options)
        if options.version:
            _write(_version())
            return 0
        if options.help or not rest:
            _write(_overview())
            return 0 if options.help else FAILED
        return _run(runtime, rest[0], rest[1:])
    except MooringError as error:
        (runtime or Runtime()).complain(error.message)
        return getattr(error, "exit_status", FAILED)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        (runtime or Runtime()).complain(f"{name}{error.strerror or error}")
        return FAILED


def _run(runtime: Runtime, name: str, arguments: list[str]) -> int:
    command = COMMANDS.get(name)
    if command is None:
        runtime.complain(f"unknown command {name}; see --help for those there are")
        return FAILED
    parsed, rest = parse(command.options, arguments, stop_after=1 if command.rest else None)
    if parsed.help:
        _write(f"Usage: {_program()} [OPTION...] {name} {command.arguments}\n\n{command.help}\n\n")
        _write(describe(command.options) + "\n")
        return 0
    parsed.words += rest
    _check_count(
        command.name, command.arguments, parsed, command.least, None if command.rest else command.most
    )
    module, _, function = command.call.partition(".")
    call = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    status = cast(int, call(runtime, parsed))
    sys.stdout.flush()
    return status


def _check_count(name: str, expected: str, parsed: Parsed, least: int, most: int | None) -> None:
    from ..errors import InvalidSpec

    count = len(parsed.words)
    if count < least or (most is not None and count > most):
        raise InvalidSpec(f"{name} was given {count} arguments, expected: {expected or 'none'}")


def _program() -> str:
    return os.path.basename(sys.argv[0]) if sys.argv[0].endswith("-oci") else "mooring oci"


def _version() -> str:
    return f"mooring-oci version {__version__}\nspec: {SPEC_VERSION}\n+SECCOMP +CAP +PYTHON\n"


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = "\n".join(f"  {one.name:<{width}}  {one.help}" for one in COMMANDS.values())
    return f"Usage: {_program()} [OPTION...] COMMAND\n\nCommands:\n{lines}\n\nOptions:\n{describe(GLOBAL)}\n"


def _write(text: str) -> None:
    sys.stdout.write(text)
