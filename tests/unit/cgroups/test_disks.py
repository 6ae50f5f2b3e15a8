# SPDX-License-Identifier: Apache-2.0
"""Limits of disks, of swapping and of real-time tasks as writes, in both versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.cgroups.hierarchy import Hierarchy, Place
from mooring_agent.cgroups.resources import DeviceLimit, Resources, Setting
from mooring_agent.cgroups.v1 import blkio, cpu, memory
from mooring_agent.cgroups.v2.io import BFQ_WEIGHT, COST_WEIGHT, MAX, BlockIo
from mooring_agent.errors import InvalidSpec

FIELDS = ("device_read_bps", "device_write_bps", "device_read_iops", "device_write_iops")

devices = st.integers(0, 9).map(lambda minor: f"8:{minor}")
limits = st.dictionaries(devices, st.integers(1, 2**40), max_size=3).map(
    lambda found: tuple(DeviceLimit(device, value) for device, value in sorted(found.items()))
)
weights = st.dictionaries(devices, st.integers(10, 1000), max_size=3).map(
    lambda found: tuple(DeviceLimit(device, value) for device, value in sorted(found.items()))
)
wanted = st.builds(
    Resources,
    blkio_weight=st.none() | st.integers(10, 1000),
    blkio_weight_device=weights,
    **dict.fromkeys(FIELDS, limits),
)


def take(contents: dict[str, str], settings: tuple[Setting, ...], files: tuple[str, ...]) -> dict[str, str]:
    """What the kernel would hold after the writes, each of which concerns one line."""
    held = {file: dict(_keyed(contents.get(file, ""))) for file in files}
    for setting in settings:
        key, _, value = setting.value.rpartition(" ") if "=" not in setting.value else ("", "", "")
        if "=" in setting.value:
            key, _, value = setting.value.partition(" ")
        key = key or "default"
        gone = value == "default" or (value == "0" and "throttle" in setting.file)
        if gone or (value and all(word.endswith("=max") for word in value.split())):
            held[setting.file].pop(key, None)
        else:
            held[setting.file][key] = value
    return {file: "\n".join(f"{key} {value}" for key, value in lines.items()) for file, lines in held.items()}


def _keyed(text: str) -> list[tuple[str, str]]:
    return [(key, value) for key, _, value in (line.partition(" ") for line in text.split("\n") if line)]


@given(wanted, wanted)
def test_version_1_has_exactly_what_was_asked_for_last(before: Resources, after: Resources) -> None:
    held = take({blkio.WEIGHT: "default 100"}, blkio.settings(before), blkio.FILES)
    held = take(held, blkio.plan(after, held, {}), blkio.FILES)

    assert blkio.plan(after, held, {}) == ()
    found = blkio.parse(held)
    for field in (*FIELDS, "blkio_weight_device"):
        assert sorted(found[field], key=str) == sorted(getattr(after, field), key=str)
    assert found["blkio_weight"] == (None if after.blkio_weight == 100 else after.blkio_weight)


@pytest.mark.parametrize("weights", [BFQ_WEIGHT, COST_WEIGHT])
@given(before=wanted, after=wanted)
def test_version_2_has_exactly_what_was_asked_for_last(
    weights: str, before: Resources, after: Resources
) -> None:
    io = BlockIo(weights)
    held = take({weights: "default 100"}, io.settings(before), io.FILES)
    held = take(held, io.plan(after, held, {}), io.FILES)

    assert io.plan(after, held, {}) == ()
    found = io.parse(held)
    for field in FIELDS:
        assert sorted(found[field], key=str) == sorted(getattr(after, field), key=str)


@given(st.integers(10, 1000), st.integers(10, 1000))
def test_weights_of_the_cost_model_keep_their_order(one: int, other: int) -> None:
    io = BlockIo(COST_WEIGHT)

    def scale(weight: int) -> int:
        held = take({COST_WEIGHT: "default 100"}, io.settings(Resources(blkio_weight=weight)), io.FILES)
        return int(held[COST_WEIGHT].split()[1])

    scaled = [scale(one), scale(other)]

    assert (one < other) <= (scaled[0] < scaled[1])
    assert all(1 <= each <= 10_000 for each in scaled)
    assert io.parse({COST_WEIGHT: f"default {scaled[0]}"})["blkio_weight"] == (None if one == 100 else one)


def test_one_line_of_version_2_has_all_rates_of_a_disk() -> None:
    disk = Resources(device_read_bps=(DeviceLimit("8:0", 5),), device_write_iops=(DeviceLimit("8:0", 7),))

    assert BlockIo().settings(disk) == (Setting("io", MAX, "8:0 rbps=5 wbps=max riops=max wiops=7"),)


def test_a_write_is_taken_back_line_by_line() -> None:
    contents = {blkio.RATES["device_read_bps"]: "8:0 5\n8:16 6"}
    [setting] = blkio.plan(
        Resources(device_read_bps=(DeviceLimit("8:0", 9), DeviceLimit("8:16", 6))), contents, {}
    )

    assert (setting.value, setting.undo) == ("8:0 9", "8:0 5")


def test_swapping_and_killing_in_version_1() -> None:
    stated = Resources(memory=1 << 20, memory_swappiness=0, oom_kill_disable=True)
    contents = {
        memory.LIMIT: str(1 << 20),
        memory.SWAPPINESS: "60",
        memory.OOM_CONTROL: "oom_kill_disable 0\nunder_oom 0\noom_kill 2",
    }

    assert [(one.file, one.value) for one in memory.settings(stated)][1:] == [
        (memory.SWAPPINESS, "0"),
        (memory.OOM_CONTROL, "1"),
    ]
    assert [(one.file, one.value, one.undo) for one in memory.plan(stated, contents, {})] == [
        (memory.SWAPPINESS, "0", None),
        (memory.OOM_CONTROL, "1", "0"),
    ]
    contents |= {memory.SWAPPINESS: "0", memory.OOM_CONTROL: "oom_kill_disable 1"}
    assert memory.plan(stated, contents, {}) == ()
    assert [
        (one.file, one.value)
        for one in memory.plan(Resources(memory=1 << 20), contents, {memory.SWAPPINESS: "10"})
    ] == [(memory.OOM_CONTROL, "0"), (memory.SWAPPINESS, "10")]


def test_real_time_is_lifted_around_a_change_of_its_period() -> None:
    contents = {cpu.SHARES: "1024", cpu.RT_PERIOD: "1000000", cpu.RT_RUNTIME: "5000"}
    stated = Resources(cpu_rt_period=1000, cpu_rt_runtime=500)

    assert [one.value for one in cpu.plan(stated, contents, {})] == ["0", "1000", "500"]
    assert [(one.file, one.value) for one in cpu.settings(stated)] == [
        (cpu.RT_PERIOD, "1000"),
        (cpu.RT_RUNTIME, "500"),
    ]
    assert cpu.parse(contents)["cpu_rt_runtime"] == 5000


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        (Resources(memory_swappiness=101), "memory_swappiness is 101"),
        (Resources(oom_kill_disable=True), "memory has no limit"),
        (Resources(cpu_rt_runtime=11, cpu_rt_period=10), "cpu_rt_runtime is 11 µs"),
        (Resources(blkio_weight=9), "blkio_weight is 9"),
        (Resources(blkio_weight_device=(DeviceLimit("8:0", 1001),)), "blkio_weight_device is 1001"),
    ],
)
def test_values_that_make_no_sense(resources: Resources, sentence: str) -> None:
    with pytest.raises(InvalidSpec, match=sentence):
        resources.check()


@pytest.mark.parametrize("file", [BFQ_WEIGHT, COST_WEIGHT])
def test_the_first_group_with_the_controller_tells_the_file_of_weights(tmp_path: Path, file: str) -> None:
    hierarchy = Hierarchy("v2", [Place("io", 2, str(tmp_path))])
    (tmp_path / "init.scope").mkdir()
    assert hierarchy.limits["io"].FILES == (MAX, COST_WEIGHT)

    (tmp_path / "mooring").mkdir()
    for name in (MAX, file):
        (tmp_path / "mooring" / name).touch()
    assert hierarchy.settings(Resources(blkio_weight=1000))[0].file == file
