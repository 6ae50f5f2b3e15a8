# SPDX-License-Identifier: Apache-2.0
"""Limits of containers, from Docker's words to ours and back."""

from __future__ import annotations

from typing import Any

import pytest

from mooring_agent.api.docker.convert import convert, convert_update
from mooring_agent.api.docker.convert_limits import shown_devices
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.errors import InvalidSpec


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ({"MemorySwappiness": 0}, {"memory_swappiness": 0}),
        ({"MemorySwappiness": -1}, {}),
        (
            {"OomKillDisable": True, "Memory": 64 << 20},
            {"oom_kill_disable": True, "memory": 64 << 20},
        ),
        (
            {"CpuRealtimePeriod": 9, "CpuRealtimeRuntime": 5},
            {"cpu_rt_period": 9, "cpu_rt_runtime": 5},
        ),
        (
            {
                "BlkioWeight": 300,
                "BlkioWeightDevice": [{"Path": "/dev/sda", "Weight": 10}],
                "BlkioDeviceReadBps": [{"Path": "/dev/sda", "Rate": 1}],
                "BlkioDeviceWriteBps": [{"Path": "/dev/sda", "Rate": 2}],
                "BlkioDeviceReadIOps": [{"Path": "/dev/sda", "Rate": 3}],
                "BlkioDeviceWriteIOps": [{"Path": "/dev/sda", "Rate": 4}],
            },
            {
                "blkio_weight": 300,
                "blkio_weight_device": {"/dev/sda": 10},
                "device_read_bps": {"/dev/sda": 1},
                "device_write_bps": {"/dev/sda": 2},
                "device_read_iops": {"/dev/sda": 3},
                "device_write_iops": {"/dev/sda": 4},
            },
        ),
    ],
)
def test_limits_become_options(host: dict[str, Any], expected: dict[str, Any]) -> None:
    spec = convert({"Image": "web:1", "HostConfig": host}).spec
    assert spec == {"image": "web:1"} | expected
    assert ContainerSpec.parse(spec).given == spec
    assert convert_update(host) == expected


@pytest.mark.parametrize(
    ("host", "named"),
    [
        ({"MemorySwappiness": "40"}, "HostConfig.MemorySwappiness"),
        ({"MemorySwappiness": True}, "HostConfig.MemorySwappiness"),
        ({"BlkioDeviceReadBps": [{"Rate": 1}]}, r"HostConfig.BlkioDeviceReadBps\[0\]"),
        ({"BlkioDeviceReadBps": [{"Path": "/a", "Weight": 1}]}, r"BlkioDeviceReadBps\[0\]"),
        ({"BlkioDeviceReadBps": [{"Path": "/a", "Rate": "1"}]}, r"BlkioDeviceReadBps\[0\].Rate"),
        ({"BlkioWeightDevice": {"Path": "/a"}}, "HostConfig.BlkioWeightDevice"),
        (
            {"BlkioDeviceReadIOps": [{"Path": "/a", "Rate": 1}, {"Path": "/a", "Rate": 2}]},
            "names /a twice",
        ),
    ],
)
def test_limits_of_the_wrong_kind_are_named(host: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidSpec, match=named):
        convert({"Image": "web:1", "HostConfig": host})


def test_limits_of_disks_are_shown_as_they_were_given() -> None:
    assert shown_devices({"/dev/sda": 5}, "Rate") == [{"Path": "/dev/sda", "Rate": 5}]
    assert shown_devices({}, "Rate") is None
