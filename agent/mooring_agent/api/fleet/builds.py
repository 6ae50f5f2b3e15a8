# SPDX-License-Identifier: Apache-2.0
"""`/mooring/v1/builds`: images from Dockerfiles, and the cache of what was built."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from ...engine.resources.ulimits import Ulimits
from ...errors import InvalidSpec
from ...images.build.context import DOCKERFILE
from ...images.build.options import BuildOptions, RunLimits
from ...images.platform import Platform
from ..building import follow_build
from ..fields import Fields
from ..messages import NDJSON, Reply, Request, Stream, encode, json_response
from ..router import Need, Route

if TYPE_CHECKING:
    from ...engine.engine import Engine

_BASE = "/mooring/v1/builds"
_LONGEST_LINE = 8 << 20
_MOST = 1 << 62
_OPTIONS = (
    "dockerfile", "text", "tags", "args", "labels", "target", "no_cache", "cache_from", "pull", "network",
    "secrets", "source_date_epoch", "platform", "time_limit", "memory", "memory_swap", "cpu_shares",
    "cpuset_cpus", "cpuset_mems", "shm_size", "extra_hosts", "remote", "ulimits", "cgroup",
)  # fmt: skip


class BuildCalls:
    """Calls about builds."""

    def __init__(self, engine: Engine) -> None:
        self._builds = engine.builds

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("POST", _BASE, self.build, abandon=True, needs=Need.ALL)
        yield Route("GET", f"{_BASE}/cache", self.cache, needs=Need.READ)
        yield Route("DELETE", f"{_BASE}/cache", self.prune, needs=Need.ALL)

    async def build(self, request: Request) -> Reply:
        """Build: the body is a line of JSON, the options, and then the context as a tar archive.

        The answer is a stream of {"progress"} lines that ends with one of {"image"} or {"error"}. When the
        client goes away the build is given up.
        """
        first, rest = await _first_line(request)
        options = read_options(first).checked()
        events = follow_build(self._builds, options, rest)

        async def rendered() -> AsyncIterator[bytes]:
            try:
                async for event in events:
                    yield encode({"image": event["image"].view()} if "image" in event else event)
            finally:
                await events.aclose()

        return Stream(rendered(), NDJSON)

    async def cache(self, request: Request) -> Reply:
        """What the build cache has."""
        usage = await self._builds.cache()
        return json_response(
            {
                "size": usage.size,
                "steps": [
                    {
                        "key": step.record.key,
                        "description": step.record.description,
                        "created": step.record.created,
                        "used_at": step.used_at,
                        "size": step.record.size,
                        "in_image": step.in_image,
                    }
                    for step in usage.steps
                ],
                "mounts": [
                    {"name": one.path.name, "used_at": one.used_at, "size": one.size} for one in usage.mounts
                ],
            }
        )

    async def prune(self, request: Request) -> Reply:
        """Delete what has not been used for `unused_for` seconds, until `keep_bytes` are left."""
        query = request.query
        pruned = await self._builds.prune_cache(
            unused_for=query.number("unused_for", 0.0, minimum=0) or 0.0,
            keep_bytes=query.integer("keep_bytes", 0, minimum=0) or 0,
        )
        return json_response({"deleted": list(pruned.deleted), "freed": pruned.freed})


def read_options(line: bytes) -> BuildOptions:
    """The options of a build from their JSON. Raises InvalidSpec naming what is wrong."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"the first line of the body is not JSON ({error}): expected the options") from None
    if not isinstance(document, dict):
        raise InvalidSpec("the first line of the body is no JSON object: expected the options of the build")
    fields = Fields(document, "build", _OPTIONS)
    text, platform = fields.text("text"), fields.text("platform")
    epoch = fields.integer("source_date_epoch", -1, minimum=-1, maximum=_MOST)
    limits = RunLimits(
        memory=_positive(fields, "memory"),
        memory_swap=_positive(fields, "memory_swap"),
        cpu_shares=_positive(fields, "cpu_shares"),
        cpuset_cpus=fields.text("cpuset_cpus") or None,
        cpuset_mems=fields.text("cpuset_mems") or None,
        shm_size=_positive(fields, "shm_size"),
        ulimits=_ulimits(document.get("ulimits")),
        cgroup=fields.text("cgroup") or None,
        extra_hosts=tuple(fields.texts("extra_hosts")),
    )
    defaults = BuildOptions()
    return BuildOptions(
        dockerfile=fields.text("dockerfile", DOCKERFILE) or DOCKERFILE,
        text=text.encode("utf-8", "surrogateescape") if text else None,
        remote=fields.text("remote"),
        tags=tuple(fields.texts("tags")),
        args=fields.environment("args"),
        labels=fields.environment("labels"),
        target=fields.text("target"),
        no_cache=fields.flag("no_cache"),
        cache_from=tuple(fields.texts("cache_from")),
        pull=fields.flag("pull"),
        network=fields.text("network") or defaults.network,
        secrets=_secrets(fields.environment("secrets")),
        epoch=epoch if epoch >= 0 else None,
        platform=Platform.parse(platform) if platform else None,
        limits=limits,
        time_limit=fields.seconds("time_limit") or defaults.time_limit,
    )


def _positive(fields: Fields, name: str) -> int | None:
    return fields.integer(name, 0, minimum=0, maximum=_MOST) or None


def _ulimits(given: object) -> dict[str, Any]:
    """As a container spec has them."""
    kind = Ulimits()
    return {} if given is None else kind.dump(kind.parse(given, "build: ulimits") or {})


def _secrets(encoded: dict[str, str]) -> dict[str, bytes]:
    found = {}
    for name, value in encoded.items():
        try:
            found[name] = base64.b64decode(value, validate=True)
        except binascii.Error:
            raise InvalidSpec(f"build: the secret {name} is not in base64") from None
    return found


async def _first_line(request: Request) -> tuple[bytes, AsyncIterator[bytes]]:
    """The body's first line, and what comes after it."""
    body = request.body
    line = b""
    async for piece in body:
        line += piece
        if b"\n" in piece:
            break
        if len(line) > _LONGEST_LINE:
            raise InvalidSpec(
                "the first line of the body is too long: expected a line of JSON, then a tar archive"
            )
    first, _, begun = line.partition(b"\n")

    async def rest() -> AsyncIterator[bytes]:
        if begun:
            yield begun
        async for piece in body:
            yield piece

    context: Any = rest()
    return first, context
