# SPDX-License-Identifier: Apache-2.0
"""Which containers `docker ps` shows: its filters, its order, its limit."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from ...errors import InvalidSpec, NotFound
from . import convert_health
from .inspect import exposed_ports
from .render import has_label, network_id

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine

Test = Callable[["Container"], bool]

FILTERS = (
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
)
_ISOLATIONS = ("default", "process", "hyperv")
_PROTOCOLS = ("tcp", "udp", "sctp")
_PORT = re.compile(r"[0-9]{1,5}", re.ASCII)
_HIGHEST_PORT = 65535
_STATUSES = ("created", "dead", "exited", "paused", "removing", "restarting", "running")


async def select(
    engine: Engine, filters: Mapping[str, tuple[str, ...]], *, everything: bool, limit: int
) -> list[Container]:
    """The containers to show, newest first; only those that run, unless more is asked for."""
    tests = await _tests(engine, filters)
    # As dockerd: asking for a status or for the last n is asking for stopped ones too.
    everything = everything or limit > 0 or "status" in filters or "exited" in filters
    chosen = [
        container
        for container in sorted(engine.containers.list(), key=lambda each: each.created_at, reverse=True)
        if (everything or container.status in ("running", "paused", "restarting"))
        and all(test(container) for test in tests)
    ]
    return chosen[:limit] if limit > 0 else chosen


async def _tests(engine: Engine, filters: Mapping[str, tuple[str, ...]]) -> list[Test]:
    tests: list[Test] = []
    for name, values in filters.items():
        if name == "ancestor":
            ids = [await _image_id(engine, value) for value in values]
            tests.append(lambda container, ids=ids: container.image_id in ids)  # type: ignore[misc]
        elif name in ("before", "since"):
            tests.append(_relative(engine, name, values))
        elif name in ("expose", "publish"):
            continue  # one of both is enough, as with dockerd
        else:
            tests.append(_PLAIN[name](values))
    if ports := {name: filters[name] for name in ("expose", "publish") if name in filters}:
        tests.append(await _by_port(engine, ports))
    return tests


async def _by_port(engine: Engine, filters: Mapping[str, tuple[str, ...]]) -> Test:
    """Containers that expose, or publish, one of these ports; a port is that of the container."""
    exposed, published = ({*_ports(name, filters.get(name, ()))} for name in ("expose", "publish"))
    configs = {image.id: image.config for image in await engine.image_service.list()} if exposed else {}

    def test(container: Container) -> bool:
        there = {f"{port.container}/{port.protocol}" for port in container.spec.ports}
        if not published.isdisjoint(there):
            return True
        return bool(exposed) and not exposed.isdisjoint(
            exposed_ports(container, configs.get(container.image_id, {}))
        )

    return test


def _ports(name: str, values: tuple[str, ...]) -> Iterator[str]:
    """ "80", "80/udp" and "8000-8080/tcp" as "PORT/PROTOCOL"."""
    for value in values:
        numbers, mark, protocol = value.partition("/")
        protocol = protocol.lower() if mark else "tcp"
        first, dash, last = numbers.partition("-")
        bounds = [first, last if dash else first]
        if protocol not in _PROTOCOLS or not all(_PORT.fullmatch(bound) for bound in bounds):
            raise InvalidSpec(
                f'filter {name}={value!r} is no port: expected such as "80", "53/udp" or "80-90"'
            )
        low, high = int(bounds[0]), int(bounds[1])
        if not 0 < low <= high <= _HIGHEST_PORT:
            raise InvalidSpec(f"filter {name}={value!r} is no port: expected 1 to {_HIGHEST_PORT}")
        yield from (f"{port}/{protocol}" for port in range(low, high + 1))


async def _image_id(engine: Engine, reference: str) -> str:
    try:
        return (await engine.image_service.get(reference)).id
    except NotFound:
        return ""


def _relative(engine: Engine, name: str, values: tuple[str, ...]) -> Test:
    moments = [engine.containers.get(value).created_at for value in values]
    if name == "before":
        return lambda container: all(container.created_at < moment for moment in moments)
    return lambda container: all(container.created_at > moment for moment in moments)


def _by_name(values: tuple[str, ...]) -> Test:
    patterns = [_pattern(value) for value in values]
    # dockerd matches the name with and without its slash.
    return lambda container: any(
        pattern.search(container.name) or pattern.search(f"/{container.name}") for pattern in patterns
    )


def _pattern(value: str) -> re.Pattern[str]:
    try:
        return re.compile(value)
    except re.error as error:
        raise InvalidSpec(f"filter name={value!r} is no regular expression: {error}") from None


def _by_id(values: tuple[str, ...]) -> Test:
    return lambda container: any(container.id.startswith(value) for value in values)


def _by_status(values: tuple[str, ...]) -> Test:
    for value in values:
        if value not in _STATUSES:
            raise InvalidSpec(f"filter status={value!r} is unknown: expected one of {', '.join(_STATUSES)}")
    return lambda container: container.status in values


def _by_exit_code(values: tuple[str, ...]) -> Test:
    try:
        codes = {int(value) for value in values}
    except ValueError:
        raise InvalidSpec(f"filter exited={values[0]!r} is no exit code") from None
    return lambda container: container.status == "exited" and container.exit_code in codes


def _by_health(values: tuple[str, ...]) -> Test:
    statuses = convert_health.selected(values)
    return lambda container: convert_health.status(container) in statuses


def _by_label(values: tuple[str, ...]) -> Test:
    return lambda container: all(has_label(container.spec.labels, value) for value in values)


def _by_task(values: tuple[str, ...]) -> Test:
    """No container is a task of a swarm."""
    for value in values:
        if value.lower() not in ("true", "1", "false", "0"):
            raise InvalidSpec(f"filter is-task={value!r} is no boolean: expected true or false")
    none = any(value.lower() in ("false", "0") for value in values)
    return lambda _: none


def _by_isolation(values: tuple[str, ...]) -> Test:
    """Every container has the one that there is on Linux."""
    for value in values:
        if value not in _ISOLATIONS:
            raise InvalidSpec(
                f"filter isolation={value!r} is unknown: expected one of {', '.join(_ISOLATIONS)}"
            )
    return lambda _: _ISOLATIONS[0] in values


def _by_network(values: tuple[str, ...]) -> Test:
    return lambda container: any(
        network.name == value or network_id(network.name).startswith(value)
        for network in container.spec.networks
        for value in values
    )


def _by_volume(values: tuple[str, ...]) -> Test:
    return lambda container: any(
        value in (volume.source, volume.target) for volume in container.spec.volumes for value in values
    )


_PLAIN: dict[str, Callable[[tuple[str, ...]], Test]] = {
    "exited": _by_exit_code,
    "health": _by_health,
    "id": _by_id,
    "is-task": _by_task,
    "isolation": _by_isolation,
    "label": _by_label,
    "name": _by_name,
    "network": _by_network,
    "status": _by_status,
    "volume": _by_volume,
}
