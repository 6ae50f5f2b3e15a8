# SPDX-License-Identifier: Apache-2.0
"""`POST …/containers/NAME/exec`, which runs a command to its end, and `/mooring/v1/execs/ID`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from ...errors import InvalidSpec
from ..fields import Fields
from ..messages import Reply, Request, json_response, no_content
from ..router import Need, Route

if TYPE_CHECKING:
    from ...engine.engine import Engine

MAX_OUTPUT_BYTES = 1 << 20
LARGEST_MAX_OUTPUT_BYTES = 1 << 30
MAX_WINDOW = 65535  # struct winsize holds unsigned shorts, ioctl_tty(2)

_RUN_FIELDS = ("argv", "env", "workdir", "user", "stdin", "timeout", "max_output")
_SIGNALS = ("INT", "TERM", "KILL")
_TARGETS = ("foreground", "leader")


class ExecCalls:
    """Calls about commands inside running containers."""

    def __init__(self, engine: Engine) -> None:
        self._execs = engine.execs
        self._containers = engine.containers

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        base = "/mooring/v1/execs/{id}"
        yield Route("POST", "/mooring/v1/containers/{name}/exec", self.run, needs=Need.ALL)
        yield Route("GET", base, self.show, needs=Need.READ)
        yield Route("GET", base + "/foreground", self.foreground, needs=Need.READ)
        yield Route("POST", base + "/signal", self.signal, needs=Need.ALL)
        yield Route("POST", base + "/resize", self.resize, needs=Need.ALL)

    async def run(self, request: Request) -> Reply:
        """Run to the end: {exit_code, stdout, stderr, truncated, timed_out}."""
        name = request.params["name"]
        fields = Fields(await request.json(), f"exec in {name}", _RUN_FIELDS)
        stdin = fields.text("stdin")
        result = await self._execs.run(
            self._containers.get(name).id,
            tuple(fields.argv("argv")),
            env=fields.environment("env"),
            workdir=fields.text("workdir") or None,
            user=fields.text("user") or None,
            stdin=stdin.encode("utf-8", "surrogatepass") if stdin else None,
            timeout=fields.seconds("timeout"),
            max_output=fields.integer(
                "max_output", MAX_OUTPUT_BYTES, minimum=0, maximum=LARGEST_MAX_OUTPUT_BYTES
            ),
        )
        return json_response(result)

    async def show(self, request: Request) -> Reply:
        """{id, container, running, exit_code, pid}."""
        return json_response(self._execs.get(request.params["id"]).view())

    async def foreground(self, request: Request) -> Reply:
        """What the terminal's foreground process group does, and whether it waits for input."""
        return json_response(self._execs.foreground(request.params["id"]))

    async def signal(self, request: Request) -> Reply:
        """Signal the terminal's foreground group, or the process that the exec started."""
        fields = Fields(await request.json(), "signal", ("signal", "target"))
        name = fields.text("signal").upper().removeprefix("SIG")
        target = fields.text("target", "foreground")
        if name not in _SIGNALS:
            raise InvalidSpec(f"signal is {name!r}, expected one of {', '.join(_SIGNALS)}")
        if target not in _TARGETS:
            raise InvalidSpec(f"target is {target!r}, expected one of {', '.join(_TARGETS)}")
        self._execs.signal(request.params["id"], name, target)
        return no_content()

    async def resize(self, request: Request) -> Reply:
        """Give the terminal another size."""
        fields = Fields(await request.json(), "resize", ("rows", "cols"))
        rows, cols = window(fields, 0, 0, minimum=1)
        self._execs.resize(request.params["id"], rows, cols)
        return no_content()


def window(fields: Fields, rows: int, cols: int, *, minimum: int = 0) -> tuple[int, int]:
    """The size of a terminal, in characters."""
    return (
        fields.integer("rows", rows, minimum=minimum, maximum=MAX_WINDOW),
        fields.integer("cols", cols, minimum=minimum, maximum=MAX_WINDOW),
    )
