# SPDX-License-Identifier: Apache-2.0
"""`docker build` with the classic builder, and `docker builder prune`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...engine.resources.ulimits import Ulimits
from ...errors import InvalidSpec, NotSupported
from ...images.build.context import DOCKERFILE
from ...images.build.options import BuildOptions, RunLimits
from ...images.build.reporting import ERRORS, NOTE, OUTPUT, STEP, WARNING
from ...images.dockerfile.durations import parse_duration
from ...images.platform import Platform
from ...images.reference import Reference
from ...images.registry.credentials import parse_registry_config
from ..building import begun_build
from ..jsontext import parsed
from ..messages import Reply, Request, Stream, encode, json_response
from ..progress import Begun
from ..query import Query
from ..router import Need, Route
from . import convert_security
from .networks import network_named
from .rules import Draft

if TYPE_CHECKING:
    from ...engine.engine import Engine

_PERIOD = 100_000  # microseconds, the kernel's default period of a CPU quota
_REGISTRIES = "x-registry-config"
_SHORT = 12 + len("sha256:")
# As the classic builder marks what a command writes to its standard error.
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"


class BuildCalls:
    """Calls about builds."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._builds = engine.builds

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("POST", "/build", self.build, versioned=True, abandon=True, needs=Need.ALL)
        yield Route("POST", "/build/prune", self.prune, versioned=True, needs=Need.ALL)

    async def build(self, request: Request) -> Reply:
        """Build from the context in the body; the answer is the messages that the client renders."""
        options = build_options(request.query)
        credentials = parse_registry_config(request.headers.get(_REGISTRIES, ""))
        options = replace(options, credentials=credentials)
        options = replace(options, network=network_named(self._engine, options.network)).checked()
        quiet = request.query.flag("q")
        events = await begun_build(self._builds, options, request.body)
        return Stream(self._rendered(events, options, quiet))

    async def _rendered(
        self, events: Begun[dict[str, Any]], options: BuildOptions, quiet: bool
    ) -> AsyncIterator[bytes]:
        try:
            async for event in events:
                if "progress" in event:
                    for text in _texts(event["progress"], quiet):
                        yield encode({"stream": text})
                elif "error" in event:
                    yield encode(_failure(event["error"]))
                else:
                    image = event["image"]
                    yield encode({"aux": {"ID": image.id}})
                    if quiet:
                        yield encode({"stream": f"{image.id}\n"})
                        continue
                    yield encode({"stream": f"Successfully built {image.id[7:_SHORT]}\n"})
                    for tag in options.tags:
                        name = Reference.parse(tag).familiar
                        yield encode({"stream": f"Successfully tagged {name}\n"})
        finally:
            await events.aclose()

    async def prune(self, request: Request) -> Reply:
        """Delete what the build cache has and no image; with `all` everything that it has."""
        filters = request.query.filters(("until", "unused-for"))
        ages = [*filters.get("until", ()), *filters.get("unused-for", ())]
        keep = request.query.integer("keep-storage", 0, minimum=0) or request.query.integer(
            "reserved-space", 0, minimum=0
        )
        pruned = await self._builds.prune_cache(
            unused_for=max((parse_duration("until", age) / 1e9 for age in ages), default=0.0),
            keep_bytes=keep or 0,
            everything=request.query.flag("all"),
        )
        return json_response({"CachesDeleted": list(pruned.deleted), "SpaceReclaimed": pruned.freed})


def build_options(query: Query) -> BuildOptions:
    """The options of a build from its parameters. Raises InvalidSpec and NotSupported naming one."""
    if query.text("version") not in ("", "1"):
        raise NotSupported(
            "BuildKit's sessions are not spoken: build with DOCKER_BUILDKIT=0 or 'mooring build', both of "
            "which know BuildKit's Dockerfiles"
        )
    for name, why in (
        ("outputs", "the classic builder makes an image and nothing else; save or export that"),
        ("squash", "it is an experiment of dockerd's; several RUN become one layer with a heredoc"),
        ("isolation", "commands of a build have namespaces of their own, which is what default means"),
        ("securityopt", "no engine on Linux takes it for a build; use RUN --security where that is needed"),
    ):
        if query.text(name) not in ("", "0", "[]", "null", "false", "default"):
            raise NotSupported(f"{name}={query.text(name)} is not supported: {why}")
    network = query.text("networkmode")
    quota, period = query.integer("cpuquota", 0), query.integer("cpuperiod", 0)
    platform = query.text("platform")
    limits = RunLimits(
        memory=query.integer("memory", 0, minimum=0) or None,
        memory_swap=query.integer("memswap", 0, minimum=-1) or None,
        cpu_shares=query.integer("cpushares", 0, minimum=0) or None,
        cpus=quota / (period or _PERIOD) if quota else None,
        cpuset_cpus=query.text("cpusetcpus") or None,
        cpuset_mems=query.text("cpusetmems") or None,
        shm_size=query.integer("shmsize", 0, minimum=0) or None,
        ulimits=_ulimits(query),
        cgroup=query.text("cgroupparent") or None,
        extra_hosts=tuple(_list(query, "extrahosts")),
    )
    return BuildOptions(
        dockerfile=query.text("dockerfile") or DOCKERFILE,
        remote=query.text("remote"),
        tags=tuple(tag for tag in query.many("t") if tag),
        args=_mapping(query, "buildargs"),
        labels=_mapping(query, "labels"),
        target=query.text("target"),
        no_cache=query.flag("nocache"),
        cache_from=tuple(_list(query, "cachefrom")),
        pull=query.text("pull").lower() not in ("", "0", "no", "false", "none"),
        network="default" if network in ("", "bridge") else network,
        platform=Platform.parse(platform) if platform else None,
        limits=limits,
    )


def _ulimits(query: Query) -> dict[str, Any]:
    """The limits of setrlimit(2), in the words of HostConfig.Ulimits."""
    text = query.text("ulimits")
    draft = Draft()
    convert_security.ulimits(draft, _json(text, "ulimits") if text else None, "ulimits")
    found = draft.spec.get("ulimits", {})
    Ulimits().parse(found, "ulimits")
    return dict(found)


def _failure(error: dict[str, Any]) -> dict[str, Any]:
    """How an error is told: that of a command begins with the classic builder's words, which clients know."""
    message = error["message"]
    if "exit_code" in error:
        command = " ".join(error["command"])
        message = f"The command '{command}' returned a non-zero code: {error['exit_code']}: {message}"
    detail = {"code": error.get("exit_code", error["status"]), "message": message}
    return {"errorDetail": detail, "error": message}


def _texts(event: dict[str, Any], quiet: bool) -> Iterator[str]:
    """How an event is shown."""
    kind, text = event["step"], event["detail"]
    if quiet and kind != WARNING:
        return
    if kind == STEP:
        yield f"{text}\n"
    elif kind == NOTE:
        yield f" ---> {text}\n"
    elif kind == WARNING:
        yield f"[Warning] {text}\n"
    elif kind == OUTPUT:
        yield text
    elif kind == ERRORS:
        yield f"{_RED}{text}{_PLAIN}"


def _mapping(query: Query, name: str) -> dict[str, str]:
    text = query.text(name)
    value = _json(text, name) if text else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidSpec(f'{name} is no JSON object: expected one such as {{"NAME": "value"}}')
    found = {}
    for key, text in value.items():
        if text is None:
            continue  # a name for whose value the client's environment has none
        if not isinstance(text, str):
            raise InvalidSpec(f"{name} has {key}={text!r}: expected a text")
        found[key] = text
    return found


def _list(query: Query, name: str) -> list[str]:
    values: list[str] = []
    for text in query.many(name):
        if text.startswith("["):
            values += map(str, _json(text, name))
        elif text:
            values += text.split(",")
    return values


def _json(text: str, name: str) -> Any:
    try:
        return parsed(text)
    except ValueError as error:
        raise InvalidSpec(f"{name} is not JSON ({error})") from None
