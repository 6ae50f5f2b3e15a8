# SPDX-License-Identifier: Apache-2.0
"""The io controller, version 2 (Documentation/admin-guide/cgroup-v2.rst, "IO Interface Files").

Weights are BFQ's where the kernel has it (io.bfq.weight), else those of its cost model (io.weight), which are
wider: 1 to 10000 around 100.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ...errors import MooringError
from ..controller import Contents, Refusal
from ..resources import WEIGHT_DEFAULT, WEIGHT_MAXIMUM, WEIGHT_MINIMUM, DeviceLimit, Resources, Setting
from ..v1.blkio import lines, refused

NAME = "io"
MAX = "io.max"
BFQ_WEIGHT = "io.bfq.weight"
COST_WEIGHT = "io.weight"
_COST_LARGEST = 10_000
_KEYS = {
    "device_read_bps": "rbps",
    "device_write_bps": "wbps",
    "device_read_iops": "riops",
    "device_write_iops": "wiops",
}


def weight_file(mount: str) -> str | None:
    """The file of weights that groups of the tree at `mount` have; None while none has the controller."""
    with os.scandir(mount) as entries:
        groups = [entry.path for entry in entries if entry.is_dir()]
    if not any(os.path.exists(f"{group}/{MAX}") for group in groups):
        return None
    return BFQ_WEIGHT if any(os.path.exists(f"{group}/{BFQ_WEIGHT}") for group in groups) else COST_WEIGHT


@dataclass(frozen=True)
class BlockIo:
    """The controller on a host whose groups have the file `weights`."""

    weights: str = BFQ_WEIGHT
    NAME: str = NAME

    @property
    def FILES(self) -> tuple[str, ...]:
        """See `Controller.FILES`."""
        return (MAX, self.weights)

    def settings(self, resources: Resources) -> tuple[Setting, ...]:
        """For a new group, which has no device's lines."""
        return self.plan(resources, {}, {})

    def plan(self, resources: Resources, contents: Contents, parent: Contents) -> tuple[Setting, ...]:
        """The weights, then the rates; each device is a line of its own."""
        wanted: list[Setting] = []
        there = _weights(contents.get(self.weights, ""))
        weights = {limit.device: self._scaled(limit.value) for limit in resources.blkio_weight_device}
        if resources.blkio_weight is not None:
            weights["default"] = self._scaled(resources.blkio_weight)
        elif there.get("default", WEIGHT_DEFAULT) != WEIGHT_DEFAULT:
            weights["default"] = WEIGHT_DEFAULT
        for device in (*weights, *(one for one in there if one not in weights and one != "default")):
            before = there.get(device, WEIGHT_DEFAULT if device == "default" else None)
            value = weights.get(device)
            if value != before:
                wanted.append(Setting(NAME, self.weights, _line(device, value), undo=_line(device, before)))
        rates, limited = _wanted_rates(resources), _rates(contents.get(MAX, ""))
        for device in (*rates, *(one for one in limited if one not in rates)):
            new, old = _max(rates.get(device, {})), _max(limited.get(device, {}))
            if new != old:
                wanted.append(Setting(NAME, MAX, f"{device} {new}", undo=f"{device} {old}"))
        return tuple(wanted)

    def parse(self, contents: Contents) -> dict[str, Any]:
        """Weights as Resources has them, and each device's rates."""
        weights = _weights(contents.get(self.weights, ""))
        default = weights.pop("default", WEIGHT_DEFAULT)
        rates = _rates(contents.get(MAX, ""))
        return {
            "blkio_weight": None if default == WEIGHT_DEFAULT else self._plain(default),
            "blkio_weight_device": tuple(
                DeviceLimit(device, self._plain(weight)) for device, weight in weights.items()
            ),
        } | {
            field: tuple(
                DeviceLimit(device, values[key]) for device, values in rates.items() if key in values
            )
            for field, key in _KEYS.items()
        }

    def explain(self, refusal: Refusal) -> MooringError:
        """As in version 1."""
        return refused(refusal)

    def _scaled(self, weight: int) -> int:
        """10 to 1000 as 1 to 10000 where the file counts so, 100 staying 100 (both files' own default)."""
        if self.weights == BFQ_WEIGHT:
            return weight
        if weight <= WEIGHT_DEFAULT:
            return 1 + (weight - WEIGHT_MINIMUM) * 99 // 90
        return 100 + (weight - WEIGHT_DEFAULT) * (_COST_LARGEST - 100) // (WEIGHT_MAXIMUM - WEIGHT_DEFAULT)

    def _plain(self, value: int) -> int:
        """The smallest weight that is scaled to at least `value`."""
        low, high = WEIGHT_MINIMUM, WEIGHT_MAXIMUM
        while low < high:
            middle = (low + high) // 2
            if self._scaled(middle) < value:
                low = middle + 1
            else:
                high = middle
        return low


def _line(device: str, value: int | None) -> str:
    return f"{device} {'default' if value is None else value}"


def _weights(text: str) -> dict[str, int]:
    """ "default N" and "MAJOR:MINOR N" lines."""
    found = {device: int(value) for device, value in lines(text).items() if value.isdigit()}
    for line in text.split("\n"):
        word, _, value = line.partition(" ")
        if word == "default" and value.isdigit():
            found["default"] = int(value)
    return found


def _rates(text: str) -> dict[str, dict[str, int]]:
    """Lines of io.max: the limits that there are, "max" being none."""
    found = {}
    for device, values in lines(text).items():
        pairs = (word.partition("=") for word in values.split())
        found[device] = {key: int(value) for key, _, value in pairs if value.isdigit()}
    return found


def _wanted_rates(resources: Resources) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for field, key in _KEYS.items():
        for limit in getattr(resources, field):
            found.setdefault(limit.device, {})[key] = limit.value
    return found


def _max(rates: dict[str, int]) -> str:
    return " ".join(f"{key}={rates.get(key, 'max')}" for key in _KEYS.values())
