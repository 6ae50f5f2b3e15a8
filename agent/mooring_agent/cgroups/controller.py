# SPDX-License-Identifier: Apache-2.0
"""The contract of a controller's module: `v1/memory.py`, `v2/memory.py`, `v1/cpu.py` and so on.

Each is a set of pure functions between Resources and interface files. What touches a group lives in
`group.py`, so that every decision about values and their order can be tested without a kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from ..errors import Conflict, MooringError
from .resources import Resources, Setting

Contents = Mapping[str, str]
"""Interface file → what it holds now. A file that this kernel does not have is absent."""


@dataclass(frozen=True)
class Refusal:
    """A write that the kernel refused."""

    group: str
    setting: Setting
    errno: int
    reason: str
    contents: Contents
    """The group's files right after the refusal."""
    parent: Contents
    """The same files of the parent group."""

    def error(self) -> MooringError:
        """The plain error, for refusals that a controller has no better words for."""
        return Conflict(
            f'the kernel refused "{self.setting.value}" for {self.setting.file} of group {self.group}: '
            f"{self.reason}; the value there stays as it was"
        )


class Controller(Protocol):
    """What each controller's module offers."""

    @property
    def NAME(self) -> str:
        """The controller."""

    @property
    def FILES(self) -> tuple[str, ...]:
        """The files that `plan` and `parse` want to see."""

    def settings(self, resources: Resources) -> tuple[Setting, ...]:
        """What to write, in order, to a group that has just been made: what is stated and nothing else."""

    def plan(self, resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
        """What to write to a living group so that it has exactly these limits, in an order that the kernel
        takes.

        Values that are right already are left out. NotSupported when this kernel lacks what is asked for.
        """

    def parse(self, contents: Contents) -> dict[str, Any]:
        """The fields of Resources that the files stand for. None is "no limit"."""

    def explain(self, refusal: Refusal) -> MooringError:
        """The error to raise when a write of this controller was refused."""
