# SPDX-License-Identifier: Apache-2.0
"""What of the host is still open when a container's process begins: descriptors, directories, devices."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually

from .attackers import Attacker, Declare, Workshop, link, refused, run, view

pytestmark = pytest.mark.root

# Every descriptor of every process that can be seen from inside: where it leads, and its device and inode.
DESCRIPTORS = """
import json, os
found = []
for pid in filter(str.isdigit, os.listdir('/proc')):
    for what in ('cwd', 'root', *(f'fd/{number}' for number in os.listdir(f'/proc/{pid}/fd'))):
        try:
            status = os.stat(f'/proc/{pid}/{what}')
            found.append((what, os.readlink(f'/proc/{pid}/{what}'), status.st_dev, status.st_ino))
        except OSError:
            pass
print(json.dumps(found))
"""


@pytest.mark.parametrize("options", [{}, {"interactive": True}, {"tty": True}, {"user": "1000"}], ids=str)
def test_cve_2024_21626_a_container_has_the_standard_streams_and_nothing_else(
    agent: AgentUnderTest, declare: Declare, options: dict[str, Any]
) -> None:
    """runc left a descriptor of the host's /sys/fs/cgroup open, and with it a way to all of its files.

    The launcher closes all but the standard streams before it becomes the process, in starts and in execs.
    """
    declare("descriptors", **options)
    pid = view(agent, "descriptors")["pid"]
    # A start is answered when the first of the descriptors that an execve(2) closes has been closed.
    eventually(
        lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"], what="standard streams alone"
    )
    listed = run(agent, "descriptors", "ls", "/proc/self/fd")["stdout"].split()
    assert sorted(listed) == ["0", "1", "2", "3"]  # the last is the directory that ls reads


def test_cve_2024_21626_no_open_file_is_one_of_the_host_s(attacker: Attacker) -> None:
    """The same, asked from inside: none of what is open leads to a file system of the host.

    The standard streams are pipes, or devices of the container's own /dev, never the host's.
    """
    host = {
        (status.st_dev, status.st_ino)
        for status in map(os.stat, ("/", "/dev", "/dev/null", "/proc", "/sys/fs/cgroup", "/tmp"))
    }
    found = attacker.python(DESCRIPTORS)
    assert len(found) >= 5
    for what, _points_to, device, inode in found:
        assert (device, inode) not in host, what


@pytest.mark.parametrize("through", ["{0}", "/dev/fd/{1}", "/lure{1}"])
def test_cve_2024_21626_no_descriptor_is_a_working_directory(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare, through: str
) -> None:
    """A working directory of /proc/self/fd/N began the container outside of its root.

    Nothing of the host is open at that moment, and getcwd(2) has to find the directory below the root.
    """
    image = workshop.image(
        "ways", *(link(f"lure{number}", f"/proc/self/fd/{number}") for number in range(16))
    )
    declare("base", image=image)
    for number in range(3, 16):
        path = through.format(f"/proc/self/fd/{number}", number)
        answer = agent.request(
            "POST", "/mooring/v1/containers/base/exec", {"argv": ["ls", "-l"], "workdir": path}
        )
        assert answer.status >= 400, (path, answer.json())
    for number in (3, 7, 8, 11):
        message = refused(
            agent, "leaky", image=image, workdir=through.format(f"/proc/self/fd/{number}", number)
        )
        assert "working directory" in message


def test_cve_2024_21626_dot_dot_ends_at_the_container_s_root(agent: AgentUnderTest, declare: Declare) -> None:
    """A working directory with many `..` is a try at the same.

    It is resolved with the container's root as its end.
    """
    declare("inside", workdir="/../../../../tmp/../etc")
    assert run(agent, "inside", "pwd")["stdout"] == "/etc\n"
    pid = view(agent, "inside")["pid"]
    assert not os.path.samestat(os.stat(f"/proc/{pid}/cwd"), os.stat("/etc"))
    assert not os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/"))


def test_the_old_root_is_gone_from_the_mount_table(attacker: Attacker) -> None:
    """What chroot(2) alone leaves reachable, pivot_root(2) and an unmount take away.

    Neither a second chroot nor the mount table leads to a directory of the host.
    """
    script = (
        "import json, os\n"
        "before = os.stat('/')\n"
        "os.makedirs('/jail', exist_ok=True); down = os.open('/', os.O_RDONLY); os.chroot('/jail')\n"
        "os.fchdir(down)\n"
        "for _ in range(64): os.chdir('..')\n"
        "os.chroot('.')\n"
        "print(json.dumps([os.path.samestat(before, os.stat('/')), os.listdir('/')]))"
    )
    same, names = attacker.python(script)
    assert same, names
    assert "jail" in names
    table = attacker.sh("cat /proc/self/mountinfo")["stdout"]
    assert " / / " in table
    run_root = str(attacker.agent.config.run_root)
    # The three files that the agent has written for the container, and nothing else of it.
    places = {line.split()[4] for line in table.splitlines() if run_root in line}
    assert places <= {"/etc/hosts", "/etc/hostname", "/etc/resolv.conf"}


def test_the_null_device_of_the_host_is_not_given_away(agent: AgentUnderTest, declare: Declare) -> None:
    """A root in the container could change the mode of the host's /dev/null through its standard input.

    The launcher puts the container's own null device in its place.
    """
    declare("null")
    host, ours = os.stat("/dev/null"), os.stat(f"/proc/{view(agent, 'null')['pid']}/fd/0")
    assert stat.S_ISCHR(ours.st_mode)
    assert ours.st_rdev == host.st_rdev
    assert (ours.st_dev, ours.st_ino) != (host.st_dev, host.st_ino)
    run(agent, "null", "sh", "-c", "chmod 700 /proc/self/fd/0 /dev/null; chown 7 /dev/null")
    assert os.stat("/dev/null").st_mode == host.st_mode


def test_no_socket_of_ours_is_abstract(agent: AgentUnderTest, attacker: Attacker) -> None:
    """containerd's shim listened on an abstract socket: a container with the host's network could use it.

    (CVE-2020-15257.) Our sockets are files, in directories that belong to root.
    """
    pids = [
        agent.process.pid if agent.process else 0,
        *agent.keeper_pids(),
        view(agent, attacker.name)["pid"],
    ]
    inodes = set()
    for pid in pids:
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(FileNotFoundError):  # closed meanwhile
                target = os.readlink(f"/proc/{pid}/fd/{number}")
                if target.startswith("socket:["):
                    inodes.add(target[8:-1])
    assert inodes
    with open("/proc/net/unix") as table:
        for fields in (line.split() for line in table.readlines()[1:]):
            if len(fields) > 7 and fields[6] in inodes:
                assert not fields[7].startswith("@"), fields
