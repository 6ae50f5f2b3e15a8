# SPDX-License-Identifier: Apache-2.0
"""Volumes with options of the driver `local`, by Docker's clients and on a real kernel."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.unix_http import ApiError
from harness.waiting import eventually, has_died

docker = pytest.importorskip("docker")

pytestmark = pytest.mark.root

SLEEP = ["sleep", "600"]


def bind(path: object, more: str = "") -> dict[str, str]:
    return {"type": "none", "o": f"bind{more}", "device": str(path)}


TMPFS = {"type": "tmpfs", "device": "tmpfs", "o": "size=2m,uid=1000,mode=750"}


def make(client: Any, name: str, options: dict[str, str]) -> Any:
    return client.volumes.create(name, driver="local", driver_opts=options)


def run(client: Any, volumes: list[str], script: str, **options: Any) -> str:
    return client.containers.run(
        "busybox", ["sh", "-c", script], volumes=volumes, remove=True, **options
    ).decode()


def start(client: Any, volumes: list[str], **options: Any) -> Any:
    return client.containers.run("busybox", SLEEP, volumes=volumes, detach=True, **options)


def said(container: Any, *command: str) -> str:
    code, output = container.exec_run(list(command))
    assert code == 0, output
    return output.decode()


def on_host(agent: AgentUnderTest, what: object) -> list[str]:
    """Return the host's mounts of what a volume was made of, and those where the agent keeps things."""
    own = (str(what), str(agent.config.data_root), str(agent.config.run_root))
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    # Whole names: another test may have mounted /dev/loop10 where this one has /dev/loop1.
    return [line for line in lines if any(re.search(rf"{re.escape(one)}\b", line) for one in own)]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A directory of the host with something in it."""
    place = tmp_path / "of-host"
    place.mkdir()
    (place / "file").write_text("of the host\n")
    return place


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[str]:
    """A block device with a file system on it."""
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(16 << 20)
    subprocess.run(["mkfs.ext4", "-q", str(image)], check=True, timeout=60)
    device = subprocess.run(
        ["losetup", "--find", "--show", str(image)], check=True, timeout=60, capture_output=True, text=True
    ).stdout.strip()
    yield device
    # It is busy as long as it is mounted anywhere.
    eventually(lambda: _is_let_go(device))
    subprocess.run(["losetup", "-d", device], check=True, timeout=60)


def _is_let_go(device: str) -> bool:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_EXCL))
    except OSError:
        return False
    return True


def test_a_directory_of_the_host_is_a_volume(agent: AgentUnderTest, client: Any, directory: Path) -> None:
    volume = make(client, "host", bind(directory))
    assert volume.attrs["Options"] == bind(directory)
    assert run(client, ["host:/v"], "cat /v/file; echo written >/v/new") == "of the host\n"
    assert (directory / "new").read_text() == "written\n"
    container = start(client, ["host:/v:ro"])
    assert "Read-only" in container.exec_run(["touch", "/v/more"]).output.decode()
    assert on_host(agent, directory) == []


def test_a_directory_may_be_read_only_for_all(client: Any, directory: Path) -> None:
    make(client, "host", bind(directory, ",ro"))
    container = start(client, ["host:/v"])
    assert "Read-only" in container.exec_run(["touch", "/v/more"]).output.decode()


def test_a_directory_that_is_missing_is_said_with_the_volume_and_the_errno(client: Any) -> None:
    make(client, "gone", bind("/nowhere/at/all"))
    with pytest.raises(docker.errors.APIError, match=r"volume gone .*/nowhere/at/all.*ENOENT"):
        run(client, ["gone:/v"], "true")


def test_an_empty_directory_gets_what_the_image_has(client: Any, tmp_path: Path) -> None:
    make(client, "host", bind(tmp_path))
    assert "sh" in run(client, ["host:/bin"], "ls /bin").split()
    assert "sh" in os.listdir(tmp_path)
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_nocopy_leaves_it_empty(client: Any, tmp_path: Path) -> None:
    make(client, "host", bind(tmp_path))
    container = client.containers.create("busybox", SLEEP, volumes=["host:/etc:nocopy"])
    assert os.listdir(tmp_path) == []
    container.remove()


def test_containers_share_one_tmpfs_that_goes_with_the_last(client: Any) -> None:
    make(client, "memory", TMPFS)
    one, two = (start(client, [f"memory:{target}"]) for target in ("/v", "/w"))
    said(one, "sh", "-c", "echo shared >/v/file")
    assert said(two, "cat", "/w/file") == "shared\n"
    assert said(two, "stat", "-c", "%u %a", "/w") == "1000 750\n"
    assert said(two, "df", "-k", "/w").split()[8] == "2048"
    one.remove(force=True)
    three = start(client, ["memory:/v:ro"])
    assert said(three, "cat", "/v/file") == "shared\n"
    two.remove(force=True)
    three.remove(force=True)
    assert run(client, ["memory:/v"], "ls /v") == ""


def test_containers_that_start_at_once_share_one_tmpfs(client: Any) -> None:
    make(client, "memory", TMPFS)
    made = [client.containers.create("busybox", SLEEP, volumes=["memory:/v"]) for _ in range(6)]
    with ThreadPoolExecutor(len(made)) as pool:
        for _ in range(3):
            list(pool.map(lambda one: one.start(), made))
            for number, container in enumerate(made):
                said(container, "touch", f"/v/{number}")
            assert {said(container, "ls", "/v") for container in made} == {"0\n1\n2\n3\n4\n5\n"}
            list(pool.map(lambda one: one.stop(timeout=0), made))


def test_what_is_in_memory_outlives_the_agent_and_is_shared_after_that(
    agent: AgentUnderTest, client: Any
) -> None:
    make(client, "memory", TMPFS)
    one = start(client, ["memory:/v:ro"])
    two = start(client, ["memory:/v"])
    said(two, "sh", "-c", "echo kept >/v/file")
    two.remove(force=True)
    agent.kill9()
    agent.start()
    three = start(client, ["memory:/w"])
    assert said(three, "cat", "/w/file") == "kept\n"
    said(three, "touch", "/w/writable")
    assert said(one, "ls", "/v") == "file\nwritable\n"
    assert on_host(agent, "size=2048k,mode=750") == []


def test_who_has_ended_unheard_has_no_memory_that_others_would_have_to_share(
    agent: AgentUnderTest, client: Any
) -> None:
    make(client, "memory", TMPFS)
    one = start(client, ["memory:/v"])
    other = client.containers.create("busybox", SLEEP, volumes=["memory:/v"])
    agent.kill9()
    agent.start()
    one.reload()
    keeper, _ = agent.keeper_pids()
    os.kill(keeper, signal.SIGSTOP)
    try:
        pid = one.attrs["State"]["Pid"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: has_died(pid))
        assert other.get_archive("/v")[1]["name"] == "v"
    finally:
        os.kill(keeper, signal.SIGCONT)


def test_a_keeper_and_an_agent_that_are_killed_leave_no_mount(
    disk: str, agent: AgentUnderTest, client: Any
) -> None:
    make(client, "disk", {"type": "ext4", "device": disk})
    container = start(client, ["disk:/v"])
    said(container, "touch", "/v/file")
    pids = agent.keeper_pids()
    agent.kill9()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    agent.start()
    assert on_host(agent, disk) == []
    container.reload()
    container.remove(force=True)
    eventually(lambda: _is_let_go(disk))


def test_a_device_is_mounted_while_a_container_runs(disk: str, client: Any) -> None:
    make(client, "disk", {"type": "ext4", "device": disk, "o": "noexec,data=ordered"})
    assert _is_let_go(disk)
    one = start(client, ["disk:/v"])
    assert not _is_let_go(disk)
    said(one, "sh", "-c", "echo content >/v/file; ls /v >/v/listed")
    assert "noexec" in said(one, "grep", " /v ", "/proc/self/mountinfo")
    one.stop(timeout=0)
    eventually(lambda: _is_let_go(disk))
    one.start()
    assert said(one, "cat", "/v/file", "/v/listed") == "content\nfile\nlisted\nlost+found\n"


def test_a_device_that_has_another_file_system_is_said(disk: str, client: Any) -> None:
    make(client, "disk", {"type": "xfs", "device": disk})
    with pytest.raises(docker.errors.APIError, match=rf"volume disk .*type xfs, device {disk}.*EINVAL"):
        run(client, ["disk:/v"], "true")


def test_a_file_system_that_the_kernel_has_not_is_said(client: Any) -> None:
    make(client, "odd", {"type": "noddy", "device": "nothing"})
    with pytest.raises(docker.errors.APIError, match=r"volume odd .*type noddy, device nothing.*ENODEV"):
        run(client, ["odd:/v"], "true")


def test_files_are_copied_to_and_from_a_container_at_rest(
    disk: str, agent: AgentUnderTest, client: Any, tmp_path: Path
) -> None:
    make(client, "disk", {"type": "ext4", "device": disk})
    container = client.containers.create("busybox", ["cat", "/v/given"], volumes=["disk:/v"], name="rests")
    (tmp_path / "given").write_text("by cp\n")
    agent.docker("cp", str(tmp_path / "given"), "rests:/v/given")
    agent.docker("cp", "rests:/v/given", str(tmp_path / "taken"))
    assert (tmp_path / "taken").read_text() == "by cp\n"
    eventually(lambda: _is_let_go(disk))
    container.start()
    container.wait()
    assert container.logs() == b"by cp\n"


def test_a_part_is_mounted_and_the_whole_for_users_of_its_own(
    agent: AgentUnderTest, client: Any, directory: Path, tidy: None
) -> None:
    (directory / "below").mkdir()
    (directory / "below/file").write_text("below\n")
    make(client, "host", bind(directory))
    part = docker.types.Mount("/at", "host", type="volume", subpath="below", no_copy=True)
    assert run(client, [], "cat /at/file", mounts=[part]) == "below\n"
    mapped = {"image": "busybox", "command": SLEEP, "userns": "auto", "volumes": ["host:/v"]}
    agent.api("PUT", "/mooring/v1/containers/mapped", mapped)
    assert agent.docker("exec", "mapped", "stat", "-c", "%u", "/v/file").stdout == "0\n"


def test_a_file_system_that_cannot_be_shown_with_other_owners_is_said(
    agent: AgentUnderTest, client: Any
) -> None:
    make(client, "raw", {"type": "ramfs", "device": "ramfs"})
    mapped = {"image": "busybox", "command": SLEEP, "userns": "auto", "volumes": ["raw:/v"]}
    with pytest.raises(ApiError, match=r"/v.*cannot map ids on its file system: expected ext4"):
        agent.api("PUT", "/mooring/v1/containers/unmapped", mapped)


def test_a_mount_makes_the_volume_with_its_options(
    agent: AgentUnderTest, directory: Path, tidy: None
) -> None:
    said_options = f"volume-opt=type=none,volume-opt=o=bind,volume-opt=device={directory}"
    shown = agent.docker(
        *("run", "--rm", "--mount", f"type=volume,source=new,target=/v,volume-driver=local,{said_options}"),
        *("busybox", "cat", "/v/file"),
    )
    assert shown.stdout == "of the host\n"
    (view,) = json.loads(agent.docker("volume", "inspect", "new").stdout)
    assert view["Options"] == bind(directory)
    agent.docker("volume", "rm", "new")
    assert (directory / "file").exists()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"colour": "blue"}, 'invalid option: "colour"'),
        ({"type": "nfs"}, 'missing required option: "device"'),
        ({"o": "ro", "type": "tmpfs"}, 'missing required option: "device"'),
        ({"device": "/dev/sdb"}, 'missing required option: "type"'),
        ({"type": "none", "device": "/srv"}, "expected a file system, or the option bind"),
        ({"type": "none", "o": "bind", "device": "srv"}, "the absolute path of a directory"),
        ({"type": "none", "o": "bind,rshared", "device": "/srv"}, "rshared"),
        ({"type": "ext4", "o": "remount", "device": "/dev/sdb"}, "remount"),
        ({"size": "10g"}, "size"),
    ],
)
def test_options_that_make_no_mount_are_refused(client: Any, options: dict[str, str], why: str) -> None:
    with pytest.raises(docker.errors.APIError, match=why):
        make(client, "wrong", options)


def test_what_is_elsewhere_is_neither_measured_nor_pruned(client: Any, directory: Path) -> None:
    make(client, "host", bind(directory))
    client.volumes.create("plain")
    assert [volume["Name"] for volume in client.df()["Volumes"]] == ["plain"]
    assert client.volumes.prune({"all": True})["VolumesDeleted"] == ["plain"]
    client.volumes.get("host").remove()
    assert (directory / "file").exists()


def test_another_place_is_taken_while_no_container_has_it(
    agent: AgentUnderTest, client: Any, directory: Path, tmp_path: Path
) -> None:
    """As it is declared by the API of our own, which `mooring volume create` and playbooks use."""
    path = "/mooring/v1/volumes/declared"
    agent.api("PUT", path, {"driver_opts": bind(directory)})
    assert agent.api("GET", path)["driver_opts"] == bind(directory)
    assert agent.api("PUT", path, {"driver_opts": bind(directory)})["changed"] is False
    container = start(client, ["declared:/v"])
    with pytest.raises(ApiError, match=f"in use by container {container.name}.*driver_opts"):
        agent.api("PUT", path, {"driver_opts": bind(tmp_path)})
    container.remove(force=True)
    assert agent.api("PUT", path, {"driver_opts": bind(tmp_path)})["changed"] is True
    assert run(client, ["declared:/v"], "ls /v") == "of-host\n"


def test_a_volume_with_a_mount_on_its_directory_is_filled(agent: AgentUnderTest, client: Any) -> None:
    """Somebody has mounted a disk there by hand: nothing is left beside it."""
    client.volumes.create("covered")
    place = agent.config.data_root / "volumes/covered/_data"
    (place.parent / "_copy").mkdir()  # from a time before it was so
    subprocess.run(["mount", "-t", "tmpfs", "covering", str(place)], check=True, timeout=60)
    try:
        client.containers.create("busybox", SLEEP, volumes=["covered:/bin"])
        assert "sh" in os.listdir(place)
        assert os.listdir(place.parent) == ["_data"]
        assert not [name for name in os.listdir(place) if name.startswith(".")]
    finally:
        subprocess.run(["umount", str(place)], check=True, timeout=60)


def test_a_tmpfs_takes_a_part_of_the_memory(agent: AgentUnderTest, tidy: None) -> None:
    script = "df -k /t | tail -1; grep MemTotal /proc/meminfo; stat -c '%u %a' /t; df -i /t | tail -1"
    options = "size=25%,nr_inodes=1k,uid=5,mode=750"
    shown = agent.docker("run", "--rm", "--tmpfs", f"/t:{options}", "busybox", "sh", "-c", script).stdout
    size, memory, owner, inodes = shown.splitlines()
    assert abs(int(size.split()[1]) / int(memory.split()[1]) - 0.25) < 0.01
    assert owner == "5 750"
    assert inodes.split()[1] == "1024"
