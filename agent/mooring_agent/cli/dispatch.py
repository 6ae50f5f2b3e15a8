# SPDX-License-Identifier: Apache-2.0
"""From the command line to the function that does it, and from its exceptions to one line on stderr."""

from __future__ import annotations

import importlib
import os
import sys
from typing import cast

from ..errors import MooringError
from .arguments import parser

FAILED, INTERRUPTED = 1, 130  # and grammar.USAGE


def dispatch(argv: list[str]) -> int:
    """Run one command; returns its exit status."""
    arguments = parser().parse_args(argv)
    module, _, function = arguments.call.partition(".")
    call = getattr(importlib.import_module(f"{__package__}.{module}"), function)
    try:
        status = cast(int, call(arguments))
        sys.stdout.flush()
        return status
    except MooringError as error:
        return _fail(error.message)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever reads our output has left, such as `head`: nothing may be flushed into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _fail(message: str) -> int:
    print(f"mooring: {message}", file=sys.stderr)
    return FAILED
