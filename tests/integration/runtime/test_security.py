# SPDX-License-Identifier: Apache-2.0
"""Ways out of a container that others have found, each tried on ours. No test here changes the host."""

from __future__ import annotations

import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.rootfs import write_busybox_rootfs
from harness.waiting import eventually

pytestmark = pytest.mark.root

SLEEPER: dict[str, Any] = {"image": "busybox", "command": ["sleep", "3600"], "stop_timeout": 0}
Declare = Callable[..., Any]


@pytest.fixture
def declare(agent: AgentUnderTest) -> Iterator[Declare]:
    names = set()

    def put(name: str, **options: Any) -> Any:
        names.add(name)
        return agent.api("PUT", f"/mooring/v1/containers/{name}", {**SLEEPER, **options})

    yield put
    for name in names:
        agent.api("DELETE", f"/mooring/v1/containers/{name}")


@pytest.fixture
def image(agent: AgentUnderTest, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Make images from the busybox root file system with some members replaced by links."""
    made = []

    def make(name: str, **links: str) -> str:
        plain = write_busybox_rootfs(tmp_path / "plain.tar")
        changed = tmp_path / f"{name}.tar"
        with tarfile.open(plain) as source, tarfile.open(changed, "w") as target:
            for member in source:
                if member.name.split("/")[0] in links or member.name in links:
                    continue
                content = source.extractfile(member) if member.isreg() else None
                target.addfile(member, io.BytesIO(content.read()) if content else None)
            for path, points_to in links.items():
                link = tarfile.TarInfo(path.replace("__", "/"))
                link.type, link.linkname = tarfile.SYMTYPE, points_to
                target.addfile(link)
        agent.api("PUT", f"/mooring/v1/images/{name}", {"import": {"path": str(changed)}}, timeout=60.0)
        made.append(name)
        return name

    yield make
    for name in made:
        agent.api("DELETE", f"/mooring/v1/images/{name}")


def view(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    found: dict[str, Any] = agent.api("GET", f"/mooring/v1/containers/{name}")
    return found


def run(agent: AgentUnderTest, name: str, *argv: str, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = agent.api(
        "POST", f"/mooring/v1/containers/{name}/exec", {"argv": list(argv), **options}
    )
    return answer


def refused(agent: AgentUnderTest, name: str, **options: Any) -> str:
    response = agent.request("PUT", f"/mooring/v1/containers/{name}", {**SLEEPER, **options})
    assert response.status >= 400
    assert agent.request("GET", f"/mooring/v1/containers/{name}").status == 404
    message: str = response.json()["message"]
    assert "\n" not in message
    assert "Errno" not in message
    return message


# Descriptors (CVE-2024-21626 and its like)


@pytest.mark.parametrize(
    "options", [{}, {"interactive": True}, {"tty": True}, {"tty": True, "interactive": True}], ids=str
)
def test_nothing_but_the_standard_streams_is_open(
    agent: AgentUnderTest, declare: Declare, options: dict[str, bool]
) -> None:
    declare("descriptors", **options)
    pid = view(agent, "descriptors")["pid"]
    # A start is answered when the first of the descriptors that an execve(2) closes has been closed.
    eventually(
        lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"], what="standard streams alone"
    )
    listed = run(agent, "descriptors", "ls", "/proc/self/fd")["stdout"].split()
    assert sorted(listed) == ["0", "1", "2", "3"]  # the last is the directory that ls reads


@pytest.mark.parametrize("number", range(3, 16))
def test_no_descriptor_is_a_way_to_a_working_directory(
    agent: AgentUnderTest, declare: Declare, number: int
) -> None:
    message = refused(agent, "leaky", workdir=f"/proc/self/fd/{number}")
    assert f"/proc/self/fd/{number}" in message
    if number == 3:
        declare("base")
        for path in (f"/proc/self/fd/{each}" for each in range(3, 12)):
            answer = agent.request(
                "POST", "/mooring/v1/containers/base/exec", {"argv": ["pwd"], "workdir": path}
            )
            assert answer.status >= 400
            assert path in answer.json()["message"]


def test_a_link_of_the_image_is_no_way_to_one_either(
    agent: AgentUnderTest, image: Callable[..., str]
) -> None:
    name = image("mrgt-linked", evil="/proc/self/fd/7")
    message = refused(agent, "leaky", image=name, workdir="/evil")
    assert "/evil" in message


def test_the_working_directory_is_below_the_container_s_root(agent: AgentUnderTest, declare: Declare) -> None:
    declare("inside", workdir="/../../../tmp/../etc")
    assert run(agent, "inside", "pwd")["stdout"] == "/etc\n"
    pid = view(agent, "inside")["pid"]
    assert os.readlink(f"/proc/{pid}/root") == "/"  # of its own namespace
    assert not os.path.samestat(os.stat(f"/proc/{pid}/cwd"), os.stat("/etc"))


@pytest.mark.parametrize("options", [{}, {"user": "1000"}], ids=["root", "user"])
def test_the_null_device_of_the_host_is_not_given_away(
    agent: AgentUnderTest, declare: Declare, options: dict[str, str]
) -> None:
    """Whoever has it as its standard input could change its mode for the whole host."""
    declare("null", **options)
    pid = view(agent, "null")["pid"]
    host, ours = os.stat("/dev/null"), os.stat(f"/proc/{pid}/fd/0")
    assert stat.S_ISCHR(ours.st_mode)
    assert ours.st_rdev == host.st_rdev
    assert (ours.st_dev, ours.st_ino) != (host.st_dev, host.st_ino)
    inside = run(agent, "null", "stat", "-L", "-c", "%d %i", "/proc/self/fd/0")["stdout"].split()
    assert inside != [str(host.st_dev), str(host.st_ino)]


# The interpreter (CVE-2019-5736)


def test_what_the_launcher_runs_from_cannot_be_written(agent: AgentUnderTest, declare: Declare) -> None:
    """Its /proc/self/exe is that of the host's interpreter, and for a moment it is in the container."""
    declare("plain")
    keeper, guardian = agent.keeper_pids()

    def launchers() -> list[int]:
        return [pid for pid in children(keeper) if comm(pid).startswith("mooring")]

    # The pool is filled while nothing else is asked for, so there may be none yet.
    waiting = eventually(launchers, 20, "a launcher that waits")
    for pid in (keeper, guardian, *waiting):
        with suppress(FileNotFoundError):  # it has ended
            flags = os.statvfs(f"/proc/{pid}/exe").f_flag
            assert flags & os.ST_RDONLY, comm(pid)


def test_the_interpreter_is_no_program_of_a_container(agent: AgentUnderTest) -> None:
    message = refused(agent, "self", command=["/proc/self/exe", "-c", "print(1)"])
    assert "/proc/self/exe" in message


def comm(pid: int) -> str:
    """The name of a process, empty when it has gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# Links of the image (CVE-2026-41579, CVE-2018-15664, CVE-2021-30465)


@pytest.mark.parametrize("directory", ["dev", "proc", "sys"])
def test_a_link_in_place_of_a_standard_directory_is_named(
    agent: AgentUnderTest, image: Callable[..., str], directory: str
) -> None:
    name = image(f"mrgt-{directory}", **{directory: "/tmp"})
    message = refused(agent, "linked", image=name)
    assert f"/{directory} of the image is a symbolic link" in message


def test_a_volume_goes_through_the_links_that_images_have(
    agent: AgentUnderTest, declare: Declare, image: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("from the host\n")
    name = image("mrgt-run", var__run="/run", var__lock="../run/lock")
    volumes = [f"{tmp_path}:/var/run/data", f"{tmp_path}/file:/var/lock/file"]
    declare("linked", image=name, volumes=volumes)
    assert run(agent, "linked", "cat", "/run/data/file", "/run/lock/file")["stdout"] == "from the host\n" * 2
    agent.api("DELETE", "/mooring/v1/containers/linked")


def test_a_volume_through_a_link_that_points_out_stays_inside(
    agent: AgentUnderTest, declare: Declare, image: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    outside = f"{tmp_path}/target"
    name = image("mrgt-out", way=f"../../../../../..{outside}", other=outside)
    declare("out", image=name, volumes=[f"{tmp_path}/source:/way/a", f"{tmp_path}/source:/other/b"])
    assert os.listdir(outside) == []
    assert run(agent, "out", "ls", outside)["stdout"].split() == ["a", "b"]
    agent.api("DELETE", "/mooring/v1/containers/out")


def test_the_dangling_resolver_link_of_ubuntu_is_no_obstacle(
    agent: AgentUnderTest, declare: Declare, image: Callable[..., str]
) -> None:
    name = image("mrgt-resolv", **{"etc__resolv.conf": "../run/systemd/resolve/stub-resolv.conf"})
    declare("resolves", image=name)
    assert run(agent, "resolves", "cat", "/etc/resolv.conf")["exit_code"] == 0
    agent.api("DELETE", "/mooring/v1/containers/resolves")


@pytest.mark.parametrize("target", ["/proc/sys", "/proc/self/fd", "/sys/fs/cgroup"])
def test_what_is_mounted_over_kernel_files_stays_in_the_container(
    agent: AgentUnderTest, declare: Declare, tmp_path: Path, target: str
) -> None:
    (tmp_path / "over").touch()
    response = agent.request(
        "PUT", "/mooring/v1/containers/over", {**SLEEPER, "volumes": [f"{tmp_path}:{target}"]}
    )
    agent.api("DELETE", "/mooring/v1/containers/over")
    assert response.status in (200, 400, 500)
    assert "over" not in os.listdir(target)


# What a container may touch of the kernel


@pytest.mark.parametrize(
    "script",
    [
        "mount -t proc none /mnt",
        "mount -o remount,rw /proc/sys",
        "umount /proc/kcore",
        "umount /proc/sys",
        "echo 1 > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sysrq-trigger",
        "mknod /tmp/sda b 8 0 && head -c 1 /tmp/sda",
        "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg",
        "echo /x > /sys/fs/cgroup/memory/release_agent",
        "mkdir /sys/fs/cgroup/memory/x",
        "echo 1 > /sys/kernel/mm/transparent_hugepage/enabled",
        "unshare -m true",
        "chroot /proc/1/root/.. ls /work",
        "dmesg -c > /dev/null && dmesg -n 1",
    ],
)
def test_it_is_refused(agent: AgentUnderTest, declare: Declare, script: str) -> None:
    declare("curious")
    found = run(agent, "curious", "sh", "-c", script)
    assert found["exit_code"] != 0, found


def test_capabilities_are_not_inherited_by_another_user(agent: AgentUnderTest, declare: Declare) -> None:
    """CVE-2022-27650: an exec as a user keeps nothing, also not for a program that could inherit."""
    declare("caps")
    status = run(agent, "caps", "cat", "/proc/self/status", user="1000")["stdout"]
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert {fields[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}


@pytest.mark.parametrize("user", ["4294967295", "0:4294967295", "-1", "²"])
def test_a_user_that_is_none_does_not_become_root(agent: AgentUnderTest, declare: Declare, user: str) -> None:
    """CVE-2026-30892."""
    declare("users")
    answer = agent.request("POST", "/mooring/v1/containers/users/exec", {"argv": ["id", "-u"], "user": user})
    assert answer.status >= 400, answer.json()
    refused(agent, "nobody", user=user)


def test_two_containers_do_not_see_each_other(agent: AgentUnderTest, declare: Declare) -> None:
    declare("one", command=["sleep", "1111"])
    declare("two", command=["sleep", "2222"])
    seen = run(agent, "one", "ps")["stdout"]
    assert "1111" in seen
    assert "2222" not in seen
    assert run(agent, "one", "ls", "/dev/pts")["stdout"].split() == ["ptmx"]


def test_the_processes_of_an_exec_end_with_the_container(agent: AgentUnderTest, declare: Declare) -> None:
    declare("ends")
    run(agent, "ends", "sh", "-c", "sleep 4242 > /dev/null 2>&1 &")
    group = view(agent, "ends")["cgroup"]
    agent.api("POST", "/mooring/v1/containers/ends/stop?timeout=0")
    eventually(lambda: not any(Path("/sys/fs/cgroup").glob(f"*/{group}")), what="the group's end")


def test_the_agent_s_files_are_closed_to_others(agent: AgentUnderTest, declare: Declare) -> None:
    declare("files")
    for path in (agent.config.run_root / "keeper", agent.config.run_root / "stage"):
        assert path.stat().st_mode & 0o077 == 0, path
    data = agent.config.data_root
    assert (data / "state.db").stat().st_mode & 0o022 == 0
    for log in data.glob("containers/*/log"):
        assert log.stat().st_mode & 0o077 == 0
