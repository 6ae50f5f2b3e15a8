# SPDX-License-Identifier: Apache-2.0
"""The blkio controller, version 1 (Documentation/admin-guide/cgroup-v1/blkio-controller.rst).

Rates hold for whatever goes to a device directly; what is written through the page cache is written back by
the kernel and charged to nobody here, which version 2 does better. Weights are those of the scheduler BFQ
(Documentation/block/bfq-iosched.rst).
"""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Any

from ...errors import Conflict, MooringError, NotSupported
from ..controller import Contents, Refusal
from ..resources import WEIGHT_DEFAULT, DeviceLimit, Resources, Setting

NAME = "blkio"
WEIGHT = "blkio.bfq.weight"
WEIGHT_DEVICE = "blkio.bfq.weight_device"
RATES = {
    "device_read_bps": "blkio.throttle.read_bps_device",
    "device_write_bps": "blkio.throttle.write_bps_device",
    "device_read_iops": "blkio.throttle.read_iops_device",
    "device_write_iops": "blkio.throttle.write_iops_device",
}
FILES = (WEIGHT, WEIGHT_DEVICE, *RATES.values())

_DEVICE_FILES = {"blkio_weight_device": (WEIGHT_DEVICE, "default")} | {
    field: (file, "0") for field, file in RATES.items()
}
"""Field of Resources → file, and the word that takes a device's line away."""


def settings(resources: Resources) -> tuple[Setting, ...]:
    """For a new group, which has no device's lines."""
    return plan(resources, {WEIGHT: str(WEIGHT_DEFAULT)}, {})


def plan(resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
    """The weight, and line by line what differs for a device."""
    wanted: list[Setting] = []
    weight = WEIGHT_DEFAULT if resources.blkio_weight is None else resources.blkio_weight
    stated = resources.blkio_weight is not None or WEIGHT in contents
    if stated and contents.get(WEIGHT, "").removeprefix("default ") != str(weight):
        wanted.append(Setting(NAME, WEIGHT, str(weight)))
    for field, (file, none) in _DEVICE_FILES.items():
        limits: tuple[DeviceLimit, ...] = getattr(resources, field)
        there = lines(contents.get(file, ""))
        now = {limit.device: str(limit.value) for limit in limits}
        for device in (*now, *(device for device in there if device not in now)):
            value, before = now.get(device, none), there.get(device, none)
            if value != before:
                wanted.append(Setting(NAME, file, f"{device} {value}", undo=f"{device} {before}"))
    return tuple(wanted)


def parse(contents: Contents) -> dict[str, Any]:
    """The weight unless it is the kernel's own, and each device's lines."""
    weight = contents.get(WEIGHT, "").removeprefix("default ") or str(WEIGHT_DEFAULT)
    return {"blkio_weight": None if weight == str(WEIGHT_DEFAULT) else int(weight)} | {
        field: tuple(
            DeviceLimit(device, int(value)) for device, value in lines(contents.get(file, "")).items()
        )
        for field, (file, _) in _DEVICE_FILES.items()
    }


def explain(refusal: Refusal) -> MooringError:
    """ENOENT is a kernel without the file, or BFQ not at work on a device; ENODEV a device without disk."""
    return refused(refusal)


def refused(refusal: Refusal) -> MooringError:
    """The error for a refused write, in either version."""
    device = refusal.setting.value.partition(" ")[0]
    if refusal.errno in (errno.ENODEV, errno.ENXIO):
        return Conflict(
            f"device {device} cannot be limited for group {refusal.group}: there is no such disk; name a "
            "whole disk, no partition, that the host has"
        )
    if refusal.errno in (errno.ENOENT, errno.EOPNOTSUPP) and "weight" in refusal.setting.file:
        return NotSupported(
            f"{refusal.setting.file} of group {refusal.group} was not taken: weights need the scheduler BFQ "
            "on the disk (write bfq to /sys/block/DISK/queue/scheduler); use it, or limit rates"
        )
    return refusal.error()


def lines(text: str) -> Mapping[str, str]:
    """A nested file of "MAJOR:MINOR VALUE" as a mapping; other lines are passed over."""
    found: dict[str, str] = {}
    for line in text.split("\n"):
        device, mark, value = line.partition(" ")
        if mark and ":" in device:
            found[device] = value.strip()
    return found
