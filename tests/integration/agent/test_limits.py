# SPDX-License-Identifier: Apache-2.0
"""Limits of disks, swapping, killing and real-time tasks, as the kernel has them for a container."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.host import cgroup_mounts
from harness.unix_http import ApiError
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.kernel("cgroup_v1")]

SLEEP = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0}


@pytest.fixture
def declare(agent: AgentUnderTest) -> Iterator[Any]:
    """Declare containers that are gone after the test."""
    names = set()

    def put(name: str, spec: dict[str, Any]) -> Any:
        names.add(name)
        return agent.api("PUT", f"/mooring/v1/containers/{name}", spec)

    yield put
    for name in names:
        agent.api("DELETE", f"/mooring/v1/containers/{name}")


def held(controller: str, pid: int, file: str) -> str:
    """What the version 1 group of a process has in a file."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            mount = next(mount for mount, (_, options) in cgroup_mounts().items() if controller in options)
            return Path(f"{mount}{path}/{file}").read_text().strip()
    raise AssertionError(f"process {pid} is in no group of {controller}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A disk of 8 MiB."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(8 << 20)
    done = subprocess.run(
        ["losetup", "--find", "--show", "--direct-io=off", str(image)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    yield done.stdout.strip()
    subprocess.run(["losetup", "--detach", done.stdout.strip()], check=True, timeout=30)


def pid_of(agent: AgentUnderTest, name: str) -> int:
    return int(agent.docker("inspect", "-f", "{{.State.Pid}}", name).stdout)


def test_a_disk_is_read_no_faster_than_said_and_that_changes_live(
    agent: AgentUnderTest, declare: Any, disk: str
) -> None:
    number = os.stat(disk).st_rdev
    numbers = f"{os.major(number)}:{os.minor(number)}"
    spec = {**SLEEP, "devices": [disk], "device_read_bps": {disk: "1m"}, "device_write_iops": {disk: 50}}
    declare("reader", spec)
    pid = pid_of(agent, "reader")
    assert held("blkio", pid, "blkio.throttle.read_bps_device") == f"{numbers} {1 << 20}"
    assert held("blkio", pid, "blkio.throttle.write_iops_device") == f"{numbers} 50"

    begun = time.monotonic()
    agent.docker("exec", "reader", "dd", f"if={disk}", "of=/dev/null", "bs=1M", "count=3")
    assert time.monotonic() - begun > 1.5

    change = declare("reader", {**spec, "device_read_bps": {}, "device_write_iops": {disk: 60}})
    assert [action["action"] for action in change["actions"]] == ["update", "update"]
    assert pid_of(agent, "reader") == pid
    assert held("blkio", pid, "blkio.throttle.read_bps_device") == ""
    assert held("blkio", pid, "blkio.throttle.write_iops_device") == f"{numbers} 60"
    assert (
        declare("reader", {**spec, "device_read_bps": {}, "device_write_iops": {disk: 60}})["actions"] == []
    )

    agent.docker("rm", "-f", "reader")
    assert (
        agent.docker(
            *(
                "run",
                "--name",
                "reader",
                "--device-read-bps",
                f"{disk}:2mb",
                "--device-read-iops",
                f"{disk}:9",
            ),
            *("busybox", "true"),
            check=False,
        ).returncode
        == 0
    )
    shown = "{{json .HostConfig.BlkioDeviceReadBps}} {{json .HostConfig.BlkioDeviceReadIOps}}"
    assert agent.docker("inspect", "-f", shown, "reader").stdout.strip() == (
        f'[{{"Path":"{disk}","Rate":2097152}}] [{{"Path":"{disk}","Rate":9}}]'
    )


def test_what_is_no_disk_is_refused(agent: AgentUnderTest) -> None:
    for path, why in (("/dev/null", "is no block device"), ("/dev/nosuch", "No such file")):
        done = agent.docker("create", "--device-read-bps", f"{path}:1mb", "busybox", check=False)
        assert done.returncode != 0
        assert "device_read_bps" in done.stderr
        assert why in done.stderr


def test_weights_of_disks(agent: AgentUnderTest, declare: Any) -> None:
    declare("heavy", {**SLEEP, "blkio_weight": 300})
    pid = pid_of(agent, "heavy")
    assert held("blkio", pid, "blkio.bfq.weight").removeprefix("default ") == "300"
    agent.docker("update", "--blkio-weight", "500", "heavy")
    assert held("blkio", pid, "blkio.bfq.weight").removeprefix("default ") == "500"


def test_swapping_is_said_and_taken_back(agent: AgentUnderTest, declare: Any) -> None:
    declare("swapping", {**SLEEP, "memory_swappiness": 0})
    pid = pid_of(agent, "swapping")
    assert held("memory", pid, "memory.swappiness") == "0"
    declare("swapping", {**SLEEP, "memory_swappiness": 40})
    assert held("memory", pid, "memory.swappiness") == "40"
    assert agent.docker("inspect", "-f", "{{.HostConfig.MemorySwappiness}}", "swapping").stdout == "40\n"
    declare("swapping", SLEEP)
    inherited = Path("/sys/fs/cgroup/memory/memory.swappiness").read_text().strip()
    assert held("memory", pid, "memory.swappiness") == inherited


def test_processes_wait_for_memory_instead_of_being_killed(agent: AgentUnderTest, declare: Any) -> None:
    eater = ["sh", "-c", "trap : TERM; x=$(tr '\\0' x </dev/zero | head -c 64000000); sleep 600"]
    spec = {"image": "busybox", "command": eater, "memory": "16m", "memory_swap": "16m", "stop_timeout": 0}
    declare("patient", {**spec, "oom_kill_disable": True})
    pid = pid_of(agent, "patient")
    assert "oom_kill_disable 1" in held("memory", pid, "memory.oom_control")
    eventually(lambda: "under_oom 1" in held("memory", pid, "memory.oom_control"), 30, "it waits for memory")
    state = "{{.State.Running}} {{.State.OOMKilled}}"
    assert agent.docker("inspect", "-f", state, "patient").stdout == "true false\n"

    agent.docker("stop", "-t", "0", "patient")
    assert agent.docker("inspect", "-f", "{{.State.Running}}", "patient").stdout == "false\n"


def test_a_limit_that_is_lifted_frees_those_that_wait(agent: AgentUnderTest, declare: Any) -> None:
    eater = ["sh", "-c", "x=$(tr '\\0' x </dev/zero | head -c 24000000); echo done; sleep 600"]
    spec = {"image": "busybox", "command": eater, "memory": "12m", "stop_timeout": 0}
    declare("waiting", {**spec, "memory_swap": "12m", "oom_kill_disable": True})
    pid = pid_of(agent, "waiting")
    eventually(lambda: "under_oom 1" in held("memory", pid, "memory.oom_control"), 30, "it waits for memory")

    declare("waiting", {**spec, "memory": "256m", "memory_swap": "256m", "oom_kill_disable": True})

    eventually(lambda: agent.docker("logs", "waiting").stdout == "done\n", 30, "it goes on")


@pytest.fixture
def real_time(agent: AgentUnderTest) -> Iterator[None]:
    """Some real time for the containers of the agent, as its owner gives it."""
    parent = Path(f"/sys/fs/cgroup/cpu/{agent.config.cgroup_parent}/cpu.rt_runtime_us")
    parent.write_text("100000")
    yield
    parent.write_text("0")


def test_real_time_tasks_run_where_the_group_above_has_time(
    agent: AgentUnderTest, real_time: None, declare: Any
) -> None:
    declare("real-time", {**SLEEP, "cpu_rt_period": 500_000, "cpu_rt_runtime": 20_000})
    declare("plain", SLEEP)
    pid = pid_of(agent, "real-time")
    assert held("cpu", pid, "cpu.rt_runtime_us") == "20000"
    assert held("cpu", pid, "cpu.rt_period_us") == "500000"
    os.sched_setscheduler(pid, os.SCHED_FIFO, os.sched_param(1))
    with pytest.raises(PermissionError):  # as the kernel says for a group without such time
        os.sched_setscheduler(pid_of(agent, "plain"), os.SCHED_FIFO, os.sched_param(1))
    os.sched_setscheduler(pid, os.SCHED_OTHER, os.sched_param(0))

    declare("real-time", SLEEP)
    assert held("cpu", pid, "cpu.rt_runtime_us") == "0"


def test_real_time_that_the_group_above_has_not_is_refused_in_words(agent: AgentUnderTest) -> None:
    agent.docker("create", "--name", "greedy", "--cpu-rt-runtime", "5000", "busybox", "true")
    done = agent.docker("start", "greedy", check=False)
    agent.docker("rm", "-f", "greedy")
    assert done.returncode != 0
    assert "cpu.rt_runtime_us" in done.stderr


def test_an_agent_starts_though_a_disk_of_a_declared_group_is_gone(
    agent: AgentUnderTest, disk: str, tmp_path: Path
) -> None:
    node, number = tmp_path / "disk", os.stat(disk).st_rdev
    os.mknod(node, 0o600 | stat.S_IFBLK, number)
    spec = {"memory": "64m", "device_read_bps": {str(node): "1m"}}
    group = f"{agent.config.cgroup_parent}/tenants"
    rates = Path(f"/sys/fs/cgroup/blkio/{group}/blkio.throttle.read_bps_device")
    try:
        agent.api("PUT", "/mooring/v1/cgroups/tenants", spec)
        agent.terminate()
        node.unlink()
        for mount in ("memory", "blkio"):  # as after a reboot
            Path(f"/sys/fs/cgroup/{mount}/{group}").rmdir()

        agent.start()

        assert Path(f"/sys/fs/cgroup/memory/{group}/memory.limit_in_bytes").read_text() == f"{64 << 20}\n"
        assert rates.read_text() == ""
        with pytest.raises(ApiError, match=r"device_read_bps names .*/disk, which cannot be used"):
            agent.api("PUT", "/mooring/v1/cgroups/tenants", spec)

        os.mknod(node, 0o600 | stat.S_IFBLK, number)
        put = agent.api("PUT", "/mooring/v1/cgroups/tenants", spec)
        assert [action["reason"] for action in put["actions"]] == ["its limits were not all in force"]
        assert rates.read_text() == f"{os.major(number)}:{os.minor(number)} {1 << 20}\n"
        assert agent.api("PUT", "/mooring/v1/cgroups/tenants", spec)["actions"] == []
    finally:
        agent.api("DELETE", "/mooring/v1/cgroups/tenants")
