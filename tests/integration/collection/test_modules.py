# SPDX-License-Identifier: Apache-2.0
"""Every module, by every way to the agent: create, nothing to do, change, check mode, diff, remove,
refuse."""

from __future__ import annotations

from typing import Any

import pytest

from integration.collection.playbooks import Controller
from integration.collection.stub_agent import StubAgent

Task = dict[str, Any]

RESOURCES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "image": ({"template": "busybox"}, {"template": "busybox", "config": {"cmd": ["sh"]}}),
    "network": (
        {"subnet": "10.30.0.0/24", "nat": False, "reserved": ["10.30.0.9"], "ipv6": True},
        {"subnet": "10.30.0.0/24", "nat": True, "mtu": 1400},
    ),
    "cgroup": ({"memory": "1g", "cpus": 1.5}, {"memory": "2g", "cpus": 1.5}),
    "container": (
        {
            "image": "image1",
            "command": "sleep 600",
            "env": {"A": "1", "N": 2},
            "volumes": ["/srv:/srv:ro", {"source": "data", "target": "/data"}],
            "networks": ["network1", {"name": "bridge", "aliases": ["web"]}],
            "ports": ["8080:80", {"container": 53, "protocol": "udp"}],
            "memory": "64m",
            "restart": False,
            "user": 1000,
            "log": {"max_size": "1m"},
            "cap_add": ["NET_ADMIN"],
            "cgroup": "cgroup1",
            "tty": True,
        },
        {"image": "image1", "memory": "128m"},
    ),
}


def task(kind: str, name: str, **options: Any) -> Task:
    return {"name": name, f"mooring.fleet.{kind}": {"name": f"{kind}1", **options}}


def present(which: int) -> list[Task]:
    return [task(kind, f"{kind} {which}", **specs[which]) for kind, specs in RESOURCES.items()]


def absent() -> list[Task]:
    return [task(kind, f"no {kind}", state="absent") for kind in reversed(RESOURCES)]


def test_the_life_of_resources(controller: Controller, stub: StubAgent) -> None:
    checked = controller.run(present(0), "--check", "--diff")
    assert stub.resources.specs == {}
    created = controller.run(present(0), "--diff")
    again = controller.run(present(0), "--diff")
    changed = controller.run(
        present(1) + absent() + [{**each, "name": f"{each['name']} again"} for each in absent()]
    )

    assert checked.code == created.code == again.code == changed.code == 0, checked.output + created.output
    assert checked.changes == created.changes == {f"{kind} 0": True for kind in RESOURCES}
    for kind in RESOURCES:
        first, real = checked.result(f"{kind} 0"), created.result(f"{kind} 0")
        assert first["actions"] == real["actions"]
        assert first["diff"] == real["diff"]
        assert real["diff"]["before"] == ""
        assert first[kind] is None
        assert real[kind]["name"] == f"{kind}1"
        assert changed.result(f"{kind} 1")["changed"]
        assert "diff" not in changed.result(f"{kind} 1")
        assert changed.result(f"no {kind}")["actions"][0]["action"] == "remove"
        assert not changed.result(f"no {kind} again")["changed"]
    assert again.stats["changed"] == 0
    assert set(again.changes.values()) == {False}
    assert "memory 64m → 128m, live" in str(changed.result("container 1")["actions"])
    assert stub.resources.specs == {}


def test_a_whole_host(controller: Controller, stub: StubAgent) -> None:
    document = {
        "containers": {"web1": {"image": "busybox", "cgroup": "web"}, "web2": {"image": "missing"}},
        "images": {"busybox": {"template": "busybox"}},
        "cgroups": {"web": {"memory": "1g"}},
        "volumes": {"data": None},
    }
    good = {**document, "containers": {"web1": document["containers"]["web1"]}}  # type: ignore[index]
    apply = "mooring.fleet.apply"

    runs = controller.run(
        [
            {"name": "check", apply: good, "check_mode": True, "diff": True},
            {"name": "good", apply: good, "diff": True},
            {"name": "again", apply: good},
            {"name": "half", apply: document, "ignore_errors": True},
            {"name": "prune", apply: {"images": good["images"], "prune": True}},
            {"name": "section", apply: {"container": {}}, "ignore_errors": True},
        ]
    )

    assert runs.code == 0, runs.output
    assert [item["kind"] for item in runs.result("good")["resources"]] == [
        "image",
        "volume",
        "cgroup",
        "container",
    ]
    assert runs.result("check")["resources"][0]["actions"] == runs.result("good")["resources"][0]["actions"]
    assert [part["after_header"] for part in runs.result("check")["diff"]] == [
        part["after_header"] for part in runs.result("good")["diff"]
    ]
    assert not runs.result("again")["changed"]
    half = runs.result("half")
    assert runs.failed("half")
    assert half["msg"].startswith("1 of 5 resources could not be brought to their state: container web2: ")
    assert half["code"] == "not_found"
    assert [bool(item["error"]) for item in half["resources"]] == [False, False, False, False, True]
    assert runs.result("prune")["changed"]
    assert list(stub.resources.specs) == [("image", "busybox")]
    assert "Unsupported parameters" in runs.result("section")["msg"]


def test_asking_and_executing(controller: Controller) -> None:
    execute = "mooring.fleet.container_exec"
    runs = controller.run(
        [
            {"mooring.fleet.image": {"name": "busybox", "template": "busybox"}},
            {"mooring.fleet.container": {"name": "web1", "image": "busybox"}},
            {"name": "host", "mooring.fleet.host_info": {}, "check_mode": True},
            {"name": "one", "mooring.fleet.container_info": {"name": "web1"}},
            {"name": "none", "mooring.fleet.container_info": {"name": "web2"}},
            {"name": "all", "mooring.fleet.container_info": {}},
            {"name": "echo", execute: {"name": "web1", "command": "echo 'a  b' c"}},
            {"name": "stdin", execute: {"name": "web1", "argv": ["cat"], "stdin": "x\ny"}},
            {"name": "check", execute: {"name": "web1", "argv": ["reboot"]}, "check_mode": True},
            {
                "name": "exit",
                execute: {"name": "web1", "argv": ["sh", "-c", "exit 7"]},
                "ignore_errors": True,
            },
            {
                "name": "late",
                execute: {"name": "web1", "argv": ["sleep", "9"], "command_timeout": 0.5},
                "ignore_errors": True,
            },
            {"name": "quotes", execute: {"name": "web1", "command": "echo 'a"}, "ignore_errors": True},
            {"name": "nobody", execute: {"name": "web2", "argv": ["true"]}, "ignore_errors": True},
        ]
    )

    assert runs.code == 0, runs.output
    assert runs.result("host")["host"]["containers"]["total"] == 1
    assert [view["name"] for view in runs.result("one")["containers"]] == ["web1"]
    assert runs.result("none")["containers"] == []
    assert len(runs.result("all")["containers"]) == 1
    assert runs.result("echo")["stdout_lines"] == ["a  b c"]
    assert runs.result("echo")["changed"]
    assert runs.result("stdin")["stdout"] == "x\ny"
    assert runs.result("check")["msg"] == "would have run in the container web1: reboot"
    assert "rc" not in runs.result("check")
    exit_7 = runs.result("exit")
    assert (runs.failed("exit"), exit_7["rc"]) == (True, 7)
    assert exit_7["msg"] == "sh in the container web1 ended with 7, expected 0"
    late = runs.result("late")
    assert (runs.failed("late"), late["timed_out"], late["code"]) == (True, True, "timeout")
    assert "balance the quotes" in runs.result("quotes")["msg"]
    assert runs.result("nobody")["code"] == "not_found"


IMAGE = "mooring.fleet.image"


def test_an_image_is_pushed_unless_it_is_there(controller: Controller, stub: StubAgent) -> None:
    login = {"username": "fleet", "password": "s3cret-word"}
    image = {"name": "web:1", "pull": {"policy": "newer"}, "credentials": login}
    run = controller.run(
        [
            {"name": "check", IMAGE: {**image, "push": True}, "check_mode": True, "diff": True},
            {"name": "push", IMAGE: {**image, "push": True}, "diff": True},
            {"name": "again", IMAGE: {**image, "push": True}},
            {"name": "two", IMAGE: {"name": "web:1", "push": {"to": ["a:1", "b:1"]}}},
            {"name": "check three", IMAGE: {"name": "web:1", "push": {"to": "c:1"}}, "check_mode": True},
            {"name": "gone", IMAGE: {"name": "web:1", "state": "absent", "force": True}},
        ],
        "-vvv",
    )

    assert run.code == 0, run.output
    assert [action["action"] for action in run.result("check")["actions"]] == ["create", "push"]
    assert [action["action"] for action in run.result("push")["actions"]] == ["create", "push"]
    assert run.result("check")["pushed"] == []
    assert run.result("push")["pushed"] == [{"name": "web:1", "digest": "sha256:0"}]
    assert not run.result("again")["changed"]
    assert [push["name"] for push in run.result("two")["pushed"]] == ["a:1", "b:1"]
    assert run.result("check three")["changed"]
    assert sorted(stub.resources.pushed) == ["a:1", "b:1", "web:1"]
    assert stub.resources.credentials == [login] * 5 + [None] * 3  # of each PUT and push that was made
    assert stub.resources.pushed["web:1"] == {"pull": {"policy": "newer"}}
    assert stub.resources.forced == ["web:1"]
    assert "s3cret-word" not in run.output
    assert not any("s3cret-word" in str(line["result"].get("invocation")) for line in run.lines)


def test_a_source_has_its_options_and_an_image_its_tags(controller: Controller, stub: StubAgent) -> None:
    build = {
        "context": "/srv/web",
        "args": {"VERSION": "2"},
        "no_cache": True,
        "secrets": {"token": "/root/token"},
        "source_date_epoch": 1700000000,
    }
    load = {"path": "/srv/web.tar", "from": "web:3"}
    lxc = {"path": "/srv/rootfs.squashfs", "metadata": "/srv/metadata.yaml"}
    run = controller.run(
        [
            {IMAGE: {"name": "built", "build": build, "tags": ["web", "web:2"]}},
            {IMAGE: {"name": "loaded", "load": load}},
            {IMAGE: {"name": "imported", "import": lxc}},
            {IMAGE: {"name": "pulled", "pull": {}}},
        ]
    )

    assert run.code == 0, run.output
    assert {name: spec for (_, name), spec in stub.resources.specs.items()} == {
        "built": {"build": build, "tags": ["web", "web:2"]},
        "loaded": {"load": load},
        "imported": {"import": lxc},
        "pulled": {"pull": {}},
    }


def test_images_are_asked_about_and_pruned(controller: Controller, stub: StubAgent) -> None:
    info, prune = "mooring.fleet.image_info", "mooring.fleet.image_prune"
    labelled = {"name": "web", "template": "busybox", "config": {"labels": {"tier": "web"}}}
    run = controller.run(
        [
            {IMAGE: labelled},
            {IMAGE: {"name": "db", "template": "busybox"}},
            {"name": "all", info: {}, "check_mode": True},
            {"name": "named", info: {"names": ["db", "db", "nothing"]}},
            {"name": "labelled", info: {"labels": ["tier=web"]}},
            {"name": "unlike", info: {"labels": ["tier=db"]}},
            {"name": "dangling", info: {"dangling": True}},
            {"name": "none", prune: {}},
            {"name": "check", prune: {"all": True}, "check_mode": True},
            {"name": "prune", prune: {"all": True, "until": "24h", "labels": ["a"], "without": ["b"]}},
        ]
    )

    assert run.code == 0, run.output
    names = {
        task: [image["name"] for image in run.result(task)["images"]]
        for task in ("all", "named", "labelled", "unlike", "dangling")
    }
    assert names == {
        "all": ["web", "db"],
        "named": ["db"],
        "labelled": ["web"],
        "unlike": [],
        "dangling": [],
    }
    assert not run.result("none")["changed"]
    assert (run.result("check")["changed"], run.result("check")["freed"]) == (True, 0)
    pruned = run.result("prune")
    assert (pruned["changed"], pruned["deleted"], pruned["freed"]) == (True, ["web", "db"], 2000)
    assert stub.resources.specs == {}


BAD: list[tuple[Task, str, str | None]] = [
    (
        task("container", "memory", image="x", memory=-5),
        'container container1: memory is "-5", expected',
        "invalid",
    ),
    (task("container", "unknown", image="x", memroy=1), "Unsupported parameters for", None),
    (task("container", "no image"), "state is running but all of the following are missing: image", None),
    (
        task("container", "slash", image="x") | {"mooring.fleet.container": {"name": "a/b", "image": "x"}},
        "a/b",
        "invalid",
    ),
    (task("container", "boolean", image="x", env={"A": True}), "put it in quotes", "invalid"),
    (task("container", "log", image="x", log={"max_sise": 1}), "max_sise", None),
    (task("image", "both", template="busybox", **{"import": {"path": "/x"}}), "mutually exclusive", None),
    (task("image", "neither"), "no such image: image1", "not_found"),
    (task("image", "load", load={"from": "x"}), "missing required arguments: path found in load", None),
    (
        task("image", "push", template="busybox", push="away"),
        "push is 'away', expected true, or a",
        "invalid",
    ),
    (task("network", "driver", driver="ipvlan"), "value of driver must be one of: bridge", None),
    (task("cgroup", "swap", memory_swap="1g"), "without memory, expected both", "invalid"),
]


def test_bad_input_is_refused_with_one_sentence(controller: Controller, stub: StubAgent) -> None:
    runs = controller.run([{**bad, "ignore_errors": True} for bad, _, _ in BAD])

    assert runs.code == 0, runs.output
    for bad, sentence, code in BAD:
        result = runs.result(bad["name"])
        assert runs.failed(bad["name"])
        assert sentence in result["msg"], result["msg"]
        assert "\n" not in result["msg"]
        assert result.get("code") == code
    assert stub.resources.specs == {}


def test_an_agent_that_is_not_there(controller: Controller) -> None:
    runs = controller.run(
        [
            {
                "name": "ask",
                "mooring.fleet.host_info": {"socket": "/nonexistent/mooring.sock"},
                "ignore_errors": True,
            }
        ]
    )

    message = runs.result("ask")["msg"]
    assert "no agent answers at /nonexistent/mooring.sock (no such file or directory)" in message
    assert "role mooring.fleet.agent" in message
    assert runs.result("ask")["code"] == "unavailable"


def test_a_task_is_retried(controller: Controller) -> None:
    ask = {"name": "ask", "mooring.fleet.host_info": {"socket": "/nonexistent/mooring.sock"}}

    run = controller.run(
        [{**ask, "register": "answer", "until": "answer is success", "retries": 2, "delay": 0}]
    )

    assert "no agent answers at /nonexistent/mooring.sock" in run.result("ask")["msg"]
    assert run.result("ask")["attempts"] == 2


def test_async_runs_the_module(controller: Controller, stub: StubAgent) -> None:
    image = {
        "name": "image",
        "mooring.fleet.image": {"name": "busybox", "template": "busybox"},
        "async": 30,
        "poll": 1,
    }

    runs = controller.run([image])

    assert runs.code == 0, runs.output
    assert runs.result("image")["changed"]
    assert ("image", "busybox") in stub.resources.specs


@pytest.mark.parametrize("option", ["socket", "timeout"])
def test_module_defaults_reach_every_module(local: Controller, option: str) -> None:
    value = str(local.socket) if option == "socket" else 5
    socket = {} if option == "socket" else {"socket": str(local.socket)}
    play = {
        "hosts": "node",
        "gather_facts": False,
        "module_defaults": {"group/mooring.fleet.all": {option: value}},
        "tasks": [
            {"name": "host", "mooring.fleet.host_info": socket},
            {"name": "info", "mooring.fleet.container_info": socket},
            {"name": "apply", "mooring.fleet.apply": socket},
        ],
    }

    runs = local.play([play])

    assert runs.code == 0, runs.output
    assert runs.result("host")["invocation"]["module_args"][option] == value
