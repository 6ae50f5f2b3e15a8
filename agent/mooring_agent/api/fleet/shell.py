# SPDX-License-Identifier: Apache-2.0
"""`POST …/containers/NAME/shell`: a terminal in a container over an upgraded connection.

The bytes are those of the pty, both ways, until the process ends. The answer's header `Mooring-Exec-Id` names
the exec, by which it is resized, signalled and asked what it waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from ...engine.execs import ExecSpec
from ...errors import MooringError
from ..duplex import carry
from ..fields import Fields, assignments
from ..messages import Hijack, RawStream, Reply, Request
from ..router import Route
from .execs import window

if TYPE_CHECKING:
    from ...engine.engine import Engine

PROTOCOL = "mooring-stream"
_FIELDS = ("argv", "env", "workdir", "user", "cols", "rows")
_ROWS, _COLS = 24, 80


class UpgradeRequired(MooringError):
    """The call needs an upgraded connection (RFC 9110, 15.5.22)."""

    status = 426
    code = "upgrade_required"


class ShellCalls:
    """Terminals in containers."""

    def __init__(self, engine: Engine) -> None:
        self._execs = engine.execs
        self._containers = engine.containers

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("POST", "/mooring/v1/containers/{name}/shell", self.open)

    async def open(self, request: Request) -> Reply:
        """Start a process on a new terminal and hand the connection over to it."""
        name = request.params["name"]
        body = await request.json()
        if PROTOCOL not in request.headers.get("upgrade", ""):
            raise UpgradeRequired(
                f"a shell in {name} needs a connection of its own: send the headers "
                f"'Connection: Upgrade' and 'Upgrade: {PROTOCOL}'"
            )
        fields = Fields(body, f"shell in {name}", _FIELDS)
        rows, cols = window(fields, _ROWS, _COLS)
        execution = await self._execs.create(
            self._containers.get(name).id,
            ExecSpec(
                argv=tuple(fields.argv("argv")),
                env=assignments(fields.environment("env")),
                workdir=fields.text("workdir") or None,
                user=fields.text("user") or None,
                tty=True,
                stdin=True,
                stdout=True,
                stderr=True,
                privileged=False,
                rows=rows,
                cols=cols,
            ),
        )
        streams = await self._execs.start(execution.id)
        assert streams is not None  # it was not asked to detach

        async def serve(raw: RawStream) -> None:
            try:
                await carry(raw, streams, framed=False, stdin=True)
            finally:
                # Nobody can come back to this terminal: hang up, as sshd does when its client is gone.
                with suppress(MooringError, OSError):
                    self._execs.signal(execution.id, "HUP", target="leader")

        return Hijack(
            serve, content_type=None, protocol=PROTOCOL, headers=[("Mooring-Exec-Id", execution.id)]
        )
