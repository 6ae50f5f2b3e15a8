# SPDX-License-Identifier: Apache-2.0
"""`linux.resources` of the runtime-spec (config-linux.md, "Control groups") as writes to interface files.

Pure functions. `separate` speaks to cgroups v1 (Documentation/admin-guide/cgroup-v1/), `unified` to v2
(Documentation/admin-guide/cgroup-v2.rst).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..cgroups.v2.cpu import weight_of
from ..errors import InvalidSpec


@dataclass(frozen=True)
class Write:
    """One write. `name` is where the config says it, `other` a second name that the file may have.

    `not_below` names the file whose value must never be smaller; `optional` is passed over where the kernel
    has no such file.
    """

    name: str
    file: str
    value: str
    other: str = ""
    not_below: str = ""
    optional: bool = False


def separate(resources: Mapping[str, Any]) -> list[Write]:
    """For version 1."""
    memory = _part(resources, "memory")
    writes = _simple(
        memory,
        "memory",
        (
            ("limit", "memory.limit_in_bytes"),
            ("swap", "memory.memsw.limit_in_bytes"),
            ("reservation", "memory.soft_limit_in_bytes"),
            ("kernelTCP", "memory.kmem.tcp.limit_in_bytes"),
            ("swappiness", "memory.swappiness"),
        ),
    )
    writes = [
        Write(one.name, one.file, one.value, not_below="memory.memsw.limit_in_bytes")
        if one.file == "memory.limit_in_bytes"
        else one
        for one in writes
    ]
    # Linux has let go of this limit in 6.1; before, it is one that may stand for itself.
    if memory.get("kernel") is not None:
        writes.append(
            Write("memory.kernel", "memory.kmem.limit_in_bytes", _integer(memory, "kernel"), optional=True)
        )
    if memory.get("disableOOMKiller"):
        writes.append(Write("memory.disableOOMKiller", "memory.oom_control", "1"))
    if memory.get("useHierarchy"):
        writes.append(Write("memory.useHierarchy", "memory.use_hierarchy", "1", optional=True))
    cpu = _part(resources, "cpu")
    writes += _simple(
        cpu,
        "cpu",
        (
            ("shares", "cpu.shares"),
            ("period", "cpu.cfs_period_us"),
            ("quota", "cpu.cfs_quota_us"),
            ("burst", "cpu.cfs_burst_us"),
            ("realtimePeriod", "cpu.rt_period_us"),
            ("realtimeRuntime", "cpu.rt_runtime_us"),
            ("idle", "cpu.idle"),
            ("cpus", "cpuset.cpus"),
            ("mems", "cpuset.mems"),
        ),
    )
    writes += _pids(resources)
    block = _part(resources, "blockIO")
    for key, file, other in (
        ("weight", "blkio.weight", "blkio.bfq.weight"),
        ("leafWeight", "blkio.leaf_weight", ""),
    ):
        if block.get(key):
            writes.append(Write(f"blockIO.{key}", file, _integer(block, key), other))
    for device in block.get("weightDevice") or ():
        for key, file, other in (
            ("weight", "blkio.weight_device", "blkio.bfq.weight_device"),
            ("leafWeight", "blkio.leaf_weight_device", ""),
        ):
            if device.get(key) is not None:
                value = f"{device['major']}:{device['minor']} {_integer(device, key)}"
                writes.append(Write(f"blockIO.weightDevice.{key}", file, value, other))
    for key, file in (
        ("throttleReadBpsDevice", "blkio.throttle.read_bps_device"),
        ("throttleWriteBpsDevice", "blkio.throttle.write_bps_device"),
        ("throttleReadIOPSDevice", "blkio.throttle.read_iops_device"),
        ("throttleWriteIOPSDevice", "blkio.throttle.write_iops_device"),
    ):
        for device in block.get(key) or ():
            value = f"{device['major']}:{device['minor']} {_integer(device, 'rate')}"
            writes.append(Write(f"blockIO.{key}", file, value))
    for page in resources.get("hugepageLimits") or ():
        size = page.get("pageSize")
        writes.append(Write("hugepageLimits", f"hugetlb.{size}.limit_in_bytes", _integer(page, "limit")))
    network = _part(resources, "network")
    if network.get("classID") is not None:
        writes.append(Write("network.classID", "net_cls.classid", _integer(network, "classID")))
    for one in network.get("priorities") or ():
        writes.append(
            Write("network.priorities", "net_prio.ifpriomap", f"{one['name']} {_integer(one, 'priority')}")
        )
    return writes + _rdma(resources)


def unified(resources: Mapping[str, Any]) -> list[Write]:
    """For version 2."""
    writes: list[Write] = []
    memory = _part(resources, "memory")
    limit, swap = memory.get("limit"), memory.get("swap")
    if swap is not None and swap != 0:
        writes.append(Write("memory.swap", "memory.swap.max", _swap(swap, limit)))
    if limit is not None:
        writes.append(Write("memory.limit", "memory.max", _or_max(_integer(memory, "limit"))))
    if memory.get("reservation") is not None:
        writes.append(Write("memory.reservation", "memory.low", _or_max(_integer(memory, "reservation"))))
    cpu = _part(resources, "cpu")
    if cpu.get("shares"):
        writes.append(Write("cpu.shares", "cpu.weight", str(weight_of(int(_integer(cpu, "shares"))))))
    quota, period = cpu.get("quota"), cpu.get("period")
    if quota is not None or period is not None:
        value = "max" if quota is None or int(quota) <= 0 else _integer(cpu, "quota")
        writes.append(Write("cpu.quota", "cpu.max", f"{value} {period or 100_000}"))
    writes += _simple(
        cpu,
        "cpu",
        (("burst", "cpu.max.burst"), ("idle", "cpu.idle"), ("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")),
    )
    if cpu.get("realtimeRuntime") or cpu.get("realtimePeriod"):
        raise InvalidSpec("linux.resources.cpu.realtimeRuntime and realtimePeriod do not exist in cgroups v2")
    writes += _pids(resources)
    block = _part(resources, "blockIO")
    if block.get("weight"):
        weight = int(_integer(block, "weight"))
        # The two files count from 1 to 10000 and, like the config, from 10 to 1000.
        if weight:
            writes.append(Write("blockIO.weight", "io.bfq.weight", f"{weight}", optional=True))
            scaled = 1 + (weight - 10) * 9999 // 990
            writes.append(Write("blockIO.weight", "io.weight", f"default {scaled}", optional=True))
    for device in block.get("weightDevice") or ():
        if device.get("weight") is not None:
            place = f"{device['major']}:{device['minor']}"
            value = f"{place} {_integer(device, 'weight')}"
            writes.append(Write("blockIO.weightDevice", "io.bfq.weight", value))
    for key, word in (
        ("throttleReadBpsDevice", "rbps"),
        ("throttleWriteBpsDevice", "wbps"),
        ("throttleReadIOPSDevice", "riops"),
        ("throttleWriteIOPSDevice", "wiops"),
    ):
        for device in block.get(key) or ():
            value = f"{device['major']}:{device['minor']} {word}={_integer(device, 'rate')}"
            writes.append(Write(f"blockIO.{key}", "io.max", value))
    for page in resources.get("hugepageLimits") or ():
        value = _integer(page, "limit")
        writes.append(Write("hugepageLimits", f"hugetlb.{page.get('pageSize')}.max", value))
    if _part(resources, "network"):
        raise InvalidSpec("linux.resources.network does not exist in cgroups v2; use the firewall for it")
    return writes + _rdma(resources)


def is_more(wanted: str, current: str) -> bool:
    """Whether the limit `wanted` is above the one in force; -1 and "max" are above all."""
    return _height(wanted) > _height(current)


def _height(text: str) -> float:
    return float("inf") if text in ("max", "-1") else float(text.split()[0])


def _part(resources: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = resources.get(name) or {}
    if not isinstance(part, Mapping):
        raise InvalidSpec(f"linux.resources.{name} is {part!r}, expected an object")
    return part


def _simple(part: Mapping[str, Any], name: str, table: tuple[tuple[str, str], ...]) -> list[Write]:
    writes = []
    for key, file in table:
        value = part.get(key)
        if value is None or value == "":
            continue
        text = value if key in ("cpus", "mems") else _integer(part, key)
        # 0 stands for "not stated" where the kernel has no such limit.
        if text == "0" and key in ("shares", "quota", "period", "realtimeRuntime", "realtimePeriod", "swap"):
            continue
        writes.append(Write(f"{name}.{key}", file, str(text)))
    return writes


def _pids(resources: Mapping[str, Any]) -> list[Write]:
    pids = _part(resources, "pids")
    if pids.get("limit") is None or pids["limit"] == 0:
        return []
    limit = int(_integer(pids, "limit"))
    return [Write("pids.limit", "pids.max", "max" if limit < 0 else str(limit))]


def _rdma(resources: Mapping[str, Any]) -> list[Write]:
    writes = []
    for device, limits in (resources.get("rdma") or {}).items():
        words = [device]
        for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            if limits.get(key) is not None:
                words.append(f"{word}={_integer(limits, key)}")
        writes.append(Write("rdma", "rdma.max", " ".join(words)))
    return writes


def _swap(swap: int, limit: int | None) -> str:
    """The config counts memory and swap together, version 2 swap alone."""
    if swap < 0:
        return "max"
    if limit is None or limit <= 0:
        raise InvalidSpec(
            f"linux.resources.memory.swap is {swap} without a limit, expected memory.limit beside it since "
            "it counts memory and swap together"
        )
    if swap < limit:
        raise InvalidSpec(
            f"linux.resources.memory.swap is {swap}, below memory.limit {limit}: it counts both together"
        )
    return str(swap - limit)


def _or_max(value: str) -> str:
    return "max" if value.startswith("-") else value


def _integer(part: Mapping[str, Any], key: str) -> str:
    value = part.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidSpec(f"linux.resources has {key}: {value!r}, expected an integer")
    return str(value)
