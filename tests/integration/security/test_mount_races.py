# SPDX-License-Identifier: Apache-2.0
"""Links in the way of mounts: in an image, and put there while the mount is being made."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE
from mooring_agent.runtime.standard import MASKED_PATHS

from .attackers import (
    PYTHON_VOLUMES,
    SLEEPER,
    Attacker,
    Declare,
    Workshop,
    directory,
    link,
    run,
    view,
)

pytestmark = pytest.mark.root

STARTS = 25
SWAPS = 100
# What a launcher of the pool has prepared, and what is mounted one by one onto the container's root.
WAYS = pytest.mark.parametrize("options", [{}, {"masked_paths": ["/proc/keys"]}], ids=["pool", "apart"])
# Exchanges a directory of a shared volume with a link out of it, some hundred thousand times a second.
SWAP = """
import ctypes, json, os
libc = ctypes.CDLL(None, use_errno=True)
os.chdir('/shared')
count = 0
while count % 1000 or not os.path.exists('/stop'):
    if libc.renameat2(-100, b'real', -100, b'lure', 2):  # RENAME_EXCHANGE
        raise OSError(ctypes.get_errno(), 'renameat2')
    count += 1
print(json.dumps(count))
"""


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a directory of the host that no container is given."""
    path = tmp_path / "outside"
    path.mkdir()
    (path / "secret").write_text("of the host\n")
    return path


def often_enough(swaps: Path, attempts: int) -> Iterator[int]:
    """As many attempts, and more until the attacker has swapped often enough; `swaps` has a byte for each."""
    swaps.touch()  # the attacker may not have come to it yet
    deadline = time.monotonic() + 30.0 * PATIENCE
    for attempt in count(1):
        yield attempt
        if attempt >= attempts and swaps.stat().st_size > SWAPS:
            return
        assert time.monotonic() < deadline, f"{swaps.stat().st_size} swaps, expected more than {SWAPS}"


@pytest.fixture
def swapper(agent: AgentUnderTest, declare: Declare, tmp_path: Path) -> Attacker:
    """Return a container that shares a volume with the containers that are started meanwhile."""
    (tmp_path / "shared").mkdir()
    declare("swapper", volumes=[*PYTHON_VOLUMES, f"{tmp_path}/shared:/shared"])
    return Attacker(agent, "swapper")


@WAYS
def test_cve_2021_30465_a_mount_through_a_link_that_is_swapped_stays_inside(
    agent: AgentUnderTest, swapper: Attacker, outside: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """runc looked at a mount's target, a second container put a link in its place, and the host was mounted.

    A target is opened once, by openat2 within the root, and mounted on by its descriptor: there is nothing
    between looking and mounting. (The same with what is made there, CVE-2024-45310.)
    """
    (tmp_path / "source").mkdir()
    (tmp_path / "source/mark").write_text("mounted\n")
    (tmp_path / "shared/real").mkdir()
    (tmp_path / "shared/lure").symlink_to(outside)
    seen = 0
    with swapper.meanwhile(SWAP) as results:
        for _ in range(STARTS):
            response = agent.request(
                "PUT",
                "/mooring/v1/containers/racer",
                {
                    **SLEEPER,
                    **options,
                    "volumes": [
                        f"{tmp_path}/shared:/vol",
                        f"{tmp_path}/source:/vol/real/made",
                        f"{tmp_path}/source/mark:/vol/real/made-file",
                        {"type": "tmpfs", "target": "/vol/lure/made"},
                    ],
                },
            )
            if response.status < 400:
                seen += 1
            agent.api("DELETE", "/mooring/v1/containers/racer?force=true", check=False)
    assert results[0] > 1000
    assert seen > 0, "no container has started in the race: it has not been tried"
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert _mounts_below(tmp_path) == []
    assert _mounts_below(agent.base) == []


def test_cve_2024_45310_nothing_is_made_on_the_host_through_a_link(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare, outside: Path, tmp_path: Path
) -> None:
    """runc made missing targets with mkdir and open on paths: a link of the image made them on the host.

    Each missing part is made in a directory that is open, and links end at the container's root.
    """
    image = workshop.image(
        "links-out",
        link("way", str(outside)),
        link("climb", "../" * 20 + str(outside).lstrip("/")),
        link("dangling", str(outside / "made-by-link")),
        link("indirect", "/climb/made-too"),
        link("magic", "/proc/self/root/proc/1/root"),
    )
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").write_text("x")
    declare(
        "out",
        image=image,
        volumes=[
            f"{tmp_path}/source:/way/a",
            f"{tmp_path}/source:/climb/b",
            f"{tmp_path}/source:/dangling",
            f"{tmp_path}/source/file:/indirect",
            {"type": "tmpfs", "target": "/way/tmpfs"},
        ],
        workdir="/way/working",
    )
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    inside = run(agent, "out", "ls", str(outside))["stdout"].split()
    assert {"a", "b", "made-by-link", "made-too", "tmpfs", "working"} <= set(inside)
    assert "secret" not in inside


@WAYS
@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
@pytest.mark.parametrize("to", ["/tmp", "../../..", "/proc/self/root"])
def test_cve_2026_41579_a_link_in_place_of_a_standard_directory_is_refused(
    agent: AgentUnderTest, workshop: Workshop, name: str, to: str, options: dict[str, Any]
) -> None:
    """With /dev, /proc or /sys of an image a link, its devices and kernel files were built somewhere else.

    No link is followed to these three (also CVE-2026-47766, CVE-2019-19921): the start says which it is.
    """
    image = workshop.image(f"linked-{name}", link(name, to))
    response = agent.request("PUT", "/mooring/v1/containers/linked", {**SLEEPER, **options, "image": image})
    assert response.status >= 400
    assert f"/{name}" in response.json()["message"]


def test_cve_2026_47766_an_etc_that_is_a_link_stays_inside(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare, outside: Path
) -> None:
    """The files that every container gets below /etc went through a link of the image to the host's.

    They are mounted, not written, and on targets inside the root: the host's directory has nothing new.
    """
    for number, members in enumerate(
        (
            [link("etc", str(outside))],
            [directory("etc"), link("etc/hosts", str(outside / "secret"))],
            [
                directory("etc"),
                link("etc/resolv.conf", str(outside / "new")),
                link("etc/hostname", "/proc/1"),
            ],
        )
    ):
        image = workshop.image(f"etc-{number}", *members)
        agent.request("PUT", f"/mooring/v1/containers/etc-{number}", {**SLEEPER, "image": image})
        agent.api("DELETE", f"/mooring/v1/containers/etc-{number}?force=true", check=False)
    assert sorted(path.name for path in outside.iterdir()) == ["secret"]
    assert (outside / "secret").read_text() == "of the host\n"


@pytest.mark.parametrize("to", ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/etc/passwd"])
def test_cve_2025_31133_masks_are_the_real_null_device(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare, to: str
) -> None:
    """runc masked files with the container's /dev/null: with a link there, what it led to became writable.

    Masks are made of the host's null device, looked at by device number, before anything of the image is
    there; /dev is built by us, and no console is bound over a path of the image (CVE-2025-52565).
    """
    lures = ("null", "console", "pts", "ptmx", "shm", "mqueue", "fd", "tty")
    image = workshop.image("lured-dev", directory("dev"), *(link(f"dev/{name}", to) for name in lures))
    declare("masked", image=image, tty=True)
    pid = view(agent, "masked")["pid"]
    masked = [path for path in MASKED_PATHS if os.path.isfile(path)]
    assert masked
    for path in (*masked, "/dev/null"):
        assert os.stat(f"/proc/{pid}/root{path}").st_rdev == os.makedev(1, 3), path
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname"):
        assert "Read-only" in run(agent, "masked", "sh", "-c", f"echo x > {path}")["stderr"]


def test_cve_2025_52565_the_terminal_is_of_the_container_s_own_devpts(
    agent: AgentUnderTest, declare: Declare
) -> None:
    """/dev/console was bound before the masks were made, and a link in the way made kernel files writable.

    The terminal is a new one of the container's own devpts, opened by descriptor: TIOCGPTPEER, not a path.
    """
    declare("terminal", tty=True)
    pid = view(agent, "terminal")["pid"]
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/pts/0"
    inside, host = os.stat(f"/proc/{pid}/root/dev/pts"), os.stat("/dev/pts")
    assert inside.st_dev != host.st_dev
    assert os.stat(f"/proc/{pid}/fd/0").st_dev == inside.st_dev


@WAYS
@pytest.mark.parametrize(
    "target", ["/proc", "/proc/self/attr", "/proc/1", "/proc/sys", "/proc/self/fd", "/sys"]
)
def test_cve_2025_52881_nothing_of_ours_is_written_to_a_false_proc(
    agent: AgentUnderTest, tmp_path: Path, target: str, options: dict[str, Any]
) -> None:
    """With a volume over /proc, runc's writes of labels and sysctls went to files of the attacker's choice.

    All such writes are done before the root is entered, to the host's /proc (also CVE-2019-19921 and LXC's
    CVE-2015-1334): the attacker's files are as they were, and the process has what it should have.
    """
    traps = {}
    for name in (
        *("sys/net/ipv4/ip_unprivileged_port_start", "sys/kernel/cap_last_cap", "self/attr/exec"),
        *("self/oom_score_adj", "self/setgroups", "self/uid_map", "attr/exec", "exec", "oom_score_adj"),
        *("thread-self/attr/exec", "sysrq-trigger", "net/ipv4/ip_unprivileged_port_start"),
    ):
        trap = tmp_path / name
        trap.parent.mkdir(parents=True, exist_ok=True)
        trap.write_text("untouched")
        traps[trap] = trap.stat().st_mtime_ns
    host = Path("/proc/sys/kernel/hostname").read_text()
    spec = {**SLEEPER, **options, "volumes": [f"{tmp_path}:{target}"], "hostname": "trapped"}
    spec["sysctls"] = {"net.ipv4.ip_unprivileged_port_start": "7"}
    response = agent.request("PUT", "/mooring/v1/containers/false", spec)
    if response.status < 400:
        agent.request("POST", "/mooring/v1/containers/false/exec", {"argv": ["true"], "user": "daemon"})
        status = Path(f"/proc/{view(agent, 'false')['pid']}/status").read_text()
        assert "Seccomp:\t2" in status
        assert "CapEff:\t00000000a80425fb" in status
    agent.api("DELETE", "/mooring/v1/containers/false?force=true", check=False)
    for trap, moment in traps.items():
        assert trap.read_text() == "untouched", trap
        assert trap.stat().st_mtime_ns == moment, trap
    assert Path("/proc/sys/kernel/hostname").read_text() == host


def test_lxc_cve_2015_1335_volumes_follow_links_only_inside(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare, tmp_path: Path
) -> None:
    """lxc-start followed links of a container's root file system in the targets of mount entries.

    They are followed as the container itself would see them, so that /var/run still leads to /run.
    """
    (tmp_path / "file").write_text("from the host\n")
    image = workshop.image(
        "var-run", directory("run"), link("var/run", "/run"), link("var/lock", "../run/lock")
    )
    volumes = [f"{tmp_path}:/var/run/data", f"{tmp_path}/file:/var/lock/file"]
    declare("linked", image=image, volumes=volumes)
    assert run(agent, "linked", "cat", "/run/data/file", "/run/lock/file")["stdout"] == "from the host\n" * 2


def test_cve_2018_15664_a_volume_of_a_container_shows_no_file_of_the_host(
    agent: AgentUnderTest, swapper: Attacker, outside: Path, tmp_path: Path
) -> None:
    """docker cp resolved a path in a running container's root and used it on the host a moment later.

    What is read here of a running container (its /etc/passwd, its working directory) is opened once, within
    its root: an exec as a user whose passwd is swapped for a link finds the container's or nothing.
    """
    (outside / "passwd").write_text("host:x:4242:4242::/:/bin/sh\n")
    source = (
        "import json, os, sys\n"
        "swaps = open('/shared/swaps', 'wb', 0)\n"
        "while not os.path.exists('/stop'):\n"
        "    for target in (sys.argv[1], '/etc/real', '/proc/1/root' + sys.argv[1]):\n"
        "        os.symlink(target, '/etc/new'); os.rename('/etc/new', '/etc/passwd'); swaps.write(b'.')\n"
        "print(json.dumps(swaps.tell()))\n"
    )
    swapper.sh("cp /etc/passwd /etc/real; rm -f /etc/new")
    with swapper.meanwhile(source, str(outside / "passwd")) as results:
        for _ in often_enough(tmp_path / "shared/swaps", STARTS):
            answer = agent.request(
                "POST", "/mooring/v1/containers/swapper/exec", {"argv": ["id", "-u"], "user": "host"}
            )
            assert answer.status >= 400, answer.json()
            assert "unable to find user host" in answer.json()["message"]
    assert results[0] > SWAPS


def test_cve_2018_15664_a_copy_stays_within_the_container(
    agent: AgentUnderTest, swapper: Attacker, outside: Path, tmp_path: Path
) -> None:
    """docker cp resolved a path in a running container's root and used it on the host a moment later.

    Here a directory on the way is swapped for a link to one of the host while files are copied out of it and
    into it (also CVE-2026-41568, CVE-2026-42306).
    """
    (outside / "file").write_text("of the host")
    source = (
        "import json, os, sys\n"
        "swaps = open('/shared/swaps', 'wb', 0)\n"
        "while not os.path.exists('/stop'):\n"
        "    for target in (sys.argv[1], '/real', '/proc/1/root' + sys.argv[1]):\n"
        "        os.symlink(target, '/new'); os.rename('/new', '/door'); swaps.write(b'.')\n"
        "print(json.dumps(swaps.tell()))\n"
    )
    swapper.sh("mkdir -p /real; echo inside > /real/file; rm -f /new")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as packed:
        packed.addfile(tarfile.TarInfo("planted"))
    statuses = set()
    with swapper.meanwhile(source, str(outside)) as results:
        for _ in often_enough(tmp_path / "shared/swaps", 10 * STARTS):
            read = agent.request("GET", "/containers/swapper/archive?path=/door/file")
            assert b"of the host" not in read.body
            written = agent.request("PUT", "/containers/swapper/archive?path=/door", archive.getvalue())
            statuses |= {read.status, written.status}
    assert results[0] > SWAPS
    assert statuses <= {200, 400, 404}
    assert 200 in statuses
    assert "planted" not in os.listdir(outside)


def _mounts_below(directory: Path) -> list[str]:
    """Return the host's mount points at or below a directory: all of ours are in namespaces of their own."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    return [point for point in points if Path(point).is_relative_to(directory)]
