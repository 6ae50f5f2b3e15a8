# SPDX-License-Identifier: Apache-2.0
"""The engine's record of one container, in memory and in the state file."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..linux.inotify import Waker
from ..network.records import Endpoint
from .health import Check, Health, settled
from .resources import ContainerSpec, PortMapping

RUNNING = ("running", "paused")
# Whose output there may be more of.
FOLLOWED = (*RUNNING, "restarting")


@dataclass(eq=False, slots=True)
class Container:
    """One container. Times are seconds since the epoch.

    `wanted` says whether it should run as far as its user is concerned: what a restart policy and the start
    of an agent go by. `held` says that it stands still, or is about to, for a work of the agent's own only.
    `boot` is the boot in which `pid` means something. `group` is its control group below
    the mount points. `replaces` is the id of the container that this one is taking the place of. `joins` are
    (runtime-spec type, id of the container) of namespaces that it shares with others, `first_id` is the first
    of the host's ids in the range that the agent has chosen for its users, `lent_hostname` the name of the
    container whose network it has. `image_health` is what `health.image_part` tells of its image, `check`
    what has become of that and of the spec; `health` is that of its present run, or of the last one.
    `failing` says that it is being ended since it is unhealthy, which its restart policy takes for a failure.
    """

    id: str
    name: str
    spec: ContainerSpec
    image_id: str
    created_at: float
    managed: bool
    argv: tuple[str, ...]
    env: tuple[str, ...]
    workdir: str
    user: str
    stop_signal: str
    auto_remove: bool = False
    extra: dict[str, Any] = field(default_factory=dict)
    status: str = "created"
    wanted: bool = False
    held: bool = False
    pid: int | None = None
    start_time: int = 0
    boot: str = ""
    exit_code: int | None = None
    exit_known: bool = True
    error: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    restart_count: int = 0
    oom_killed: bool = False
    group: str = ""
    replaces: str = ""
    volumes: tuple[tuple[str, str], ...] = ()
    images: tuple[tuple[str, str], ...] = ()  # target and ID of those that are mounted
    ports: tuple[PortMapping, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    joins: tuple[tuple[str, str], ...] = ()
    first_id: int | None = None
    lent_hostname: str = ""
    image_health: dict[str, Any] = field(default_factory=dict)
    failing: bool = False

    # Of this agent, not of the state file.
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    wakers: set[Waker] = field(default_factory=set, init=False)
    ended: list[asyncio.Future[int]] = field(default_factory=list, init=False)
    removed: bool = field(default=False, init=False)
    filled: bool = field(default=False, init=False)  # whether its volumes have what its image has for them
    holders: int = field(default=0, init=False)  # works for which it stands still, see `held`
    restart_timer: asyncio.TimerHandle | None = field(default=None, init=False)
    check: Check | None = field(default=None, init=False)
    health: Health | None = field(default=None, init=False)

    @property
    def running(self) -> bool:
        """Whether it has a process, frozen or not."""
        return self.status in RUNNING

    @property
    def hostname(self) -> str:
        """The host name inside, unless that is the host's."""
        return self.spec.hostname or self.lent_hostname or self.id[:12]

    @property
    def attributes(self) -> dict[str, str]:
        """What each event about it tells; labels never hide whose it is."""
        return {**self.spec.labels, "name": self.name, "image": self.spec.image}

    def settle_check(self) -> None:
        """Find out what its check is, after a change of its spec. Raises InvalidSpec."""
        if self.spec.healthcheck is not None or self.image_health:
            self.check = settled(self.spec, self.image_health, self.name)
        else:
            self.check = None

    def wake(self) -> None:
        """Let everyone who follows the container look again."""
        for event in self.wakers:
            event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is asked again at each `wake`."""
        woken = asyncio.Event()
        self.wakers.add(woken)
        try:
            while not condition():
                woken.clear()
                await woken.wait()
        finally:
            self.wakers.discard(woken)

    def view(self, *, log: bool = True) -> dict[str, Any]:
        """The container as the Mooring API shows it (ContainerView); with the `log` of its health check."""
        return {
            "id": self.id,
            "name": self.name,
            "image": self.spec.image,
            "image_id": self.image_id,
            "spec": self.spec.given,
            "state": self.status,
            "pid": self.pid,
            "exit_code": self.exit_code,
            "exit_known": self.exit_known,
            "error": self.error,
            "created_at": rfc3339(self.created_at),
            "started_at": rfc3339(self.started_at),
            "finished_at": rfc3339(self.finished_at),
            "restart_count": self.restart_count,
            "oom_killed": self.oom_killed,
            "ports": [vars_of(port) for port in self.ports],
            "networks": {
                endpoint.network: {
                    "ipv4_address": endpoint.ipv4,
                    "ipv6_address": endpoint.ipv6,
                    "mac_address": endpoint.mac,
                    "gateway": endpoint.gateway,
                    "gateway6": endpoint.gateway6,
                    "interface": endpoint.ifname,
                }
                for endpoint in self.endpoints
            },
            "cgroup": self.group,
            "joins": dict(self.joins),
            "first_id": self.first_id,
            "health": None if self.health is None else _health_view(self.health, log),
            "managed": self.managed,
        }

    # The columns of table `containers`

    _RESOLVED = (
        "argv",
        "env",
        "workdir",
        "user",
        "stop_signal",
        "group",
        "replaces",
        "volumes",
        "images",
        "joins",
        "first_id",
        "lent_hostname",
        "image_health",
    )
    _RUN = (
        "status",
        "wanted",
        "held",
        "pid",
        "start_time",
        "boot",
        "exit_code",
        "exit_known",
        "error",
        "started_at",
        "finished_at",
        "restart_count",
        "oom_killed",
        "failing",
    )

    def resolved_json(self) -> str:
        """What was settled when it was created."""
        return json.dumps({name: getattr(self, name) for name in self._RESOLVED})

    def run_json(self) -> str:
        """What changes while it lives."""
        return json.dumps({name: getattr(self, name) for name in self._RUN})

    @classmethod
    def from_row(cls, row: Any) -> Container:
        """A container from its row."""
        resolved = json.loads(row["resolved"])
        for name in ("argv", "env"):
            resolved[name] = tuple(resolved[name])
        for name in ("volumes", "images", "joins"):
            resolved[name] = tuple((one, other) for one, other in resolved.get(name, ()))
        container = cls(
            id=row["id"],
            name=row["name"],
            spec=ContainerSpec.parse(json.loads(row["spec"]), name=row["name"]),
            image_id=row["image_id"],
            created_at=row["created_at"],
            managed=bool(row["managed"]),
            auto_remove=bool(row["auto_remove"]),
            extra=json.loads(row["extra"]),
            **resolved,
            **json.loads(row["run"]),
        )
        container.settle_check()
        return container


def vars_of(port: PortMapping) -> dict[str, Any]:
    """A published port as JSON data."""
    shared = {} if port.balance is None else {"balance": port.balance, "weight": port.weight}
    return {
        "container": port.container,
        "host": port.host,
        "host_ip": port.host_ip,
        "protocol": port.protocol,
        **shared,
    }


def _health_view(health: Health, log: bool) -> dict[str, Any]:
    answers = [
        {
            "start": rfc3339(probe.start / 1e9),
            "end": rfc3339(probe.end / 1e9),
            "exit_code": probe.exit_code,
            "output": probe.output,
        }
        for probe in health.log
    ]
    return {
        "status": health.status,
        "failing_streak": health.failing_streak,
        **({"log": answers} if log else {}),
    }


def rfc3339(moment: float | None) -> str | None:
    """A moment in seconds since the epoch as RFC 3339 in UTC, with microseconds."""
    if moment is None:
        return None
    return datetime.fromtimestamp(moment, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
