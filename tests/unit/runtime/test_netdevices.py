# SPDX-License-Identifier: Apache-2.0
"""`linux.netDevices` of a config."""

from __future__ import annotations

from typing import Any

import pytest

from mooring_agent.errors import InvalidSpec
from mooring_agent.runtime.netdevices import net_devices

NAMESPACES = [{"type": "network"}]


def test_devices_keep_their_name_or_get_another() -> None:
    linux = {"namespaces": NAMESPACES, "netDevices": {"eth1": {}, "eth2": {"name": "in%d"}}}
    assert net_devices({"linux": linux}) == (("eth1", "eth1"), ("eth2", "in%d"))
    assert net_devices({}) == ()


@pytest.mark.parametrize(
    "linux",
    [
        {"netDevices": {"eth1": {}}},
        {"namespaces": NAMESPACES, "netDevices": ["eth1"]},
        {"namespaces": NAMESPACES, "netDevices": {"x" * 16: {}}},
        {"namespaces": NAMESPACES, "netDevices": {"eth1": {"name": "a/b"}}},
        {"namespaces": NAMESPACES, "netDevices": {"eth1": {"name": 5}}},
    ],
)
def test_what_is_wrong_is_named(linux: dict[str, Any]) -> None:
    with pytest.raises(InvalidSpec, match=r"config\.linux\.netDevices"):
        net_devices({"linux": linux})
