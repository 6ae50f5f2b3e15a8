# SPDX-License-Identifier: Apache-2.0
"""`linux.resources` as writes for either version of control groups."""

from __future__ import annotations

from typing import Any

import pytest

from mooring_agent.errors import InvalidSpec
from mooring_agent.oci import groups, limits

RESOURCES: dict[str, Any] = {
    "memory": {"limit": 1 << 26, "swap": 1 << 27, "reservation": 1 << 25, "swappiness": 10},
    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
    "pids": {"limit": 32},
    "blockIO": {"weight": 100, "throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]},
    "hugepageLimits": [{"pageSize": "2MB", "limit": 1 << 21}],
    "rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 10}},
}


def test_version_1_has_a_file_for_each() -> None:
    written = {one.file: one.value for one in limits.separate(RESOURCES)}
    assert written == {
        "memory.limit_in_bytes": str(1 << 26),
        "memory.memsw.limit_in_bytes": str(1 << 27),
        "memory.soft_limit_in_bytes": str(1 << 25),
        "memory.swappiness": "10",
        "cpu.shares": "512",
        "cpu.cfs_quota_us": "50000",
        "cpu.cfs_period_us": "100000",
        "cpuset.cpus": "0-1",
        "cpuset.mems": "0",
        "pids.max": "32",
        "blkio.weight": "100",
        "blkio.throttle.read_bps_device": "8:0 1000",
        "hugetlb.2MB.limit_in_bytes": str(1 << 21),
        "rdma.max": "mlx5_1 hca_handle=3 hca_object=10",
    }


def test_version_2_has_units_of_its_own() -> None:
    resources = {**RESOURCES, "memory": {"limit": 1 << 26, "swap": 1 << 27, "reservation": 1 << 25}}
    written = {one.file: one.value for one in limits.unified(resources)}
    assert written["memory.swap.max"] == str(1 << 26)
    assert (written["memory.max"], written["memory.low"]) == (str(1 << 26), str(1 << 25))
    assert written["cpu.max"] == "50000 100000"
    assert (written["io.weight"], written["io.bfq.weight"]) == ("default 910", "100")
    assert written["io.max"] == "8:0 rbps=1000"
    assert written["hugetlb.2MB.max"] == str(1 << 21)


@pytest.mark.parametrize("value", [-1, 0, None])
def test_no_limit_is_max_and_none_is_nothing(value: int | None) -> None:
    written = [one.value for one in limits.unified({"pids": {"limit": value}})]
    assert written == (["max"] if value == -1 else [])


@pytest.mark.parametrize(
    ("resources", "name"),
    [
        ({"memory": {"limit": "64m"}}, "limit"),
        ({"memory": {"swap": 1 << 20}}, "memory.swap"),
        ({"memory": {"limit": 1 << 21, "swap": 1 << 20}}, "memory.swap"),
        ({"network": {"classID": 1}}, "network"),
        ({"cpu": {"realtimeRuntime": 1000}}, "realtimeRuntime"),
    ],
)
def test_what_version_2_cannot_have_is_named(resources: dict[str, Any], name: str) -> None:
    with pytest.raises(InvalidSpec, match=name):
        limits.unified(resources)


def test_a_limit_above_the_one_in_force_is_told_from_one_below() -> None:
    assert limits.is_more("-1", "1000")
    assert limits.is_more("max", "1000")
    assert not limits.is_more("1000", "max")
    assert not limits.is_more("999", "1000")


def test_device_rules_keep_what_every_container_may_use() -> None:
    assert groups.device_rules([]) == ()
    rules = groups.device_rules(
        [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10}]
    )
    assert (rules[0].kind, rules[0].allow, rules[0].access) == ("a", False, "rwm")
    assert (rules[1].major, rules[1].minor, rules[1].allow) == (10, None, True)
    assert any((rule.major, rule.minor, rule.allow) == (1, 3, True) for rule in rules[2:])
    with pytest.raises(InvalidSpec, match="type"):
        groups.device_rules([{"type": "x", "allow": True}])
