# SPDX-License-Identifier: Apache-2.0
"""Where an agent keeps its things, and under which names the kernel and the host see them.

Several agents live side by side on one machine: every name that leaves the agent's own directories
(cgroups, bridges, the nftables table) is derived from its instance name.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import InvalidSpec

DEFAULT_DATA_ROOT = Path("/var/lib/mooring")
DEFAULT_RUN_ROOT = Path("/run/mooring")
DEFAULT_NETWORK_PREFIX = "10.210.0.0/16"

STORAGE_DRIVERS = ("auto", "overlay", "btrfs")
LOG_LEVELS = ("debug", "info", "warning", "error")

# Launchers that wait for containers; see `AgentConfig.pool`.
DEFAULT_POOL = 64
DEFAULT_POOL_MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 64 >> 20  # MiB
# What a launcher that waits has of its own, its network namespace in the kernel included, in MiB.
LAUNCHER_MEMORY = 3

# sockaddr_un.sun_path holds 108 bytes with the closing NUL, unix(7).
SUN_PATH_MAX = 107


@dataclass(frozen=True)
class AgentConfig:
    """The settled configuration of one agent; make it with `AgentConfig.make`.

    `pool` is how many launchers are kept ready, as many as their memory allows. `storage_driver` is one of
    STORAGE_DRIVERS, what was asked for; storage/choose.py says what becomes of it. `registries` is the
    part of the configuration that images/registry/settings.py reads, `peers` that of
    images/peering/settings.py; None where the configuration says nothing of peers. Likewise `tls` is that of
    api/tls/settings.py, and `access` that of api/access/policy.py. `socket_group` may open the socket.
    """

    data_root: Path
    run_root: Path
    socket: Path
    instance: str
    cgroup_parent: str
    network_prefix: str
    name: str
    pool: int
    storage_driver: str
    registries: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)  # with passwords
    peers: Mapping[str, Any] | None = field(default=None, hash=False)
    tls: Mapping[str, Any] | None = field(default=None, hash=False)
    access: Sequence[Any] | None = field(default=None, hash=False)
    socket_group: str = ""

    @classmethod
    def make(
        cls,
        *,
        data_root: Path | str = DEFAULT_DATA_ROOT,
        run_root: Path | str = DEFAULT_RUN_ROOT,
        socket: Path | str | None = None,
        cgroup_parent: str | None = None,
        network_prefix: str = DEFAULT_NETWORK_PREFIX,
        name: str | None = None,
        pool: int = DEFAULT_POOL,
        pool_memory: int = DEFAULT_POOL_MEMORY,
        storage_driver: str = "auto",
        registries: Mapping[str, Any] | None = None,
        peers: Mapping[str, Any] | None = None,
        tls: Mapping[str, Any] | None = None,
        access: Sequence[Any] | None = None,
        socket_group: str = "",
    ) -> AgentConfig:
        """Fill in what was not given and check the rest. Raises InvalidSpec.

        `pool` is the number of launchers to keep ready, `pool_memory` in MiB what they may take together
        after a burst of starts, when there are up to twice as many.
        """
        if pool < 0 or pool_memory < 0:
            raise InvalidSpec(
                f"pool of {pool} launchers in {pool_memory} MiB is not usable: expected numbers from 0 on"
            )
        if storage_driver not in STORAGE_DRIVERS:
            raise InvalidSpec(
                f"storage driver {storage_driver!r} is unknown: expected one of {', '.join(STORAGE_DRIVERS)}"
            )
        run = Path(run_root).absolute()
        instance = "mooring" if run == DEFAULT_RUN_ROOT else f"mooring-{_digest(run)[:6]}"
        parent = (cgroup_parent or instance).strip("/")
        if not parent or ".." in parent.split("/"):
            raise InvalidSpec(
                f"cgroup parent {cgroup_parent!r} is not usable: expected a relative path such as 'mooring'"
            )
        try:
            prefix = ipaddress.ip_network(network_prefix)
        except ValueError as error:
            raise InvalidSpec(
                f"network prefix {network_prefix!r} is not usable: {error}; expected a network such as "
                "10.210.0.0/16"
            ) from None
        if prefix.version != 4 or prefix.prefixlen > 24:
            raise InvalidSpec(
                f"network prefix {network_prefix} is not usable: expected an IPv4 network of /24 or wider, "
                "since each network takes a /24 of it"
            )
        path = Path(socket).absolute() if socket else run / "mooring.sock"
        if len(bytes(path)) > SUN_PATH_MAX:
            raise InvalidSpec(
                f"socket path {path} is {len(bytes(path))} bytes long: the kernel takes at most "
                f"{SUN_PATH_MAX}; "
                "choose a shorter --run-root or --socket"
            )
        keeper = run / "keeper/socket"
        if len(bytes(keeper)) > SUN_PATH_MAX:
            raise InvalidSpec(
                f"run root {run} is too long: the keeper's socket in it would be {len(bytes(keeper))} bytes "
                f"long, and the kernel takes at most {SUN_PATH_MAX}; choose a shorter --run-root"
            )
        return cls(
            data_root=Path(data_root).absolute(),
            run_root=run,
            socket=path,
            instance=instance,
            cgroup_parent=parent,
            network_prefix=str(prefix),
            name=name or "",
            pool=min(pool, pool_memory // LAUNCHER_MEMORY // 2),
            storage_driver=storage_driver,
            registries=registries or {},
            peers=peers,
            tls=tls,
            access=access,
            socket_group=socket_group,
        )

    @property
    def nft_table(self) -> str:
        """Name of the one nftables table of this agent."""
        return self.instance.replace("-", "_")

    @property
    def bridge_prefix(self) -> str:
        """What every bridge name of this agent starts with: `mr`, four hex digits, a dash."""
        return f"mr{_digest(self.run_root)[:4]}-"


def _digest(path: Path) -> str:
    return hashlib.sha256(bytes(path)).hexdigest()
