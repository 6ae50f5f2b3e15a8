# SPDX-License-Identifier: Apache-2.0
"""`GET /containers/{id}/stats`: what a container uses, once or every second.

The client makes percentages of it: CPU time of the container against that of the host between two readings.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import Reply, Request, Stream, encode, json_response
from ..router import Need, Route
from ..timestamps import NEVER, rfc3339

if TYPE_CHECKING:
    from ...cgroups.resources import IoCount, Usage
    from ...engine.container import Container
    from ...engine.engine import Engine

_INTERVAL = 1.0
_NANOS = 1_000_000_000
_NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
# Columns of /proc/net/dev after the interface's name, and Docker's names for them.
_NETWORK_COLUMNS = {
    "rx_bytes": 0,
    "rx_packets": 1,
    "rx_errors": 2,
    "rx_dropped": 3,
    "tx_bytes": 8,
    "tx_packets": 9,
    "tx_errors": 10,
    "tx_dropped": 11,
}


class StatsCalls:
    """Calls about what containers use."""

    def __init__(self, engine: Engine) -> None:
        self._containers = engine.containers
        self._host_memory = engine.host()["memory"]

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route(
            "GET", "/containers/{id}/stats", self.stats, versioned=True, abandon=True, needs=Need.READ
        )

    async def stats(self, request: Request) -> Reply:
        """A stream of readings; one with `stream=false`, and that at once with `one-shot`."""
        query = request.query
        container = self._containers.get(request.params["id"])
        if not query.flag("stream", default=True):
            before = None
            if not query.flag("one-shot") and container.running:
                before = await self._read(container, None)
                await asyncio.sleep(_INTERVAL)
            return json_response(await self._read(container, before))
        return Stream(self._readings(container))

    async def _readings(self, container: Container) -> AsyncIterator[bytes]:
        before = None
        while not container.removed:
            started = time.monotonic()
            before = await self._read(container, before)
            yield encode(before)
            await asyncio.sleep(max(0.0, _INTERVAL - (time.monotonic() - started)))

    async def _read(self, container: Container, before: dict[str, Any] | None) -> dict[str, Any]:
        identity = {"name": f"/{container.name}", "id": container.id}
        if not container.running:
            return _reading(identity, 0, NEVER, {}, before, {}, {})
        usage = await self._containers.stats(container.id)
        limit = container.spec.memory or self._host_memory
        pids: dict[str, Any] = {"current": usage.pids or 0}
        if container.spec.pids_limit:
            pids["limit"] = container.spec.pids_limit
        memory: dict[str, Any] = {"usage": usage.memory_bytes or 0, "limit": limit, "stats": {}}
        if usage.memory_max_usage is not None:
            memory["max_usage"] = usage.memory_max_usage
        document = _reading(
            identity,
            usage.pids or 0,
            rfc3339(time.time_ns()),
            _cpu(usage),
            before,
            memory,
            {"pids_stats": pids},
        )
        document["blkio_stats"] |= _block_io(await self._containers.io_stats(container.id))
        interfaces = _interfaces(container.pid)
        if interfaces:
            document["networks"] = interfaces
        return document


def _reading(
    identity: dict[str, str],
    processes: int,
    read: str,
    cpu: dict[str, Any],
    before: dict[str, Any] | None,
    memory: dict[str, Any],
    more: dict[str, Any],
) -> dict[str, Any]:
    return {
        "read": read,
        "preread": before["read"] if before else NEVER,
        "pids_stats": {},
        "blkio_stats": {
            "io_service_bytes_recursive": None,
            "io_serviced_recursive": None,
            "io_queue_recursive": None,
            "io_service_time_recursive": None,
            "io_wait_time_recursive": None,
            "io_merged_recursive": None,
            "io_time_recursive": None,
            "sectors_recursive": None,
        },
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu or _NO_CPU,
        "precpu_stats": before["cpu_stats"] if before else _NO_CPU,
        "memory_stats": memory,
        **identity,
        **more,
    }


def _cpu(usage: Usage) -> dict[str, Any]:
    return {
        "cpu_usage": {"total_usage": usage.cpu_ns or 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
        "system_cpu_usage": _host_cpu(),
        "online_cpus": os.cpu_count() or 1,
        "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
    }


def _block_io(counts: Iterable[IoCount]) -> dict[str, Any]:
    """The entries that clients add up by their operation; none where nothing was done."""
    moved, done = [], []
    for each in counts:
        major, minor = (int(number) for number in each.device.split(":"))
        place = {"major": major, "minor": minor, "op": each.operation}
        moved.append(place | {"value": each.bytes})
        done.append(place | {"value": each.count})
    return {"io_service_bytes_recursive": moved or None, "io_serviced_recursive": done or None}


def _host_cpu() -> int:
    """CPU time of the whole host in nanoseconds, without guests (proc_stat(5), first line)."""
    with Path("/proc/stat").open(encoding="ascii") as file:
        ticks = sum(int(field) for field in file.readline().split()[1:8])
    return ticks * _NANOS // os.sysconf("SC_CLK_TCK")


def _interfaces(pid: int | None) -> dict[str, dict[str, int]]:
    """The counters of the network namespace of a process, proc_pid_net(5); empty if it has just ended."""
    try:
        lines = Path(f"/proc/{pid}/net/dev").read_text(encoding="ascii").splitlines()[2:]
    except OSError:
        return {}
    found = {}
    for line in lines:
        name, _, rest = line.partition(":")
        if name.strip() != "lo":
            counters = rest.split()
            found[name.strip()] = {key: int(counters[column]) for key, column in _NETWORK_COLUMNS.items()}
    return found
