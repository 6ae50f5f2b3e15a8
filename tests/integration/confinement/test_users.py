# SPDX-License-Identifier: Apache-2.0
"""Containers whose users are not the host's: ids mapped, layers shared, nothing changed on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.unix_http import ApiError

pytestmark = pytest.mark.root

SIZE = 65536


def put(agent: AgentUnderTest, name: str, **spec: Any) -> dict[str, Any]:
    body = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0, "userns": "auto", **spec}
    result: dict[str, Any] = agent.api("PUT", f"/mooring/v1/containers/{name}", body)["result"]
    return result


def inside(agent: AgentUnderTest, name: str, line: str, **options: Any) -> str:
    body = {"argv": ["sh", "-c", line], **options}
    done = agent.api("POST", f"/mooring/v1/containers/{name}/exec", body)
    assert done["exit_code"] == 0, done
    return str(done["stdout"])


def owner(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("Uid:"))
    return int(line.split()[1])


def test_root_inside_is_nobody_outside(agent: AgentUnderTest) -> None:
    view = put(agent, "mapped")
    first = view["first_id"]
    assert first >= 100_000
    assert inside(agent, "mapped", "id -u; id -g").split() == ["0", "0"]
    assert inside(agent, "mapped", "cat /proc/self/uid_map").split() == ["0", str(first), str(SIZE)]
    assert owner(view["pid"]) == first
    assert os.readlink(f"/proc/{view['pid']}/ns/user") != os.readlink("/proc/self/ns/user")
    refused = "mount -t tmpfs x /mnt 2>&1; hostname other 2>&1; mknod /null c 1 3 2>&1; true"
    assert inside(agent, "mapped", refused).count("ermi") == 3


def test_the_image_s_files_are_root_s_inside_and_untouched_outside(agent: AgentUnderTest) -> None:
    put(agent, "files")
    assert (
        inside(agent, "files", "stat -c '%u:%g' / /bin/busybox /etc/hosts /dev /dev/null /tmp").split()
        == ["0:0"] * 6
    )
    inside(agent, "files", "echo kept >/note; chown 1000:1000 /note; mkdir -m 700 /dir")
    (note,) = agent.config.data_root.glob("overlay/l/*/note")
    assert (note.stat().st_uid, note.stat().st_gid) == (1000, 1000)
    assert note.with_name("dir").stat().st_uid == 0
    agent.api("POST", "/mooring/v1/containers/files/restart?timeout=0")
    assert inside(agent, "files", "cat /note; stat -c %u /note /dir").split() == ["kept", "1000", "0"]


def test_each_container_keeps_a_range_of_its_own(agent: AgentUnderTest) -> None:
    one, other = put(agent, "one"), put(agent, "other")
    assert abs(one["first_id"] - other["first_id"]) >= SIZE
    agent.api("POST", "/mooring/v1/containers/one/restart?timeout=0")
    assert agent.api("GET", "/mooring/v1/containers/one")["first_id"] == one["first_id"]


def test_an_agent_that_comes_back_knows_the_ranges(start_agent: Any) -> None:
    agent = start_agent()
    one = put(agent, "one")
    agent.restart()
    assert put(agent, "other")["first_id"] != one["first_id"]
    assert inside(agent, "one", "id -u") == "0\n"


def test_a_volume_has_the_container_s_ids_and_a_directory_of_the_host_the_host_s(
    agent: AgentUnderTest, tmp_path: Path
) -> None:
    tmp_path.chmod(0o755)
    plain, mapped = tmp_path / "plain", tmp_path / "mapped"
    for directory in (plain, mapped):
        directory.mkdir(mode=0o755)
        (directory / "file").write_text("host's")
    put(
        agent,
        "mounts",
        volumes=[
            "kept:/v",
            f"{plain}:/plain",
            {"type": "bind", "source": str(mapped), "target": "/mapped", "idmap": True},
        ],
    )
    inside(agent, "mounts", "echo x >/v/file; chown 7:8 /v/file; echo y >/mapped/new")
    assert inside(agent, "mounts", "stat -c %u /plain/file /mapped/file").split() == ["65534", "0"]
    assert inside(agent, "mounts", "touch /plain/new 2>/dev/null || echo refused") == "refused\n"
    assert (mapped / "new").stat().st_uid == 0
    volume = Path(agent.api("GET", "/mooring/v1/volumes/kept")["path"])
    assert ((volume / "file").stat().st_uid, (volume / "file").stat().st_gid) == (7, 8)


def test_a_new_volume_has_the_image_s_files_and_they_are_the_container_s(agent: AgentUnderTest) -> None:
    put(agent, "filled", volumes=["programs:/bin"])
    found = inside(
        agent, "filled", "stat -c '%u:%g' /bin /bin/sh; touch /bin/new && grep -c ' /bin ' /proc/mounts"
    )
    assert found.split() == ["0:0", "0:0", "1"]
    agent.api("DELETE", "/mooring/v1/containers/filled")
    agent.api("DELETE", "/mooring/v1/volumes/programs")


def test_a_container_with_the_users_of_another_one(agent: AgentUnderTest) -> None:
    first = put(agent, "main", ipc="shareable")
    both = "container:main"
    beside = put(agent, "side", userns=both, networks=[both], pid=both, ipc=both, volumes=["shared:/v"])
    for kind in ("user", "net", "pid", "ipc"):
        assert os.readlink(f"/proc/{first['pid']}/ns/{kind}") == os.readlink(
            f"/proc/{beside['pid']}/ns/{kind}"
        )
    assert owner(beside["pid"]) == first["first_id"]
    assert "sleep 600" in inside(
        agent, "side", "cat /proc/1/cmdline | tr '\\0' ' '; touch /v/x; ls -l /proc/1/root/"
    )
    put(agent, "hosts", userns="host")
    with pytest.raises(ApiError, match="the host's: leave userns out"):
        put(agent, "wrong", userns="container:hosts")


def test_other_users_terminals_and_outputs(agent: AgentUnderTest) -> None:
    put(
        agent, "out", user="1000", command=["sh", "-c", "echo one >/dev/stdout; echo two >/dev/stderr; id -u"]
    )
    agent.api("POST", "/v1.47/containers/out/wait")
    logged = agent.request("GET", "/v1.47/containers/out/logs?stdout=1&stderr=1").body
    assert all(word in logged for word in (b"one\n", b"two\n", b"1000\n"))
    put(agent, "shell")
    assert inside(
        agent, "shell", "echo x >/dev/stdout; id -u; grep CapEff /proc/self/status", user="1000"
    ) == ("x\n1000\nCapEff:\t0000000000000000\n")


def test_maps_by_hand(agent: AgentUnderTest) -> None:
    view = put(
        agent,
        "byhand",
        userns={
            "uid_map": [
                {"container": 0, "host": 300_000, "size": 1000},
                {"container": 1000, "host": 1000, "size": 1},
            ]
        },
    )
    assert owner(view["pid"]) == 300_000
    assert view["first_id"] is None
    assert inside(agent, "byhand", "cat /proc/self/gid_map").split() == [
        *("0", "300000", "1000"),
        *("1000", "1000", "1"),
    ]
    short = put(agent, "short", userns="400000:65536")
    assert owner(short["pid"]) == 400_000


@pytest.mark.docker
def test_docker_s_word_for_the_host_s_users(agent: AgentUnderTest) -> None:
    done = agent.docker("run", "--rm", "--userns", "host", "busybox", "cat", "/proc/self/uid_map")
    assert done.stdout.split()[1] == "0"


def test_what_else_a_container_may_have(agent: AgentUnderTest) -> None:
    put(
        agent,
        "rich",
        init=True,
        devices=["/dev/fuse"] if Path("/dev/fuse").exists() else [],
        volumes=[{"type": "tmpfs", "target": "/t", "options": ["uid=7", "mode=700"]}],
        sysctls={"net.ipv4.ip_forward": "1", "kernel.shmmax": "65536"},
        read_only=True,
        group_add=["777"],
        shm_size="1m",
    )
    said = inside(agent, "rich", "stat -c %u /t; cat /proc/sys/net/ipv4/ip_forward; id -G; cat /proc/1/comm")
    assert said.split()[:2] == ["7", "1"]
    assert "777" in said
    assert "docker-init" in said
