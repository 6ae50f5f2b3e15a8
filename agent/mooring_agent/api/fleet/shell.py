# SPDX-License-Identifier: Apache-2.0
"""`POST …/containers/NAME/shell`: a terminal in a container over an upgraded connection.

The bytes are those of the pty, both ways, until the process ends. The answer's header `Mooring-Exec-Id` names
the exec, by which it is resized, signalled and asked what it waits for. After a restart of the agent `POST
…/execs/ID/attach` takes its streams up again: those of a terminal as they are, others in docker's frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...engine.execplans import ExecSpec
from ...errors import MooringError
from ..duplex import carry
from ..fields import Fields, assignments
from ..messages import Hijack, RawStream, Reply, Request
from ..router import Need, Route
from .execs import window

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ...engine.execution import Exec
    from ...engine.streams import ExecStreams

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
        yield Route("POST", "/mooring/v1/containers/{name}/shell", self.open, needs=Need.ALL)
        yield Route("POST", "/mooring/v1/execs/{id}/attach", self.attach, needs=Need.ALL)

    async def open(self, request: Request) -> Reply:
        """Start a process on a new terminal and hand the connection over to it."""
        name = request.params["name"]
        body = await request.json()
        _require_upgrade(request, f"a shell in {name}")
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
                hangs_up=True,
            ),
        )
        streams = await self._execs.start(execution.id)
        assert streams is not None  # it was not asked to detach
        return self._served(execution, streams)

    async def attach(self, request: Request) -> Reply:
        """Hand the connection over to an exec whose agent has gone in the meantime."""
        id = request.params["id"]
        _require_upgrade(request, f"a client of exec {id}")
        execution = self._execs.get(id)
        return self._served(execution, await self._execs.attach(id))

    def _served(self, execution: Exec, streams: ExecStreams) -> Reply:
        async def serve(raw: RawStream) -> None:
            try:
                await carry(raw, streams, framed=not streams.tty, stdin=True, close_stdin=not streams.tty)
            finally:
                self._execs.client_has_left(execution)

        def unserved() -> None:
            streams.close()
            self._execs.client_has_left(execution)

        return Hijack(
            serve,
            content_type=None,
            protocol=PROTOCOL,
            headers=[("Mooring-Exec-Id", execution.id)],
            unserved=unserved,
        )


def _require_upgrade(request: Request, what: str) -> None:
    if PROTOCOL not in request.headers.get("upgrade", ""):
        raise UpgradeRequired(
            f"{what} needs a connection of its own: send the headers "
            f"'Connection: Upgrade' and 'Upgrade: {PROTOCOL}'"
        )
