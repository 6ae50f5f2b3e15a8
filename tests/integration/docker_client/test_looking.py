# SPDX-License-Identifier: Apache-2.0
"""What Docker's client shows of containers: work on disks, processes, annotations; and its lists."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from harness.agent import AgentUnderTest
from harness.loops import loop_mounted
from harness.waiting import eventually

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.usefixtures("tidy")]


@contextmanager
def counted_disk(agent: AgentUnderTest) -> Iterator[list[str]]:
    """Give the options that mount a disk at /data of which the kernel counts what is done."""
    if agent.api("GET", "/mooring/v1/host")["cgroup"]["mode"] == "v2":
        yield ["-v", f"{agent.base}:/data"]
        return
    # In version 1 kernels count for disks with limits only.
    with loop_mounted("ext4", 64 << 20, directory=str(agent.base)) as disk:
        device = f"/dev/loop{os.minor(disk.stat().st_dev)}"
        yield ["-v", f"{disk}:/data", "--device-write-bps", f"{device}:1gb"]


def test_stats_count_what_goes_to_disks(agent: AgentUnderTest) -> None:
    write = "dd if=/dev/zero of=/data/file bs=1M count=8 oflag=direct 2>/dev/null; echo done; exec sleep 60"
    with counted_disk(agent) as options:
        agent.docker("run", "-d", "--name", "writes", *options, "busybox", "sh", "-c", write)
        eventually(lambda: agent.docker("logs", "writes").stdout == "done\n")
        stats = agent.api("GET", "/v1.47/containers/writes/stats?stream=false&one-shot=true")["blkio_stats"]
        shown = agent.docker("stats", "--no-stream", "--format", "{{.BlockIO}}", "writes").stdout.strip()
        agent.docker("rm", "-f", "writes")
    for name, least in (("io_service_bytes_recursive", 8 << 20), ("io_serviced_recursive", 8)):
        assert sum(entry["value"] for entry in stats[name] if entry["op"].lower() == "write") >= least
    assert shown.partition(" / ")[2] not in ("", "0B")


def test_top_takes_the_arguments_of_ps(agent: AgentUnderTest) -> None:
    agent.docker(
        "run", "-d", "--name", "shown", "-e", "SECRET=x", "busybox", "sh", "-c", "sleep 61 & exec sleep 62"
    )

    def both() -> str:
        """The titles, once each has become its program: the shell's own line names both of them too."""
        titles, *rows = agent.docker("top", "shown", "aux").stdout.splitlines()
        assert sorted(row.split(None, 10)[10] for row in rows) == ["sleep 61", "sleep 62"]
        return titles

    assert eventually(both).split()[:4] == ["USER", "PID", "%CPU", "%MEM"]
    titles, *rows = agent.docker("top", "shown", "-o", "pid,comm").stdout.splitlines()
    assert titles.split() == ["PID", "COMMAND"]
    assert [row.split()[1] for row in rows] == ["sleep", "sleep"]
    # This cannot be together with a choice of processes.
    answer = agent.request("GET", "/v1.47/containers/shown/top?ps_args=axf")
    assert answer.status == 200
    for wrong in ("-o comm", "-o user=PID", "--no-such-option"):
        refused = agent.docker("top", "shown", *wrong.split(), check=False)
        assert refused.returncode != 0
        assert "pid" in refused.stderr.lower() or "ps: " in refused.stderr


def test_annotations_are_kept_and_shown(agent: AgentUnderTest) -> None:
    config = {"Image": "busybox", "HostConfig": {"Annotations": {"com.example.key": "value"}}}
    id = agent.api("POST", "/v1.43/containers/create?name=annotated", config)["Id"]
    assert agent.api("GET", f"/v1.43/containers/{id}/json")["HostConfig"]["Annotations"] == {
        "com.example.key": "value"
    }
    config["HostConfig"] = {"Annotations": {"org.mooring.user": "0"}}
    refused = agent.request("POST", "/v1.43/containers/create", config)
    assert refused.status == 400
    assert b"org.mooring.user" in refused.body


def test_the_user_is_the_one_that_was_asked_for(agent: AgentUnderTest) -> None:
    def shown(*options: str) -> str:
        id = agent.docker("create", *options, "busybox", "true").stdout.strip()
        return agent.docker("inspect", "-f", "{{json .Config.User}}", id).stdout.strip()

    assert shown() == '""'
    assert shown("-u", "0") == '"0"'
    assert shown("-u", "1000:1000") == '"1000:1000"'


def test_containers_are_found_by_their_ports(agent: AgentUnderTest) -> None:
    agent.docker("create", "--name", "exposes", "--expose", "8000", "--expose", "53/udp", "busybox", "true")
    agent.docker("create", "--name", "publishes", "-p", "127.0.0.1::9000", "busybox", "true")

    def found(*filters: str) -> list[str]:
        given = [part for each in filters for part in ("--filter", each)]
        return sorted(agent.docker("ps", "-a", "--format", "{{.Names}}", *given).stdout.split())

    assert found("expose=8000") == ["exposes"]
    assert found("expose=53/udp") == ["exposes"]
    assert found("expose=53") == []
    assert found("expose=7990-9010") == ["exposes", "publishes"]
    assert found("publish=9000/tcp") == ["publishes"]
    assert found("publish=8000") == []
    assert found("publish=9000", "expose=8000") == ["exposes", "publishes"]
    assert found("is-task=true") == []
    assert found("is-task=false") == ["exposes", "publishes"]
    assert found("isolation=default") == ["exposes", "publishes"]
    assert found("isolation=hyperv") == []
    for wrong in ("expose=x", "publish=0", "publish=9-1", "is-task=maybe", "isolation=odd", "expose=70000"):
        refused = agent.docker("ps", "-a", "--filter", wrong, check=False)
        assert refused.returncode != 0
        assert wrong.partition("=")[0] in refused.stderr


def test_old_networks_are_pruned_by_their_age(agent: AgentUnderTest) -> None:
    agent.docker("network", "create", "young")
    agent.docker("network", "prune", "-f", "--filter", "until=1h")
    assert "young" in agent.docker("network", "ls").stdout
    time.sleep(0.01)  # a network that is made in this moment is not from before it
    agent.docker("network", "prune", "-f", "--filter", f"until={time.time():.6f}")
    assert "young" not in agent.docker("network", "ls").stdout


def test_images_are_listed_by_their_age(agent: AgentUnderTest) -> None:
    assert agent.docker("images", "-q", "--filter", "until=2000-01-01T00:00:00Z").stdout == ""
    assert agent.docker("images", "-q", "--filter", "until=0s").stdout != ""


def test_a_list_with_sizes_leaves_out_what_goes_meanwhile(agent: AgentUnderTest) -> None:
    def come_and_go(number: int) -> None:
        made = agent.api("POST", f"/containers/create?name=goes{number}", {"Image": "busybox"})
        agent.api("DELETE", f"/containers/{made['Id']}")

    with ThreadPoolExecutor(4) as pool:
        coming = [pool.submit(come_and_go, number) for number in range(200)]
        answered = 0
        while not all(one.done() for one in coming):
            assert agent.request("GET", "/containers/json?all=1&size=1").status == 200
            answered += 1
    for one in coming:
        one.result()
    assert answered > 3


def test_a_command_is_refused_in_a_container_that_has_ended_meanwhile(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "ends", "busybox", "sleep", "600")
    command = {"Cmd": ["true"], "AttachStdout": True}
    created = agent.api("POST", "/containers/ends/exec", command)
    agent.docker("kill", "ends")
    started = agent.request("POST", f"/exec/{created['Id']}/start", {})
    assert (started.status, started.json()["message"]) == (
        409,
        "container ends is not running: start it first",
    )
    assert agent.api("GET", f"/exec/{created['Id']}/json")["Running"] is False
    agent.docker("rm", "ends")
