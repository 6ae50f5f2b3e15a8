# SPDX-License-Identifier: Apache-2.0
"""`/_ping`, `/version`, `/info`: what a client asks before it does anything."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import time
from typing import TYPE_CHECKING

from ... import __version__
from ...engine.resources.logdrivers import LOG_DRIVERS
from ..messages import Reply, Request, Response, json_response
from ..router import NEWEST_API, OLDEST_API, Need, Route
from ..timestamps import rfc3339_seconds
from .convert import RUNTIMES

if TYPE_CHECKING:
    from ...engine.engine import Engine

# Go's names of architectures, which the API uses beside uname's.
_GO_ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "riscv64": "riscv64",
}

_PING = Response(
    200,
    b"OK",
    "text/plain; charset=utf-8",
    [
        ("Builder-Version", "1"),  # the classic builder: buildkit's session is not spoken
        ("Cache-Control", "no-cache, no-store, must-revalidate"),
        ("Docker-Experimental", "false"),
        ("Pragma", "no-cache"),
        ("Swarm", "inactive"),
    ],
)


class SystemCalls:
    """Calls about the engine itself."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/_ping", self.ping, versioned=True, needs=Need.READ)
        yield Route("GET", "/version", self.version, versioned=True, needs=Need.READ)
        yield Route("GET", "/info", self.info, versioned=True, needs=Need.READ)

    async def ping(self, request: Request) -> Reply:
        """The agent is ready."""
        return _PING

    async def version(self, request: Request) -> Reply:
        """Versions, as `docker version` shows them."""
        host = self._engine.host()
        api, oldest = (".".join(map(str, version)) for version in (NEWEST_API, OLDEST_API))
        arch = go_architecture(host["arch"])
        details = {
            "ApiVersion": api,
            "Arch": arch,
            "BuildTime": "",
            "Experimental": "false",
            "GitCommit": "",
            "GoVersion": "",
            "KernelVersion": host["kernel"],
            "MinAPIVersion": oldest,
            "Os": "linux",
        }
        return json_response(
            {
                "Platform": {"Name": "Mooring"},
                "Components": [{"Name": "Engine", "Version": __version__, "Details": details}],
                "Version": __version__,
                "ApiVersion": api,
                "MinAPIVersion": oldest,
                "GitCommit": "",
                "GoVersion": "",
                "Os": "linux",
                "Arch": arch,
                "KernelVersion": host["kernel"],
                "BuildTime": "",
            }
        )

    async def info(self, request: Request) -> Reply:
        """What `docker info` shows."""
        host = self._engine.host()
        counts = Counter(container.status for container in self._engine.containers.list())
        running = counts["running"] + counts["restarting"]
        controllers = host["cgroup"]["controllers"]
        has_memory, has_cpu = "memory" in controllers, "cpu" in controllers
        return json_response(
            {
                "ID": _engine_id(host["name"], host["data_root"]),
                "Containers": counts.total(),
                "ContainersRunning": running,
                "ContainersPaused": counts["paused"],
                "ContainersStopped": counts.total() - running - counts["paused"],
                "Images": host["images"],
                "Driver": host["storage_driver"],
                "DriverStatus": [["Backing directory", host["data_root"]]],
                "Plugins": {
                    "Volume": ["local"],
                    "Network": ["bridge", "host", "null"],
                    "Authorization": None,
                    "Log": list(LOG_DRIVERS),
                },
                "MemoryLimit": has_memory,
                "SwapLimit": has_memory,
                "CpuCfsPeriod": has_cpu,
                "CpuCfsQuota": has_cpu,
                "CPUShares": has_cpu,
                "CPUSet": "cpuset" in controllers,
                "PidsLimit": "pids" in controllers,
                "OomKillDisable": False,
                "IPv4Forwarding": _reads_one("/proc/sys/net/ipv4/ip_forward"),
                "BridgeNfIptables": False,
                "BridgeNfIp6tables": False,
                "Debug": False,
                "NFd": 0,
                "NGoroutines": 0,
                "SystemTime": rfc3339_seconds(time()),
                "LoggingDriver": "json-file",
                "CgroupDriver": "cgroupfs",
                "CgroupVersion": "2" if host["cgroup"]["mode"] == "v2" else "1",
                "NEventsListener": 0,
                "KernelVersion": host["kernel"],
                "OperatingSystem": _operating_system(),
                "OSVersion": "",
                "OSType": "linux",
                "Architecture": host["arch"],
                "IndexServerAddress": "",
                "RegistryConfig": {"InsecureRegistryCIDRs": [], "IndexConfigs": {}, "Mirrors": []},
                "NCPU": host["cpus"],
                "MemTotal": host["memory"],
                "GenericResources": None,
                "DockerRootDir": host["data_root"],
                "HttpProxy": "",
                "HttpsProxy": "",
                "NoProxy": "",
                "Name": host["name"],
                "Labels": [],
                "ExperimentalBuild": False,
                "ServerVersion": __version__,
                "Runtimes": {name: {"path": RUNTIMES[0]} for name in RUNTIMES},
                "DefaultRuntime": RUNTIMES[0],
                "Swarm": {
                    "NodeID": "",
                    "NodeAddr": "",
                    "LocalNodeState": "inactive",
                    "ControlAvailable": False,
                    "Error": "",
                    "RemoteManagers": None,
                },
                # The keeper holds the containers while the agent is down.
                "LiveRestoreEnabled": True,
                "Isolation": "",
                "InitBinary": "",
                "ContainerdCommit": {"ID": "", "Expected": ""},
                "RuncCommit": {"ID": "", "Expected": ""},
                "InitCommit": {"ID": "", "Expected": ""},
                "SecurityOptions": ["name=seccomp,profile=builtin"],
                "Warnings": [f"WARNING: {what}" for what in host["obstacles"]],
            }
        )


def go_architecture(machine: str) -> str:
    """Go's name of what uname(2) calls the machine."""
    return _GO_ARCHITECTURES.get(machine, machine)


def _engine_id(name: str, data_root: str) -> str:
    digest = hashlib.sha256(f"{name}\0{data_root}".encode()).hexdigest()
    return "-".join((digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32]))


def _reads_one(path: str) -> bool:
    try:
        return Path(path).read_text(encoding="ascii").strip() == "1"
    except OSError:
        return False


def _operating_system() -> str:
    try:
        return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")
    except OSError:
        return "Linux"
