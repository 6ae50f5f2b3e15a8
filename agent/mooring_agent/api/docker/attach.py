# SPDX-License-Identifier: Apache-2.0
"""`POST /containers/{id}/attach`, `GET /containers/{id}/attach/ws` and `GET /containers/{id}/logs`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote_plus

from ...errors import Conflict, InvalidSpec, NotSupported
from ..duplex import ProcessStreams, carry, frame
from ..messages import MULTIPLEXED_STREAM, RAW_STREAM, Hijack, RawStream, Reply, Request, Stream
from ..router import Need, Route
from ..timestamps import parse, rfc3339
from ..websocket import handshake
from ..websocket.channel import Channel
from .terminals import DetachFilter, detach_keys

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine
    from ...engine.logs import LogChunk

# From this version on the multiplexed stream has a content type of its own.
_MULTIPLEXED = (1, 42)
# From this version on a websocket's messages are binary.
_BINARY_MESSAGES = (1, 28)
# From this version on a websocket attaches to the streams that are asked for.
_CHOSEN_STREAMS = (1, 42)


def stream_type(request: Request, tty: bool) -> str:
    """The content type of a process's output."""
    newer = not request.is_before(_MULTIPLEXED)
    return MULTIPLEXED_STREAM if newer and not tty else RAW_STREAM


class AttachCalls:
    """The output and input of containers."""

    def __init__(self, engine: Engine) -> None:
        self._containers = engine.containers

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("POST", "/containers/{id}/attach", self.attach, versioned=True, needs=Need.ALL)
        yield Route(
            "GET", "/containers/{id}/attach/ws", self.attach_websocket, versioned=True, needs=Need.ALL
        )
        yield Route("GET", "/containers/{id}/logs", self.logs, versioned=True, abandon=True, needs=Need.READ)

    async def attach(self, request: Request) -> Reply:
        """The raw stream of a container, from now on or (`logs`) from its beginning."""
        query = request.query
        attached = await self._attached(
            request, stdin=query.flag("stdin"), stdout=query.flag("stdout"), stderr=query.flag("stderr")
        )

        async def serve(raw: RawStream) -> None:
            await attached.carry(raw, framed=not attached.streams.tty)

        tty = attached.streams.tty
        return Hijack(serve, content_type=stream_type(request, tty), unserved=attached.streams.close)

    async def attach_websocket(self, request: Request) -> Reply:
        """The same through a websocket, where output is never framed."""
        headers = handshake.accepted(request)
        query = request.query
        # As dockerd: before this version all of a container was attached to.
        whole = request.is_before(_CHOSEN_STREAMS)
        attached = await self._attached(
            request,
            stdin=whole or query.flag("stdin"),
            stdout=whole or query.flag("stdout"),
            stderr=whole or query.flag("stderr"),
        )

        async def serve(raw: RawStream) -> None:
            channel = Channel(raw, text=request.is_before(_BINARY_MESSAGES))
            await attached.carry(channel, framed=False, listens=channel.listens)
            await channel.close()

        return Hijack(serve, None, handshake.PROTOCOL, headers, attached.streams.close)

    async def _attached(self, request: Request, *, stdin: bool, stdout: bool, stderr: bool) -> _Attached:
        query = request.query
        container = self._containers.get(request.params["id"])
        if container.status == "paused":
            raise Conflict(f"container {container.name} is paused: unpause it before you attach")
        if query.flag("logs"):
            _require_log(container)
        keys = detach_keys(query.text("detachKeys"))
        stdin = stdin and container.spec.interactive
        streamed = query.flag("stream")
        streams: ProcessStreams = await self._containers.attach(
            container.id, logs=query.flag("logs"), stream=streamed, stdin=stdin, stdout=stdout, stderr=stderr
        )
        if streamed and container.status in ("exited", "dead"):
            streams = UntilStarted(container, streams)
        tty = container.spec.tty
        # As dockerd: the end of a client's input ends the container's only if it was made for one client.
        once = bool(container.extra.get("StdinOnce")) and not tty
        return _Attached(streams, stdin, once, DetachFilter(keys) if tty else None)

    async def logs(self, request: Request) -> Reply:
        """What a container wrote; `follow` goes on until it ends."""
        query = request.query
        stdout, stderr = query.flag("stdout"), query.flag("stderr")
        if not stdout and not stderr:
            raise InvalidSpec("Bad parameters: you must choose at least one stream, stdout or stderr")
        container = self._containers.get(request.params["id"])
        _require_log(container)
        lines = self._containers.logs(
            container.id,
            follow=query.flag("follow"),
            tail=_tail(query.text("tail")),
            since=parse(query.text("since"), "since"),
            until=parse(query.text("until"), "until"),
            stdout=stdout,
            stderr=stderr,
        )
        rendered = _rendered(
            lines,
            framed=not container.spec.tty,
            timestamps=query.flag("timestamps"),
            details=_details(self._containers.log_attributes(container)) if query.flag("details") else None,
        )
        return Stream(rendered, stream_type(request, container.spec.tty))


@dataclass(frozen=True, slots=True)
class _Attached:
    """A container's streams, and how a client's are carried to and from them."""

    streams: ProcessStreams
    stdin: bool
    once: bool
    detach: DetachFilter | None

    async def carry(
        self, raw: RawStream, *, framed: bool, listens: Callable[[], bool] = lambda: True
    ) -> None:
        await carry(
            raw,
            self.streams,
            framed=framed,
            stdin=self.stdin,
            close_stdin=self.once,
            detach=self.detach,
            listens=listens,
        )


class UntilStarted:
    """An attachment to a container that has ended: as with dockerd it is one to the container's next run.

    `docker start -a` attaches first and starts then.
    """

    def __init__(self, container: Container, attachment: ProcessStreams) -> None:
        self.tty = attachment.tty
        self._container = container
        self._attachment = attachment
        self._last_start = container.started_at

    async def output(self) -> AsyncIterator[tuple[int, bytes]]:
        """See `ProcessStreams`."""
        await self._started()
        async for piece in self._attachment.output():
            yield piece

    async def write(self, data: bytes) -> None:
        """See `ProcessStreams`."""
        await self._started()
        await self._attachment.write(data)

    async def close_stdin(self) -> None:
        """See `ProcessStreams`."""
        await self._started()
        await self._attachment.close_stdin()

    def close(self) -> None:
        """See `ProcessStreams`."""
        self._attachment.close()

    async def _started(self) -> None:
        container = self._container
        await container.until(lambda: container.started_at != self._last_start or container.removed)


def _require_log(container: Container) -> None:
    """Raise NotSupported where nobody is to see what a container wrote but who is attached to it."""
    if not container.spec.log.shown:
        # Wording of dockerd, and what to do.
        raise NotSupported(
            "configured logging driver does not support reading: that of container "
            f"{container.name} is {container.spec.log.driver}; attach to it"
        )


def _details(attributes: Mapping[str, str]) -> str:
    """What stands before each line with `details`, as dockerd writes it; nothing where there are none."""
    return ",".join(f"{quote_plus(name)}={quote_plus(attributes[name])}" for name in sorted(attributes))


def _tail(text: str) -> int | None:
    """As dockerd: what is no number from 0 on is everything."""
    return int(text) if text.isascii() and text.isdigit() else None


async def _rendered(
    lines: AsyncIterator[LogChunk], *, framed: bool, timestamps: bool, details: str | None
) -> AsyncIterator[bytes]:
    begun: set[int] = set()  # streams in the middle of a line
    try:
        async for chunk in lines:
            data = chunk.data
            if chunk.stream not in begun:
                prefix = (rfc3339(chunk.time_ns, fixed=True) + " " if timestamps else "") + (
                    "" if details is None else details + " "
                )
                data = prefix.encode("ascii") + data
            if data.endswith(b"\n"):
                begun.discard(chunk.stream)
            else:
                begun.add(chunk.stream)
            yield frame(chunk.stream, data) if framed else data
    finally:
        close = getattr(lines, "aclose", None)
        if close is not None:
            await close()
