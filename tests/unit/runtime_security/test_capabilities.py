# SPDX-License-Identifier: Apache-2.0
"""Which capabilities a container has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.runtime.capabilities import CAPABILITIES, DEFAULT, mask, normalise, resolve

HEADER = Path("/usr/include/linux/capability.h")
_names = st.lists(st.sampled_from([*CAPABILITIES, "ALL"]), max_size=6)


def test_there_are_41_with_their_numbers() -> None:
    assert list(CAPABILITIES.values()) == list(range(41))
    assert len(DEFAULT) == 14
    assert set(DEFAULT) <= set(CAPABILITIES)


@pytest.mark.skipif(not HEADER.exists(), reason="the kernel's headers are not installed")
def test_they_are_those_of_the_kernels_header() -> None:
    defined = re.findall(r"^#define\s+(CAP_[A-Z_]+)\s+(\d+)$", HEADER.read_text(), re.MULTILINE)

    assert {name: int(number) for name, number in defined}.items() <= CAPABILITIES.items()


def test_the_running_kernel_has_no_more() -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert last <= max(CAPABILITIES.values())


def test_the_default() -> None:
    assert resolve() == DEFAULT


@pytest.mark.parametrize("name", ["net_admin", "CAP_NET_ADMIN", "Net_Admin", " cap_net_admin "])
def test_any_spelling(name: str) -> None:
    assert "CAP_NET_ADMIN" in resolve(cap_add=[name])
    assert resolve(cap_add=[name], cap_drop=["all"]) == ("CAP_NET_ADMIN",)


def test_all() -> None:
    assert resolve(cap_add=["ALL"]) == tuple(CAPABILITIES)
    assert resolve(cap_drop=["CAP_ALL"]) == ()
    assert resolve(cap_add=["all"], cap_drop=["sys_admin"]) == tuple(
        name for name in CAPABILITIES if name != "CAP_SYS_ADMIN"
    )


@pytest.mark.parametrize(
    ("name", "nearest"), [("NET_ADMN", "NET_ADMIN"), ("CAP_SYSADMIN", "SYS_ADMIN"), ("chwon", "CHOWN")]
)
def test_an_unknown_one_is_named_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        resolve(cap_drop=[name])
    assert f'cap_drop has "{name}"' in caught.value.message
    assert f'did you mean "{nearest}"' in caught.value.message


def test_nonsense_has_no_nearest() -> None:
    with pytest.raises(InvalidSpec) as caught:
        normalise("%%%")
    assert "did you mean" not in caught.value.message


@given(_names, _names)
def test_what_is_added_is_there_and_what_is_dropped_is_not(add: list[str], drop: list[str]) -> None:
    have = resolve(add, drop)

    assert list(have) == sorted(set(have), key=CAPABILITIES.__getitem__)
    if "ALL" not in add:
        assert set(add) <= set(have)
        assert "ALL" not in drop or set(have) == set(add)
        assert set(drop) & set(have) <= set(add)
    else:
        assert not set(drop) & set(have)


def test_the_mask() -> None:
    assert mask(("CAP_CHOWN", "CAP_SYS_ADMIN")) == 1 | 1 << 21
    assert mask(DEFAULT) == 0xA80425FB  # what /proc/PID/status shows in a container of Docker
