# SPDX-License-Identifier: Apache-2.0
"""How a build fails: which instruction, what it said last, and with which exit code."""

from __future__ import annotations

from mooring_agent.errors import MooringError
from mooring_agent.images.dockerfile.errors import Location

_LONGEST_SOURCE = 200  # characters of an instruction in a message


class BuildFailed(MooringError):
    """A command of RUN ended with an exit code other than 0."""

    status = 400
    code = "build_failed"

    def __init__(self, location: Location, exit_code: int, output: str, argv: tuple[str, ...] = ()) -> None:
        """`output` is the end of what the command `argv` wrote."""
        said = f"; the end of its output:\n{output}" if output else "; it wrote nothing"
        super().__init__(f"{place_of(location)} ended with exit code {exit_code}{said}")
        self.exit_code = exit_code
        self.output = output
        self.argv = argv


def place_of(location: Location) -> str:
    """Where an instruction stands, and what it is, for the beginning of a message."""
    source = " ".join(location.source.split())
    if len(source) > _LONGEST_SOURCE:
        source = source[:_LONGEST_SOURCE] + "…"
    return f"{location.file}:{location.start}: {source}"
