# SPDX-License-Identifier: Apache-2.0
"""What a config says of the process, seen from inside: runtime-spec 1.2, config.md Process."""

from __future__ import annotations

import json
import os
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from .containing import Contain

pytestmark = pytest.mark.root

FOUR = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_BIND_SERVICE", "CAP_SETUID"]
MASK = 1 << 0 | 1 << 5 | 1 << 10 | 1 << 7


def status(text: str, *names: str) -> list[str]:
    """The fields of a proc(5) status."""
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    return [fields[name].strip() for name in names]


ALL = ("bounding", "effective", "permitted", "inheritable", "ambient")
SETS = ("CapBnd", "CapEff", "CapPrm", "CapInh", "CapAmb")


@pytest.mark.parametrize(
    ("uid", "given", "expected"),
    [
        # execve(2) gives root what is bounding, capabilities(7), and keeps for others what is ambient.
        (0, {"bounding": FOUR, "effective": FOUR, "permitted": FOUR}, (MASK, MASK, MASK, 0, 0)),
        (0, {"bounding": FOUR[:1], "permitted": FOUR[:1], "inheritable": FOUR[:1]}, (1, 1, 1, 1, 0)),
        (1000, {"bounding": FOUR, "effective": FOUR, "permitted": FOUR}, (MASK, 0, 0, 0, 0)),
        (
            1000,
            dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), FOUR),
            (MASK,) * 5,
        ),
        # What cannot be granted is no failure: ambient without inheritable, a name that is none.
        (1000, {"bounding": FOUR, "permitted": FOUR, "ambient": FOUR}, (MASK, 0, 0, 0, 0)),
        (0, {"bounding": ["CAP_MOON"]}, (0, 0, 0, 0, 0)),
    ],
)
def test_capabilities_are_exactly_those_given(
    contain: Contain, uid: int, given: dict[str, Any], expected: tuple[int, ...]
) -> None:
    process = {"user": {"uid": uid, "gid": uid}, "capabilities": given}
    ended = contain("cat /proc/self/status", process=process)
    assert [int(mask, 16) for mask in status(ended.output, *SETS)] == list(expected)


def test_who_it_is_and_what_it_may_use(contain: Contain) -> None:
    ended = contain(
        "cat /proc/self/status; ulimit -n; ulimit -Hn; cat /proc/self/oom_score_adj",
        process={
            "user": {"uid": 7, "gid": 8, "additionalGids": [9, 10], "umask": 0o27},
            "noNewPrivileges": True,
            "oomScoreAdj": 321,
            "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 77, "hard": 88}],
        },
    )
    assert status(ended.output, "Uid", "Gid", "Groups", "Umask", "NoNewPrivs") == [
        "7\t7\t7\t7",
        "8\t8\t8\t8",
        "9 10",
        "0027",
        "1",
    ]
    assert ended.output.split()[-3:] == ["77", "88", "321"]


def test_how_it_is_scheduled(contain: Contain) -> None:
    ended = contain(
        "cut -d' ' -f19 /proc/self/stat; grep ^policy /proc/self/sched; ionice",
        process={
            "scheduler": {"policy": "SCHED_BATCH", "nice": 7},
            "ioPriority": {"class": "IOPRIO_CLASS_BE", "priority": 6},
        },
    )
    words = ended.output.split()
    assert words[0] == "7", ended
    assert words[3:] == ["3", "best-effort:", "prio", "6"], ended


def test_personality_and_memory_policy(contain: Contain) -> None:
    ended = contain(
        "uname -m; head -1 /proc/self/numa_maps",
        linux={
            "personality": {"domain": "LINUX32"},
            "memoryPolicy": {"mode": "MPOL_BIND", "nodes": "0", "flags": ["MPOL_F_STATIC_NODES"]},
        },
    )
    machine = {"x86_64": "i686", "aarch64": "armv8l"}[os.uname().machine]
    assert ended.output.split()[0] == machine
    if os.path.exists("/proc/self/numa_maps"):
        assert "bind=static:0" in ended.output


def test_a_terminal_is_the_console(contain: Contain) -> None:
    ended = contain(
        "tty; stat -c '%t:%T' /dev/console $(tty); stty size; echo here > /dev/console",
        terminal=True,
        process={"consoleSize": {"height": 33, "width": 77}},
    )
    terminal, console, own, size, here = ended.output.split("\r\n")[:5]
    assert terminal.startswith("/dev/pts/")
    assert console == own
    assert (size, here) == ("33 77", "here")


def test_a_console_that_is_a_link_is_refused(contain: Contain, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/proc/self/fd/0")
    link = {
        "destination": "/dev/console",
        "type": "bind",
        "source": "link",
        "options": ["copy-symlink", "bind"],
    }
    ended = contain("true", terminal=True, more_mounts=[link])
    assert "/dev/console" in ended.error


def test_labels_without_a_module_are_a_clear_error(contain: Contain) -> None:
    for field, module in (("apparmorProfile", "AppArmor"), ("selinuxLabel", "SELinux")):
        ended = contain("true", process={field: "x"})
        if ended.error:
            assert f"config.process.{field}" in ended.error
            assert module in ended.error
        else:
            assert os.path.exists(
                {"AppArmor": "/proc/self/attr/apparmor/exec", "SELinux": "/sys/fs/selinux"}[module]
            )


@pytest.mark.parametrize(
    ("rule", "status_", "output"),
    [
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 28}, 1, "No space left on device"),
        ({"action": "SCMP_ACT_ERRNO", "args": [{"index": 1, "value": 0o700, "op": "SCMP_CMP_EQ"}]}, 0, ""),
        ({"action": "SCMP_ACT_LOG"}, 0, ""),
        ({"action": "SCMP_ACT_TRAP"}, 159, "Bad system call"),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, 159, "Bad system call"),
    ],
)
def test_what_a_filter_does(contain: Contain, rule: dict[str, Any], status_: int, output: str) -> None:
    names = {"names": ["mkdir", "mkdirat"]}
    seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"],
        "syscalls": [{**names, **rule}],
    }
    for no_new_privileges in (True, False):
        ended = contain(
            "mkdir /tmp/new; code=$?; rmdir /tmp/new 2>/dev/null; exit $code",
            linux={"seccomp": seccomp},
            process={"noNewPrivileges": no_new_privileges},
        )
        assert (ended.status, ended.error) == (status_, ""), ended
        assert output in ended.output


def test_a_listener_gets_the_filters_notifications(contain: Contain, tmp_path: Path) -> None:
    got: dict[str, Any] = {}
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "listener"))
    listener.listen(1)

    def listen() -> None:
        connection, _ = listener.accept()
        packet, descriptors, _, _ = socket.recv_fds(connection, 65536, 4)
        got["message"], got["descriptors"] = json.loads(packet), len(descriptors)
        got["kind"] = os.readlink(f"/proc/self/fd/{descriptors[0]}")
        got["after"] = connection.recv(1)
        for descriptor in descriptors:
            os.close(descriptor)
        connection.close()

    thread = threading.Thread(target=listen)
    thread.start()
    seccomp = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "listenerPath": str(tmp_path / "listener"),
        "listenerMetadata": "some data",
        "syscalls": [{"names": ["sethostname"], "action": "SCMP_ACT_NOTIFY"}],
    }
    ended = contain("exit 4", linux={"seccomp": seccomp})
    thread.join(20)
    listener.close()
    assert ended.status == 4, ended
    message = got["message"]
    assert (message["fds"], message["metadata"], got["descriptors"]) == (["seccompFd"], "some data", 1)
    assert message["state"]["status"] == "creating"
    assert message["pid"] == message["state"]["pid"] > 1
    assert "seccomp" in got["kind"]
    assert got["after"] == b"", "one message a connection"
