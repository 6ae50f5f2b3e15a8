# SPDX-License-Identifier: Apache-2.0
"""What the command line says of limits of disks, swapping and real-time tasks, in the words of the APIs."""

from __future__ import annotations

import argparse
from typing import Any

from ..engine.resources import limits
from ..errors import InvalidSpec
from .limitarguments import DISKS

_TYPES = {
    "blkio_weight_device": limits.DEVICE_WEIGHTS,
    "device_read_bps": limits.DEVICE_BYTES,
    "device_write_bps": limits.DEVICE_BYTES,
    "device_read_iops": limits.DEVICE_OPERATIONS,
    "device_write_iops": limits.DEVICE_OPERATIONS,
}
_OF_HOST_CONFIG = {
    "blkio_weight_device": ("BlkioWeightDevice", "Weight"),
    "device_read_bps": ("BlkioDeviceReadBps", "Rate"),
    "device_write_bps": ("BlkioDeviceWriteBps", "Rate"),
    "device_read_iops": ("BlkioDeviceReadIOps", "Rate"),
    "device_write_iops": ("BlkioDeviceWriteIOps", "Rate"),
}


def host_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """What they say of a container, as HostConfig of the Docker Engine API."""
    said = {
        "MemorySwappiness": arguments.memory_swappiness,
        "CpuRealtimePeriod": arguments.cpu_rt_period,
        "CpuRealtimeRuntime": arguments.cpu_rt_runtime,
        "BlkioWeight": arguments.blkio_weight,
        "OomKillDisable": arguments.oom_kill_disable,
    }
    for name, limits_of in disks(arguments).items():
        key, limit = _OF_HOST_CONFIG[name]
        said[key] = [{"Path": path, limit: value} for path, value in limits_of.items()]
    return said


def disks(arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """The limits of disks by the name of their option. Raises InvalidSpec, naming it."""
    return {name: _limits(getattr(arguments, name), name) for name in DISKS}


def _limits(given: list[str], name: str) -> dict[str, int]:
    option = f"--{name.replace('_', '-')}"
    found = dict(_TYPES[name].parse(given, option) or {})
    if given and not found:
        raise InvalidSpec(f"{option} {given[0]} is no limit; give one above 0, or leave it out")
    return found
