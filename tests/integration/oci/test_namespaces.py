# SPDX-License-Identifier: Apache-2.0
"""New, joined and shared namespaces, and one more process in them."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from .conftest import Oci

pytestmark = pytest.mark.root

_IDS = [{"containerID": 0, "hostID": 231072, "size": 65536}]


def _kinds(config: dict[str, Any], *kinds: str) -> None:
    config["linux"]["namespaces"] = [{"type": kind} for kind in ("mount", *kinds)]


def _mapped(config: dict[str, Any]) -> None:
    _kinds(config, "pid", "network", "ipc", "uts", "cgroup", "user")
    config["linux"].update(uidMappings=_IDS, gidMappings=_IDS)


def _namespace(pid: int | str, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def test_a_user_namespace_has_its_maps_and_owns_the_others(oci: Oci) -> None:
    id = oci.id()
    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100", change=_mapped), id)
    pid = oci.state(id)["pid"]
    assert Path(f"/proc/{pid}/uid_map").read_text().split() == ["0", "231072", "65536"]
    assert os.stat(f"/proc/{pid}").st_uid in (0, 231072)
    assert "Uid:\t231072\t231072" in Path(f"/proc/{pid}/status").read_text()
    script = "id -u; readlink /proc/self/ns/user; ip link set lo down && echo owned"
    said = oci.ok("exec", "--cap", "CAP_NET_ADMIN", id, "sh", "-c", script)
    assert said.split() == ["0", _namespace(pid, "user"), "owned"]


def test_a_time_namespace_has_its_offsets(oci: Oci) -> None:
    def shifted(config: dict[str, Any]) -> None:
        _kinds(config, "pid", "time", "uts")
        config["linux"]["timeOffsets"] = {"boottime": {"secs": 864000}}

    said = oci.ok("run", "-b", oci.bundle("cat", "/proc/uptime", change=shifted), oci.id())
    assert float(said.split()[0]) > time.clock_gettime(time.CLOCK_BOOTTIME) + 863000


def test_namespaces_are_joined_by_path(oci: Oci) -> None:
    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100"), oci.id("first"))
    first = oci.state(oci.id("first"))["pid"]

    def joining(config: dict[str, Any]) -> None:
        config["linux"]["namespaces"] = [
            {"type": "mount"},
            *(
                {"type": kind, "path": f"/proc/{first}/ns/{short}"}
                for kind, short in (("pid", "pid"), ("network", "net"), ("ipc", "ipc"), ("uts", "uts"))
            ),
        ]
        config.pop("hostname")

    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100", change=joining), oci.id("second"))
    second = oci.state(oci.id("second"))["pid"]
    for kind in ("pid", "net", "ipc", "uts"):
        assert _namespace(second, kind) == _namespace(first, kind)
    assert _namespace(second, "mnt") != _namespace(first, "mnt")


def test_a_user_namespace_is_joined_by_path(oci: Oci) -> None:
    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100", change=_mapped), oci.id("first"))
    first = oci.state(oci.id("first"))["pid"]

    def joining(config: dict[str, Any]) -> None:
        _kinds(config, "pid", "ipc", "uts", "cgroup", "network")
        config["linux"]["namespaces"].append({"type": "user", "path": f"/proc/{first}/ns/user"})

    said = oci.ok(
        "run",
        "-b",
        oci.bundle("sh", "-c", "id -u; readlink /proc/self/ns/user", change=joining),
        oci.id("second"),
    )
    assert said.split() == ["0", _namespace(first, "user")]


def test_what_is_not_named_is_shared(oci: Oci) -> None:
    def few(config: dict[str, Any]) -> None:
        _kinds(config)
        config.pop("hostname")

    said = oci.ok(
        "run", "-b", oci.bundle("sh", "-c", "readlink /proc/self/ns/net; echo $$", change=few), oci.id()
    )
    network, pid = said.split()
    assert network == _namespace("self", "net")
    assert pid != "1"


def test_one_more_process_is_in_the_container_and_answers_with_its_status(oci: Oci) -> None:
    id = oci.id()
    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100"), id)
    pid = oci.state(id)["pid"]
    script = "echo $COLOUR; pwd; id -u; readlink /proc/1/ns/pid; exit 5"
    answer = oci("exec", "--env", "COLOUR=red", "--cwd", "/var", "--user", "33:33", id, "sh", "-c", script)
    assert answer.returncode == 5
    assert answer.stdout.split()[:3] == ["red", "/var", "33"]
    assert f"mooring-oci-{id}" in oci.ok("exec", id, "cat", "/proc/self/cgroup") or "/" in oci.ok(
        "exec", id, "cat", "/proc/self/cgroup"
    )
    assert _namespace(pid, "pid") == oci.ok("exec", id, "readlink", "/proc/1/ns/pid").strip()


def test_one_more_process_by_a_file_detached_with_a_terminal(oci: Oci, tmp_path: Path) -> None:
    id = oci.id()
    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100"), id)
    process = {
        "args": ["sh", "-c", "tty; echo done"],
        "cwd": "/",
        "env": ["PATH=/bin:/usr/bin"],
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
    }
    (tmp_path / "process").write_text(json.dumps(process))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen(1)
        oci.quiet(
            *(
                "exec",
                "--detach",
                "--process",
                str(tmp_path / "process"),
                "--pid-file",
                str(tmp_path / "pid"),
            ),
            *("--console-socket", str(tmp_path / "console"), id),
        )
        connection, _ = listener.accept()
        with connection:
            _, (master,), _, _ = socket.recv_fds(connection, 64, 1)
    said = b""
    while b"done" not in said:
        said += os.read(master, 4096)
    os.close(master)
    assert b"/dev/pts/" in said
    assert int((tmp_path / "pid").read_text()) > 1


def test_a_command_that_is_not_there_is_told_and_a_name_is_no_user(oci: Oci) -> None:
    id = oci.id()
    oci.quiet("run", "-d", "-b", oci.bundle("sleep", "100"), id)
    answer = oci("exec", id, "/no/such")
    assert (answer.returncode, "no such file or directory" in answer.stderr) == (127, True)
    assert "expected a number" in oci("exec", "--user", "root", id, "true").stderr
