# SPDX-License-Identifier: Apache-2.0
"""Playbooks on a host with a real agent: what they report is what is there afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.host import missing_feature
from integration.collection.conftest import end_masters
from integration.collection.playbooks import Controller, Sshd

pytestmark = pytest.mark.root

Task = dict[str, Any]
StartAgent = Callable[..., AgentUnderTest]

IMAGE: Task = {"name": "image", "mooring.fleet.image": {"name": "busybox", "template": "busybox"}}
NETWORK: Task = {"name": "network", "mooring.fleet.network": {"name": "backend", "internal": True}}
CGROUP: Task = {"name": "cgroup", "mooring.fleet.cgroup": {"name": "batch", "memory": "256m", "cpus": 1}}
CONTAINER: Task = {
    "name": "container",
    "mooring.fleet.container": {
        "name": "web1",
        "image": "busybox",
        "command": "sleep 600",
        "env": {"GREETING": "good day"},
        "hostname": "web",
        "networks": ["backend"],
        "volumes": ["data:/data", {"type": "tmpfs", "target": "/scratch", "size": "1m"}],
        "memory": "32m",
        "pids_limit": 20,
        "cgroup": "batch",
        "restart": "on-failure:3",
        "log": {"max_size": "1m"},
        "labels": {"tier": "web"},
        "init": True,
        "userns": "auto",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["swapon"], "action": "SCMP_ACT_ERRNO"}],
        },
        "ulimits": {"core": 0, "nofile": "64:128"},
        "sysctls": {"net.ipv4.ip_forward": 1},
        "devices": ["/dev/null:/dev/none:r"],
        "shm_size": "1m",
        "stop_timeout": 1,
    },
}
SITE = [IMAGE, NETWORK, CGROUP, CONTAINER]
NAMES = [task["name"] for task in SITE]


def steps(answer: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return what was done without the reasons: in check mode they tell what is still missing, too."""
    return [(step["action"], step["kind"], step["name"]) for step in answer["actions"]]


def without(task: Task) -> Task:
    (module,) = (key for key in task if key.startswith("mooring"))
    return {"name": f"no {task['name']}", module: {"name": task[module]["name"], "state": "absent"}}


def changed(task: Task, **options: Any) -> Task:
    (module,) = (key for key in task if key.startswith("mooring"))
    return {"name": f"other {task['name']}", module: {**task[module], **options}}


@pytest.fixture
def bare_agent(start_agent: StartAgent) -> AgentUnderTest:
    return start_agent(image=False)


@pytest.fixture(params=["local", "elsewhere", "ssh"])
def playbooks(
    request: pytest.FixtureRequest, directory: Path, bare_agent: AgentUnderTest
) -> Iterator[Controller]:
    if request.param != "ssh":
        yield Controller(directory, bare_agent.socket, {"ansible_connection": request.param})
        return
    sshd = Sshd(directory)
    controller = Controller(directory, bare_agent.socket, sshd.variables)
    yield controller
    end_masters(controller)
    sshd.close()


def test_a_site_is_converged_changed_and_taken_down(
    playbooks: Controller, bare_agent: AgentUnderTest
) -> None:
    checked = playbooks.run(SITE, "--check", "--diff")
    assert checked.code == 0, checked.output
    assert bare_agent.api("GET", "/mooring/v1/containers") == []
    assert bare_agent.api("GET", "/mooring/v1/images") == []

    created = playbooks.run(SITE, "--diff")
    assert created.code == 0, created.output
    again = playbooks.run(SITE)
    assert again.code == 0, again.output

    assert checked.changes == created.changes == dict.fromkeys(NAMES, True)
    for name in NAMES:
        assert steps(checked.result(name)) == steps(created.result(name)), name
        assert checked.result(name)["diff"] == created.result(name)["diff"], name
    assert again.stats["changed"] == 0, again.output
    (view,) = bare_agent.api("GET", "/mooring/v1/containers")
    assert view == again.result("container")["container"]
    assert (view["name"], view["state"]) == ("web1", "running")

    alive = playbooks.run([changed(CONTAINER, memory="48m"), changed(CGROUP, memory="512m")], "--diff")
    assert alive.code == 0, alive.output
    assert alive.result("other container")["container"]["pid"] == view["pid"]
    assert "memory 32m → 48m, live" in str(alive.result("other container")["actions"])
    assert alive.result("other cgroup")["changed"]

    gone = playbooks.run([without(task) for task in reversed(SITE)])
    assert gone.code == 0, gone.output
    assert set(gone.changes.values()) == {True}
    assert bare_agent.api("GET", "/mooring/v1/containers") == []
    assert playbooks.run([without(task) for task in reversed(SITE)]).stats["changed"] == 0


@pytest.mark.parametrize("playbooks", ["elsewhere"], indirect=True)
def test_networks_change_under_a_running_container(playbooks: Controller, bare_agent: AgentUnderTest) -> None:
    both = {
        "subnet": "10.79.0.0/24",
        "ip_range": "10.79.0.128/25",
        "reserved": ["10.79.0.128"],
        "ipv6": True,
        "mtu": 1400,
    }
    networks = [
        {"name": "front", "mooring.fleet.network": {"name": "front", **both}},
        {"name": "back", "mooring.fleet.network": {"name": "back", "subnet6": "fd00:79::/64", "ipv4": False}},
    ]
    options = {"name": "web1", "image": "busybox", "command": "sleep 600", "stop_timeout": 0}
    one = {
        "name": "web",
        "mooring.fleet.container": {**options, "networks": ["front"], "dns": ["192.0.2.53"]},
    }
    two = changed(one, networks=["front", {"name": "back", "ipv6_address": "fd00:79::7"}])
    info: Task = {"name": "info", "mooring.fleet.network_info": {"names": ["back", "none", "front"]}}

    first = playbooks.run([IMAGE, *networks, one, info], "--diff")
    assert first.code == 0, first.output
    back, front = first.result("info")["networks"]
    assert (front["subnet"], front["mtu"], list(front["containers"])) == ("10.79.0.0/24", 1400, ["web1"])
    assert front["containers"]["web1"]["ipv4_address"] == "10.79.0.129"
    assert front["containers"]["web1"]["ipv6_address"].startswith("fd")
    assert (back["subnet"], back["subnet6"], back["containers"]) == (None, "fd00:79::/64", {})
    again = playbooks.run([*networks, one], "--diff")
    assert again.stats["changed"] == 0, again.output

    checked = playbooks.run([two], "--check", "--diff")
    assert "live" in checked.result("other web")["actions"][0]["reason"]
    assert bare_agent.api("GET", "/mooring/v1/containers/web1")["networks"].keys() == {"front"}
    moved = playbooks.run([two, info], "--diff")
    assert moved.code == 0, moved.output
    assert steps(moved.result("other web")) == steps(checked.result("other web"))
    assert moved.result("other web")["diff"] == checked.result("other web")["diff"]
    view = moved.result("other web")["container"]
    assert view["pid"] == first.result("web")["container"]["pid"]
    assert view["networks"]["back"]["ipv6_address"] == "fd00:79::7"
    assert list(moved.result("info")["networks"][0]["containers"]) == ["web1"]
    assert playbooks.run([two]).stats["changed"] == 0


def test_key_of_a_host_is_told_and_renewed_where_its_kernel_has_wireguard(
    playbooks: Controller, bare_agent: AgentUnderTest
) -> None:
    ask: Task = {"name": "ask", "mooring.fleet.network_key": {}}
    renew: Task = {"name": "renew", "mooring.fleet.network_key": {"renew": True}}
    if missing_feature("wireguard") is not None:
        refused = playbooks.run([ask])
        assert "has no WireGuard; load the module wireguard" in refused.result("ask")["msg"]
        assert refused.result("ask")["code"] == "not_supported"
        return
    asked = playbooks.run([ask, renew], "--check")
    assert asked.changes == {"ask": False, "renew": True}
    assert asked.result("ask")["public_key"] == asked.result("renew")["public_key"]
    renewed = playbooks.run([renew, ask])
    assert renewed.result("renew")["public_key"] == renewed.result("ask")["public_key"]
    assert renewed.result("ask")["public_key"] != asked.result("ask")["public_key"]


def test_a_document_is_converged_pruned_and_refused(
    playbooks: Controller, bare_agent: AgentUnderTest
) -> None:
    document = {
        "containers": {
            f"web{number}": {
                "image": "busybox",
                "command": "sleep 600",
                "networks": ["backend"],
                "stop_timeout": 0,
            }
            for number in range(3)
        },
        "images": {"busybox": {"template": "busybox"}},
        "networks": {"backend": {"nat": False}},
        "cgroups": {"batch": {"memory": "256m"}},
        "volumes": {"data": None},
    }
    less = {**document, "containers": {"web0": document["containers"]["web0"]}, "prune": True}
    wrong = {**document, "containers": {**document["containers"], "web9": {"image": "missing"}}}
    apply = "mooring.fleet.apply"

    run = playbooks.run(
        [
            {"name": "check", apply: document, "check_mode": True, "diff": True},
            {"name": "real", apply: document, "diff": True},
            {"name": "again", apply: document},
            {"name": "wrong", apply: wrong, "ignore_errors": True},
            {"name": "prune", apply: less},
            {"name": "nothing", apply: {"prune": True}},
        ]
    )

    assert run.code == 0, run.output
    checked, real = run.result("check"), run.result("real")
    assert [steps(item) for item in checked["resources"]] == [steps(item) for item in real["resources"]]
    assert not run.result("again")["changed"]
    assert run.failed("wrong")
    assert "1 of 8 resources" in run.result("wrong")["msg"]
    assert "missing" in run.result("wrong")["msg"]
    assert sorted(item["name"] for item in run.result("prune")["resources"] if item["changed"]) == [
        "web1",
        "web2",
    ]
    assert bare_agent.api("GET", "/mooring/v1/containers") == []


def test_executing_and_asking(playbooks: Controller) -> None:
    execute = "mooring.fleet.container_exec"

    run = playbooks.run(
        [
            *SITE,
            {
                "name": "env",
                execute: {"name": "web1", "argv": ["sh", "-c", "echo $GREETING from $(hostname)"]},
            },
            {"name": "stdin", execute: {"name": "web1", "command": "tr a-z A-Z", "stdin": "abc"}},
            {
                "name": "user",
                execute: {
                    "name": "web1",
                    "argv": ["sh", "-c", "id -u; pwd"],
                    "user": "1000",
                    "workdir": "/data",
                },
            },
            {
                "name": "exit",
                execute: {"name": "web1", "argv": ["sh", "-c", "exit 7"]},
                "ignore_errors": True,
            },
            {
                "name": "late",
                execute: {"name": "web1", "argv": ["sleep", "60"], "command_timeout": 0.5},
                "ignore_errors": True,
            },
            {"name": "flood", execute: {"name": "web1", "command": "seq 100000", "max_output": 1000}},
            {"name": "no program", execute: {"name": "web1", "argv": ["nonesuch"]}, "ignore_errors": True},
            {"name": "labelled", "mooring.fleet.container_info": {"label": "tier=web"}},
            {"name": "unlabelled", "mooring.fleet.container_info": {"label": "tier=db"}},
            {"name": "missing", "mooring.fleet.container_info": {"name": "web9"}},
            {"name": "host", "mooring.fleet.host_info": {}},
        ]
    )

    assert run.code == 0, run.output
    assert run.result("env")["stdout"] == "good day from web\n"
    assert run.result("stdin")["stdout"] == "ABC"
    assert run.result("user")["stdout_lines"] == ["1000", "/data"]
    assert run.failed("exit")
    assert run.result("exit")["rc"] == 7
    assert run.result("late")["timed_out"]
    assert run.result("flood")["truncated"]
    assert len(run.result("flood")["stdout"]) <= 1000
    assert run.failed("no program")
    assert "nonesuch" in run.result("no program")["msg"]
    assert [view["name"] for view in run.result("labelled")["containers"]] == ["web1"]
    assert run.result("unlabelled")["containers"] == run.result("missing")["containers"] == []
    assert run.result("host")["host"]["containers"]["running"] == 1


def test_bad_input_leaves_nothing_half_made(playbooks: Controller, bare_agent: AgentUnderTest) -> None:
    def container(task: str, **options: Any) -> Task:
        options = {"name": "bad1", "image": "busybox", **options}
        return {"name": task, "mooring.fleet.container": options, "ignore_errors": True}

    run = playbooks.run(
        [
            IMAGE,
            changed(CONTAINER, name="holder", ports=["18099:80"], networks=["bridge"], cgroup=None),
            container("unknown image", image="nonesuch"),
            container("slash", name="a/b"),
            container("memory", memory=-5),
            container("port", ports=["18099:80"]),
            container("key", memroy="64m"),
            container("unknown network", networks=["nonesuch"]),
            container("cgroup", cgroup="nonesuch"),
            container("program", command="nonesuch"),
        ]
    )

    assert run.code == 0, run.output
    expected = {
        "unknown image": "nonesuch",
        "slash": "a/b",
        "memory": "-5",
        "port": "18099",
        "key": "memroy",
        "unknown network": "nonesuch",
        "cgroup": "nonesuch",
        "program": "nonesuch",
    }
    for task, word in expected.items():
        assert run.failed(task), f"{task}: {run.output}"
        assert word in run.result(task)["msg"], run.result(task)
        assert "\n" not in run.result(task)["msg"]
    assert [view["name"] for view in bare_agent.api("GET", "/mooring/v1/containers")] == ["holder"]
