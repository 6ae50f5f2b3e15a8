# SPDX-License-Identifier: Apache-2.0
"""`/mooring/v1/containers`: declared containers, their life, their logs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any

from ...errors import InvalidSpec
from ..messages import NDJSON, Reply, Request, Stream, encode, json_response
from ..router import Need, Route
from ..timestamps import parse, rfc3339

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine

_STREAM_NAMES = {1: "stdout", 2: "stderr"}


class ContainerCalls:
    """Calls about containers as declared things."""

    def __init__(self, engine: Engine) -> None:
        self._containers = engine.containers

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        base = "/mooring/v1/containers"
        yield Route("GET", base, self.list, needs=Need.READ)
        yield Route("GET", base + "/{name}", self.show, needs=Need.READ)
        yield Route("PUT", base + "/{name}", self.put, needs=Need.ALL)
        yield Route("PATCH", base + "/{name}", self.update, needs=Need.ALL)
        yield Route("DELETE", base + "/{name}", self.delete, needs=Need.ALL)
        yield Route("POST", base + "/{name}/start", self.start, needs=Need.ALL)
        yield Route("POST", base + "/{name}/stop", self.stop, needs=Need.ALL)
        yield Route("POST", base + "/{name}/restart", self.restart, needs=Need.ALL)
        yield Route("POST", base + "/{name}/drain", self.drain, needs=Need.ALL)
        yield Route("GET", base + "/{name}/logs", self.logs, abandon=True, needs=Need.READ)

    async def list(self, request: Request) -> Reply:
        """All containers, or those that carry every `label=K[=V]` that is asked for."""
        wanted = [label.partition("=") for label in request.query.many("label")]
        views = [
            container.view(log=False)
            for container in self._containers.list()
            if all(_has_label(container, key, value if mark else None) for key, mark, value in wanted)
        ]
        return json_response(views)

    async def show(self, request: Request) -> Reply:
        """One container."""
        return json_response(self._containers.get(request.params["name"]).view())

    async def put(self, request: Request) -> Reply:
        """Make a container what the spec says."""
        spec = await request.json()
        dry_run = request.query.flag("dry_run")
        return json_response(await self._containers.put(request.params["name"], spec, dry_run=dry_run))

    async def update(self, request: Request) -> Reply:
        """Change live options of a container but its state, and leave the others as they are; null takes one
        back.
        """
        name = request.params["name"]
        await self._containers.update(name, await request.json())
        return json_response(self._containers.get(name).view())

    async def delete(self, request: Request) -> Reply:
        """Make a container not be. With `force=false` a running one is a Conflict."""
        query = request.query
        outcome = await self._containers.delete(
            request.params["name"],
            force=query.flag("force", default=True),
            timeout=query.number("timeout", minimum=0),
            dry_run=query.flag("dry_run"),
        )
        return json_response(outcome)

    async def start(self, request: Request) -> Reply:
        """Start it, unless it runs."""
        container = self._containers.get(request.params["name"])
        running = container.status in ("running", "restarting")
        return await self._act(
            request, container, "start", not running, lambda: self._containers.start(container.id)
        )

    async def stop(self, request: Request) -> Reply:
        """Stop it, unless it is stopped; `timeout` seconds until it is killed."""
        container = self._containers.get(request.params["name"])
        timeout = request.query.number("timeout", minimum=0)
        running = container.status in ("running", "restarting", "paused")
        return await self._act(
            request, container, "stop", running, lambda: self._containers.stop(container.id, timeout=timeout)
        )

    async def restart(self, request: Request) -> Reply:
        """Stop it if it runs, and start it."""
        container = self._containers.get(request.params["name"])
        timeout = request.query.number("timeout", minimum=0)
        return await self._act(
            request,
            container,
            "restart",
            True,
            lambda: self._containers.restart(container.id, timeout=timeout),
        )

    async def drain(self, request: Request) -> Reply:
        """Take it out of the ports that it shares; its connections have `timeout` seconds to end."""
        query = request.query
        outcome = await self._containers.drain(
            self._containers.get(request.params["name"]).name,
            query.number("timeout", minimum=0),
            dry_run=query.flag("dry_run"),
        )
        return json_response(outcome)

    async def _act(
        self,
        request: Request,
        container: Container,
        action: str,
        needed: bool,
        call: Callable[[], Awaitable[None]],
    ) -> Reply:
        before = container.view()
        dry_run = request.query.flag("dry_run")
        actions = []
        if needed:
            actions.append(
                {
                    "action": action,
                    "kind": "container",
                    "name": container.name,
                    "reason": f"it is {container.status}",
                }
            )
            if not dry_run:
                await call()
        after = {**before, "state": "exited" if action == "stop" else "running"} if needed else before
        result = None if dry_run else container.view()
        return json_response(
            {
                "changed": needed,
                "actions": actions,
                "before": before,
                "after": result or after,
                "result": result,
            }
        )

    async def logs(self, request: Request) -> Reply:
        """What it wrote, a JSON line each: {"time", "stream", "data"}; `follow` goes on until it ends."""
        query = request.query
        tail = query.text("tail")
        lines = self._containers.logs(
            self._containers.get(request.params["name"]).id,
            follow=query.flag("follow"),
            tail=None if tail in ("", "all") else query.integer("tail", minimum=0),
            since=parse(query.text("since"), "since"),
            until=parse(query.text("until"), "until"),
        )

        async def rendered() -> AsyncIterator[bytes]:
            try:
                async for chunk in lines:
                    yield encode(
                        {
                            "time": rfc3339(chunk.time_ns),
                            "stream": _STREAM_NAMES[chunk.stream],
                            "data": chunk.data.decode("utf-8", "replace"),
                        }
                    )
            finally:
                await close(lines)

        return Stream(rendered(), NDJSON)


async def close(stream: AsyncIterator[Any]) -> None:
    """Let a generator that was not read to its end clean up."""
    aclose = getattr(stream, "aclose", None)
    if aclose is not None:
        await aclose()


def _has_label(container: Container, key: str, value: str | None) -> bool:
    if not key:
        raise InvalidSpec("label= is empty: expected label=KEY or label=KEY=VALUE")
    labels = container.spec.labels
    return key in labels and (value is None or labels[key] == value)
