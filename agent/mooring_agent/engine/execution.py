# SPDX-License-Identifier: Apache-2.0
"""A further process in a running container."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from .execplans import ExecSpec
from .streams import ExecStreams

# What a shell gives for a command that is there and cannot be run; docker's exec gives it for an unknown user
# too.
_CANNOT_RUN = 126
_NOT_FOUND = 127


@dataclass(eq=False)
class Exec:
    """One such process. `exit_code` is None until it has ended, and 255 where it could not be learned, which
    `exit_known` says, and which may be learned later.

    `asked` is set once the keeper has been asked for it, `told` once its start has been told, and `streams`
    while somebody has its streams. `unheard` is one whose output went with the keeper that started it: nobody
    is to take it for done, so its exit code is 255 whatever becomes of it.
    """

    id: str
    container_id: str
    spec: ExecSpec
    pid: int | None = None
    start_time: int = 0
    running: bool = False
    started: bool = False
    asked: bool = False
    told: bool = False
    unheard: bool = False
    exit_code: int | None = None
    exit_known: bool = True
    master: int = -1
    streams: ExecStreams | None = None
    ended: asyncio.Future[int] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def end_is_news(self, *, known: bool) -> bool:
        """Whether what is told about its end is more than what has been told."""
        return self.exit_code is None or (known and not self.exit_known and not self.unheard)

    def refuse(self, exit_code: int = _CANNOT_RUN) -> None:
        """It has not begun, with this exit code, and has that of a shell."""
        self.exit_code = _NOT_FOUND if exit_code == _NOT_FOUND else _CANNOT_RUN

    def view(self) -> dict[str, Any]:
        """As the Mooring API shows it."""
        return {
            "id": self.id,
            "container": self.container_id,
            "running": self.running,
            "exit_code": self.exit_code,
            "exit_known": self.exit_known,
            "pid": self.pid,
        }
