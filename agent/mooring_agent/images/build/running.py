# SPDX-License-Identifier: Apache-2.0
"""The seam to what runs the commands of RUN: the engine, in a container of its own for each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from mooring_agent.images.build.options import RunLimits
from mooring_agent.images.turns import Stop

Output = Callable[[int, bytes], None]
"""Takes what a command has written to its stream 1 (output) or 2 (errors), as it comes; may be called from
any thread and must not block.
"""


@dataclass(frozen=True, slots=True)
class RunBind:
    """A directory or file of the host; several directories, topmost first, are shown as one (read-only)."""

    target: str
    sources: tuple[Path, ...]
    read_only: bool


@dataclass(frozen=True, slots=True)
class RunTmpfs:
    """An empty directory in memory, of `size` bytes or without a bound."""

    target: str
    size: int | None = None


@dataclass(frozen=True, slots=True)
class RunFile:
    """A file that must not reach a disk or a layer: a secret."""

    target: str
    content: bytes = field(repr=False)
    mode: int = 0o400
    uid: int = 0
    gid: int = 0


RunMount = RunBind | RunTmpfs | RunFile


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A command to be run in the active snapshot `key`.

    `stubs` is a directory to be laid under the snapshot's own layer, with the places for mounts that the
    image lacks; None where the snapshot is no overlay, and they are in it. `network` is default, none, host
    or the name of a network.
    """

    key: str
    stubs: Path | None
    argv: tuple[str, ...]
    env: tuple[str, ...] = field(repr=False)
    user: str
    workdir: str
    mounts: tuple[RunMount, ...]
    network: str
    limits: RunLimits


class Runner(Protocol):
    """Runs commands, and leaves nothing of them but what they wrote into their snapshot."""

    def run(self, request: RunRequest, output: Output, stop: Stop) -> int:
        """Run a command to its end; returns its exit code.

        It is killed when `stop` says so, which raises Cancelled. Raises what kept it from being started.
        Called in a thread of the build.
        """
        ...
