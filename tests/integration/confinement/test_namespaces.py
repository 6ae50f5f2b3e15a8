# SPDX-License-Identifier: Apache-2.0
"""Each namespace private, the host's, or another container's."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.unix_http import ApiError
from harness.waiting import eventually

pytestmark = pytest.mark.root


def put(agent: AgentUnderTest, name: str, **spec: Any) -> dict[str, Any]:
    body = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0, **spec}
    result: dict[str, Any] = agent.api("PUT", f"/mooring/v1/containers/{name}", body)["result"]
    return result


def namespace(view: dict[str, Any], kind: str) -> str:
    return os.readlink(f"/proc/{view['pid']}/ns/{kind}")


def inside(agent: AgentUnderTest, name: str, *argv: str) -> str:
    done = agent.api("POST", f"/mooring/v1/containers/{name}/exec", {"argv": list(argv)})
    assert done["exit_code"] == 0, done
    return str(done["stdout"])


@pytest.mark.parametrize(
    ("option", "kind"), [("pid", "pid"), ("ipc", "ipc"), ("uts", "uts"), ("cgroupns", "cgroup")]
)
def test_a_namespace_is_private_unless_it_is_the_host_s(
    agent: AgentUnderTest, option: str, kind: str
) -> None:
    own = put(agent, "own")
    hosts = put(agent, "hosts", **{option: "host"})
    of_host = os.readlink(f"/proc/self/ns/{kind}")
    assert namespace(own, kind) != of_host
    assert namespace(hosts, kind) == of_host
    for other in {"pid", "ipc", "uts", "cgroup", "net", "mnt"} - {kind}:
        assert namespace(hosts, other) not in (namespace(own, other), os.readlink(f"/proc/self/ns/{other}"))
    # A further process is where the first one is.
    assert inside(agent, "hosts", "readlink", f"/proc/self/ns/{kind}").strip() == of_host


def test_containers_that_share_see_each_other(agent: AgentUnderTest) -> None:
    line = "echo here >/dev/shm/note; httpd -p 80 -h /etc; exec sleep 601"
    web = put(agent, "web1", command=["sh", "-c", line], ipc="shareable")
    command = Path(f"/proc/{web['pid']}/cmdline")
    eventually(lambda: command.read_bytes() == b"sleep\x00601\x00", what="all of its line is done")
    both = "container:web1"
    beside = put(agent, "beside", networks=[both], pid=both, ipc=both)
    for kind in ("net", "pid", "ipc"):
        assert namespace(web, kind) == namespace(beside, kind)
    for kind in ("mnt", "uts", "cgroup"):
        assert namespace(web, kind) != namespace(beside, kind)
    assert "sleep 601" in inside(agent, "beside", "ps")
    assert "sleep 600" in inside(agent, "web1", "ps")
    assert inside(agent, "beside", "cat", "/dev/shm/note") == "here\n"
    inside(agent, "beside", "sh", "-c", "echo back >/dev/shm/note")
    assert inside(agent, "web1", "cat", "/dev/shm/note") == "back\n"
    name = inside(agent, "web1", "hostname")
    assert inside(agent, "beside", "wget", "-qO-", "http://127.0.0.1/hostname") == name
    assert inside(agent, "beside", "hostname") == name
    assert inside(agent, "beside", "cat", "/etc/hosts") == inside(agent, "web1", "cat", "/etc/hosts")
    address = web["networks"]["bridge"]["ipv4_address"]
    assert address in inside(agent, "beside", "ip", "-o", "addr")
    assert beside["joins"] == {"network": web["id"], "pid": web["id"], "ipc": web["id"]}
    shown = agent.api("GET", "/v1.47/containers/beside/json")["HostConfig"]
    assert (shown["NetworkMode"], shown["PidMode"]) == (f"container:{web['id']}",) * 2


def test_a_host_name_a_root_of_control_groups_and_clocks(agent: AgentUnderTest) -> None:
    named = put(agent, "named", hostname="lighthouse")
    alike = put(agent, "alike", uts="container:named", cgroupns="container:named")
    assert namespace(alike, "uts") == namespace(named, "uts")
    assert namespace(alike, "cgroup") == namespace(named, "cgroup")
    assert inside(agent, "alike", "sh", "-c", "hostname; echo $HOSTNAME").split() == ["lighthouse"] * 2
    assert "lighthouse" in inside(agent, "alike", "cat", "/etc/hosts")
    put(agent, "ahead", time_offsets={"boottime": 1_000_000})
    uptime = float(inside(agent, "ahead", "cat", "/proc/uptime").split()[0])
    assert uptime - float(Path("/proc/uptime").read_text().split()[0]) > 999_000


def test_the_end_of_the_first_process_is_that_of_who_joined_it(agent: AgentUnderTest) -> None:
    put(agent, "donor")
    put(agent, "guest", pid="container:donor")
    agent.api("POST", "/mooring/v1/containers/donor/stop")
    eventually(lambda: agent.api("GET", "/mooring/v1/containers/guest")["state"] == "exited")


def test_with_its_end_all_that_it_has_begun_ends_in_a_shared_namespace_too(agent: AgentUnderTest) -> None:
    put(agent, "lender")
    put(agent, "lodger", pid="container:lender", command=["sh", "-c", "sleep 602 & sleep 602 & sleep 603"])
    eventually(lambda: inside(agent, "lender", "ps").count("sleep 602") == 2)
    agent.api("POST", "/mooring/v1/containers/lodger/stop")
    eventually(lambda: "sleep 602" not in inside(agent, "lender", "ps"))
    put(agent, "onlooker", pid="host", command=["sh", "-c", "sleep 604 & exec sleep 605"])
    eventually(lambda: _running("sleep", "604"))
    agent.api("DELETE", "/mooring/v1/containers/onlooker?force=true")
    assert not _running("sleep", "604")


def _running(*argv: str) -> bool:
    wanted = b"\0".join(word.encode() for word in argv) + b"\0"
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes() == wanted:
                    return True
            except OSError:
                continue  # it has ended in the meantime
    return False


def test_what_cannot_be_joined_is_named(agent: AgentUnderTest) -> None:
    with pytest.raises(ApiError, match="container nobody, which does not exist"):
        put(agent, "alone", networks=["container:nobody"])
    put(agent, "still", state="stopped")
    with pytest.raises(ApiError, match="container still, which is created: start that one first"):
        put(agent, "waiting", networks=["container:still"])
    put(agent, "closed")
    with pytest.raises(ApiError, match='give that one ipc "shareable"'):
        put(agent, "curious", ipc="container:closed")
    with pytest.raises(ApiError, match="no address to lead to"):
        put(agent, "loud", networks=["container:closed"], ports=["80"])


def test_a_replaced_container_is_found_by_its_name_at_the_next_start(agent: AgentUnderTest) -> None:
    first = put(agent, "base")
    guest = put(agent, "visitor", networks=["container:base"])
    second = put(agent, "base", env={"A": "1"})
    assert first["id"] != second["id"]
    # It lives on in the network that it has, and that nobody else has any more.
    assert namespace(guest, "net") != namespace(second, "net")
    assert inside(agent, "visitor", "true") == ""
    agent.api("POST", "/mooring/v1/containers/visitor/restart?timeout=0")
    again = agent.api("GET", "/mooring/v1/containers/visitor")
    assert namespace(again, "net") == namespace(second, "net")
    assert again["joins"] == {"network": second["id"]}
    unchanged = agent.api(
        "PUT",
        "/mooring/v1/containers/visitor",
        {"image": "busybox", "command": "sleep 600", "stop_timeout": 0, "networks": ["container:base"]},
    )
    assert not unchanged["changed"]


def test_a_document_makes_those_first_whom_others_join(agent: AgentUnderTest) -> None:
    spec = {"image": "busybox", "command": "sleep 600", "stop_timeout": 0}
    document = {
        "containers": {
            "a-third": {**spec, "pid": "container:b-second"},
            "b-second": {**spec, "networks": ["container:c-first"]},
            "c-first": spec,
        }
    }
    answer = agent.api("PUT", "/mooring/v1/state", document)
    assert [item["error"] for item in answer["items"]] == [None] * 3
    assert [item["name"] for item in answer["items"]] == ["c-first", "b-second", "a-third"]


def test_the_host_s_memory_and_names(agent: AgentUnderTest) -> None:
    put(agent, "guest2", ipc="host", uts="host")
    assert inside(agent, "guest2", "hostname").strip() == os.uname().nodename
    if os.path.ismount("/dev/shm"):
        device = inside(agent, "guest2", "stat", "-c", "%d", "/dev/shm").strip()
        assert int(device) == os.stat("/dev/shm").st_dev
    put(agent, "bare", ipc="none")
    assert "shm" not in inside(agent, "bare", "ls", "/dev")
