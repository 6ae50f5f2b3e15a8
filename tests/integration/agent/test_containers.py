# SPDX-License-Identifier: Apache-2.0
"""Containers through the Mooring API, as a user sees them: what runs, what it sees, what changes, what is
left.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.host import cgroup_mounts
from harness.waiting import eventually

pytestmark = pytest.mark.root

SLEEP = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0}


@pytest.fixture
def declare(agent: AgentUnderTest) -> Iterator[Any]:
    """Declare containers that are gone after the test."""
    names = set()

    def put(name: str, spec: dict[str, Any], query: str = "") -> Any:
        names.add(name)
        return agent.api("PUT", f"/mooring/v1/containers/{name}{query}", spec)

    yield put
    for name in names:
        agent.api("DELETE", f"/mooring/v1/containers/{name}")


def run(agent: AgentUnderTest, name: str, *argv: str, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = agent.api(
        "POST", f"/mooring/v1/containers/{name}/exec", {"argv": list(argv), **options}
    )
    return answer


def view(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    answer: dict[str, Any] = agent.api("GET", f"/mooring/v1/containers/{name}")
    return answer


def lines(agent: AgentUnderTest, name: str) -> list[str]:
    return [line["data"] for line in agent.stream("GET", f"/mooring/v1/containers/{name}/logs")]


def ended(agent: AgentUnderTest, name: str) -> dict[str, Any]:
    return eventually(
        lambda: (found := view(agent, name))["state"] == "exited" and found, what=f"{name} ends"
    )


def group_value(group: str, *files: str) -> str:
    """The content of the first of `files` that a hierarchy has for the group; v1 and v2 name them
    differently.
    """
    found = (mount / group / file for mount in cgroup_mounts() for file in files)
    return next(path for path in found if path.exists()).read_text().strip()


def refusal(agent: AgentUnderTest, name: str, spec: dict[str, Any]) -> tuple[int, str]:
    response = agent.request("PUT", f"/mooring/v1/containers/{name}", spec)
    return response.status, response.json()["message"]


def test_a_container_sees_only_its_own(agent: AgentUnderTest, declare: Any) -> None:
    declare("alone", {**SLEEP, "hostname": "inner"})
    seen = run(
        agent, "alone", "sh", "-c", "hostname; ls /proc | grep -c '^[0-9]'; ip -o link | wc -l; ls /home"
    )
    hostname, processes, links = seen["stdout"].split()[:3]
    assert hostname == "inner"
    assert int(processes) <= 5
    assert int(links) == 2
    assert str(agent.base) not in run(agent, "alone", "cat", "/proc/mounts")["stdout"].replace("lowerdir", "")


def test_each_namespace_is_private(agent: AgentUnderTest, declare: Any) -> None:
    declare("spaces", SLEEP)
    pid = view(agent, "spaces")["pid"]
    for name in ("mnt", "pid", "net", "ipc", "uts", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{name}") != os.readlink(f"/proc/self/ns/{name}"), name


def test_it_has_the_default_capabilities_and_filter(agent: AgentUnderTest, declare: Any) -> None:
    declare("caps", SLEEP)
    status = dict(
        line.split(":\t", 1) for line in run(agent, "caps", "cat", "/proc/self/status")["stdout"].splitlines()
    )
    assert status["CapEff"] == status["CapBnd"] == "00000000a80425fb"  # docker's fourteen
    assert status["CapInh"] == status["CapAmb"] == "0000000000000000"
    assert status["Seccomp"] == "2"
    mount = run(agent, "caps", "mount", "-t", "tmpfs", "none", "/mnt")
    assert mount["exit_code"] != 0


@pytest.mark.parametrize(
    "path", ["/proc/kcore", "/proc/keys", "/proc/timer_list", "/proc/interrupts"], ids=os.path.basename
)
def test_masked_files_are_empty(agent: AgentUnderTest, declare: Any, path: str) -> None:
    declare("masked", SLEEP)
    assert run(agent, "masked", "cat", path)["stdout"] == ""


def test_kernel_settings_are_read_only(agent: AgentUnderTest, declare: Any) -> None:
    declare("settings", SLEEP)
    for path in ("/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/sys/kernel/profiling"):
        written = run(agent, "settings", "sh", "-c", f"echo 1 > {path}")
        assert written["exit_code"] != 0, path


def test_what_is_written_stays_over_a_restart(agent: AgentUnderTest, declare: Any) -> None:
    declare("keeps", SLEEP)
    run(agent, "keeps", "sh", "-c", "echo here > /root/note")
    agent.api("POST", "/mooring/v1/containers/keeps/restart")
    assert run(agent, "keeps", "cat", "/root/note")["stdout"] == "here\n"


def test_exit_code_and_both_streams_are_kept(agent: AgentUnderTest, declare: Any) -> None:
    declare("ends", {"image": "busybox", "command": ["sh", "-c", "echo out; echo err >&2; exit 7"]})
    found = ended(agent, "ends")
    assert (found["exit_code"], found["exit_known"], found["pid"]) == (7, True, None)
    entries = list(agent.stream("GET", "/mooring/v1/containers/ends/logs"))
    assert {(entry["stream"], entry["data"]) for entry in entries} == {
        ("stdout", "out\n"),
        ("stderr", "err\n"),
    }


def test_a_signal_shows_in_the_exit_code(agent: AgentUnderTest, declare: Any) -> None:
    declare("killed", {"image": "busybox", "command": ["sh", "-c", "kill -9 $$"], "restart": "no"})
    # PID 1 is immune to its own signals, so the shell lives on and the command ends by itself.
    declare("victim", SLEEP)
    os.kill(view(agent, "victim")["pid"], 9)
    assert ended(agent, "victim")["exit_code"] == 137


def test_a_second_declaration_changes_nothing(agent: AgentUnderTest, declare: Any) -> None:
    declare("same", {**SLEEP, "memory": "64m", "env": {"A": "1"}})
    pid = view(agent, "same")["pid"]
    again = declare(
        "same",
        {"command": "sleep 600", "image": "busybox", "stop_timeout": 0, "memory": 67108864, "env": ["A=1"]},
    )
    assert (again["changed"], again["actions"]) == (False, [])
    assert view(agent, "same")["pid"] == pid


def test_limits_change_live(agent: AgentUnderTest, declare: Any) -> None:
    declare("live", {**SLEEP, "memory": "64m", "pids_limit": 50})
    before = view(agent, "live")
    change = declare("live", {**SLEEP, "memory": "128m", "pids_limit": 60, "cpus": 0.5})
    after = view(agent, "live")
    assert [action["action"] for action in change["actions"]] == ["update"] * 3
    assert all("live" in action["reason"] for action in change["actions"])
    assert (after["pid"], after["id"]) == (before["pid"], before["id"])
    assert group_value(after["cgroup"], "memory.limit_in_bytes", "memory.max") == str(128 << 20)
    assert group_value(after["cgroup"], "pids.max") == "60"


def test_another_command_replaces_and_the_plan_says_why(agent: AgentUnderTest, declare: Any) -> None:
    declare("swap", SLEEP)
    before = view(agent, "swap")
    planned = declare("swap", {**SLEEP, "command": ["sleep", "601"]}, "?dry_run=true")
    assert view(agent, "swap") == before
    done = declare("swap", {**SLEEP, "command": ["sleep", "601"]})
    after = view(agent, "swap")
    assert planned["actions"] == done["actions"]
    assert "command" in done["actions"][0]["reason"]
    assert done["actions"][0]["action"] == "replace"
    assert after["id"] != before["id"]
    assert after["state"] == "running"


@pytest.mark.parametrize("order", ["stop_first", "start_first"])
def test_a_replacement_that_fails_leaves_the_old_one_running(
    agent: AgentUnderTest, declare: Any, order: str
) -> None:
    declare("brave", SLEEP)
    before = view(agent, "brave")
    status, message = refusal(
        agent, "brave", {**SLEEP, "command": ["/no/such/program"], "update_order": order}
    )
    after = view(agent, "brave")
    assert status == 400
    assert "brave" in message
    assert "/no/such/program" in message
    assert (after["id"], after["state"]) == (before["id"], "running")
    assert [
        each["name"] for each in agent.api("GET", "/mooring/v1/containers") if "brave" in each["name"]
    ] == ["brave"]


def test_dry_run_says_what_the_real_run_then_does(agent: AgentUnderTest, declare: Any) -> None:
    planned = declare("plan", SLEEP, "?dry_run=true")
    assert agent.request("GET", "/mooring/v1/containers/plan").status == 404
    done = declare("plan", SLEEP)
    assert {**done, "result": None} == planned


def test_a_stopped_container_is_declared_stopped(agent: AgentUnderTest, declare: Any) -> None:
    declare("rests", {**SLEEP, "state": "stopped"})
    assert view(agent, "rests")["state"] == "created"
    assert declare("rests", SLEEP)["actions"][0]["action"] == "start"
    assert declare("rests", {**SLEEP, "state": "stopped"})["actions"][0]["action"] == "stop"
    assert view(agent, "rests")["state"] == "exited"


def test_stop_asks_first_and_kills_then(agent: AgentUnderTest, declare: Any) -> None:
    script = "trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    declare("polite", {"image": "busybox", "command": ["sh", "-c", script]})
    eventually(lambda: lines(agent, "polite") == ["ready\n"], what="a shell that hears")
    agent.api("POST", "/mooring/v1/containers/polite/stop")
    assert view(agent, "polite")["exit_code"] == 3
    assert lines(agent, "polite") == ["ready\n", "asked\n"]
    declare(
        "deaf", {"image": "busybox", "command": ["sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"]}
    )
    agent.api("POST", "/mooring/v1/containers/deaf/stop?timeout=0.3")
    assert view(agent, "deaf")["exit_code"] == 137


def test_restart_policy_on_failure_is_bounded(agent: AgentUnderTest, declare: Any) -> None:
    declare(
        "tries", {"image": "busybox", "command": ["sh", "-c", "echo try; exit 1"], "restart": "on-failure:2"}
    )
    eventually(lambda: len(lines(agent, "tries")) == 3, what="three tries")
    found = ended(agent, "tries")
    assert found["restart_count"] == 2


def test_restart_always_brings_it_back_until_it_is_stopped(agent: AgentUnderTest, declare: Any) -> None:
    declare("back", {**SLEEP, "restart": "always"})
    first = view(agent, "back")["pid"]
    os.kill(first, 9)
    eventually(lambda: view(agent, "back")["pid"] not in (None, first), what="a new process")
    agent.api("POST", "/mooring/v1/containers/back/stop")
    assert view(agent, "back")["state"] == "exited"


def test_a_published_port_answers_and_a_second_user_is_refused(agent: AgentUnderTest, declare: Any) -> None:
    server = ["sh", "-c", "mkdir -p /www && echo works > /www/index.html && httpd -f -p 80 -h /www"]
    declare("web", {"image": "busybox", "command": server, "ports": ["127.0.0.1::80"]})
    port = view(agent, "web")["ports"][0]["host"]

    def page() -> str:
        with closing(socket.create_connection(("127.0.0.1", port), 2)) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return connection.makefile().read()

    def answers() -> bool:
        try:
            return "works" in page()
        except OSError:
            return False

    eventually(answers, what="the page")
    status, message = refusal(agent, "second", {**SLEEP, "ports": [f"127.0.0.1:{port}:80"]})
    assert status == 409
    assert str(port) in message
    assert "web" in message
    assert agent.request("GET", "/mooring/v1/containers/second").status == 404
    with closing(socket.socket()) as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        taken = holder.getsockname()[1]
        status, message = refusal(agent, "third", {**SLEEP, "ports": [f"127.0.0.1:{taken}:80"]})
    assert status == 409
    assert str(taken) in message


def test_volumes_bind_named_and_tmpfs(agent: AgentUnderTest, declare: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("from the host\n")
    volumes = [
        f"{tmp_path}:/bound:ro",
        "mrgt-data:/data",
        {"type": "tmpfs", "target": "/scratch", "size": "1m"},
    ]
    declare("mounts", {**SLEEP, "volumes": volumes})
    assert run(agent, "mounts", "cat", "/bound/file")["stdout"] == "from the host\n"
    assert run(agent, "mounts", "touch", "/bound/other")["exit_code"] != 0
    run(agent, "mounts", "sh", "-c", "echo kept > /data/note; echo gone > /scratch/note")
    agent.api("DELETE", "/mooring/v1/containers/mounts")
    declare("mounts", {**SLEEP, "volumes": volumes})
    assert run(agent, "mounts", "cat", "/data/note")["stdout"] == "kept\n"
    assert run(agent, "mounts", "cat", "/scratch/note")["exit_code"] != 0
    agent.api("DELETE", "/mooring/v1/containers/mounts")
    agent.api("DELETE", "/mooring/v1/volumes/mrgt-data")


def test_user_environment_and_working_directory(agent: AgentUnderTest, declare: Any) -> None:
    spec = {**SLEEP, "user": "1000:1001", "env": {"COLOUR": "blue"}, "workdir": "/made/for/it"}
    declare("who", spec)
    seen = run(agent, "who", "sh", "-c", "id -u; id -g; echo $COLOUR; pwd")
    assert seen["stdout"].split() == ["1000", "1001", "blue", "/made/for/it"]
    assert run(agent, "who", "id", "-u", user="0")["stdout"] == "0\n"


def test_exec_feeds_input_captures_output_and_has_a_deadline(agent: AgentUnderTest, declare: Any) -> None:
    declare("execs", SLEEP)
    assert run(agent, "execs", "cat", stdin="through\n")["stdout"] == "through\n"
    failed = run(agent, "execs", "sh", "-c", "echo wrong >&2; exit 4")
    assert (failed["exit_code"], failed["stderr"]) == (4, "wrong\n")
    late = run(agent, "execs", "sleep", "60", timeout=0.3)
    assert late["timed_out"]
    large = run(agent, "execs", "sh", "-c", "yes | head -c 300000", max_output=1000)
    assert (large["truncated"], len(large["stdout"])) == (True, 1000)
    missing = agent.request("POST", "/mooring/v1/containers/execs/exec", {"argv": ["nothing-like-it"]})
    assert "nothing-like-it" in missing.json()["message"]


def test_memory_beyond_the_limit_is_an_oom_kill(agent: AgentUnderTest, declare: Any) -> None:
    declare(
        "greedy",
        {"image": "busybox", "command": ["tail", "/dev/zero"], "memory": "16m", "memory_swap": "16m"},
    )
    found = eventually(lambda: (seen := view(agent, "greedy"))["state"] == "exited" and seen, 30)
    assert (found["exit_code"], found["oom_killed"]) == (137, True)


def test_a_declared_cgroup_holds_its_containers(agent: AgentUnderTest, declare: Any) -> None:
    agent.api("PUT", "/mooring/v1/cgroups/team", {"memory": "256m"})
    declare("member", {**SLEEP, "cgroup": "team"})
    group = view(agent, "member")["cgroup"]
    assert group.split("/")[-2] == "team"
    assert agent.request("DELETE", "/mooring/v1/cgroups/team").status == 409
    agent.api("DELETE", "/mooring/v1/containers/member")
    assert agent.api("DELETE", "/mooring/v1/cgroups/team")["changed"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ({"image": "no-such-image", "pull": "never"}, ["no-such-image"]),
        ({**SLEEP, "memory": -5}, ["memory", "-5"]),
        ({**SLEEP, "memroy": "64m"}, ["memroy", "memory"]),
        ({**SLEEP, "networks": ["nowhere"]}, ["nowhere"]),
        ({**SLEEP, "cgroup": "nowhere"}, ["nowhere"]),
        ({**SLEEP, "volumes": ["/no/such/directory:/x"]}, ["/no/such/directory"]),
        ({**SLEEP, "command": ["/no/such/program"]}, ["/no/such/program"]),
        ({**SLEEP, "user": "nobody-like-this"}, ["nobody-like-this"]),
        ({**SLEEP, "ports": ["70000:80"]}, ["70000"]),
        ({**SLEEP, "cap_add": ["FLY"]}, ["FLY"]),
    ],
    ids=lambda value: next(iter(set(value) - set(SLEEP)), "image") if isinstance(value, dict) else "",
)
def test_bad_input_is_one_clear_sentence_and_leaves_nothing(
    agent: AgentUnderTest, spec: dict[str, Any], words: list[str]
) -> None:
    before = remains(agent)
    status, message = refusal(agent, "bad", spec)
    assert 400 <= status <= 501
    assert "\n" not in message
    for word in words:
        assert word in message
    assert remains(agent) == before


def test_a_name_with_a_slash_is_refused(agent: AgentUnderTest) -> None:
    response = agent.request("PUT", "/mooring/v1/state", {"containers": {"a/b": SLEEP}})
    item = response.json()["items"][0]
    assert "a/b" in item["error"]["message"]


def test_an_image_for_another_processor_says_so(agent: AgentUnderTest, busybox_rootfs: Path) -> None:
    other = "arm64" if os.uname().machine == "x86_64" else "amd64"
    agent.docker("import", "--platform", f"linux/{other}", str(busybox_rootfs), "foreign")
    status, message = refusal(agent, "foreign", {**SLEEP, "image": "foreign"})
    assert status == 400
    assert other in message
    assert agent.request("GET", "/mooring/v1/containers/foreign").status == 404


def remains(agent: AgentUnderTest) -> tuple[set[str], ...]:
    """What a half made container would have left: directories, layers, groups, addresses."""
    data = agent.config.data_root
    state = agent.api("GET", "/mooring/v1/host")
    groups = {
        str(path)
        for mount in cgroup_mounts()
        for path in (mount / agent.config.cgroup_parent).glob("*/")
        if not path.name.startswith("slot-")
    }
    return ({json.dumps(state["containers"])}, set(os.listdir(data / "containers")), groups)


@pytest.mark.parametrize("order", ["stop_first", "start_first"])
def test_a_container_with_a_fixed_port_is_replaced(agent: AgentUnderTest, declare: Any, order: str) -> None:
    spec = {**SLEEP, "ports": ["127.0.0.1:18673:80"], "update_order": order}
    declare("fixed", spec)
    before = view(agent, "fixed")["id"]
    declare("fixed", {**spec, "env": {"A": "2"}})
    after = view(agent, "fixed")
    assert after["id"] != before
    assert [port["host"] for port in after["ports"]] == [18673]
    # One that cannot start leaves the port with the one that runs on.
    refusal(agent, "fixed", {**spec, "command": ["/no/such/program"]})
    assert [port["host"] for port in view(agent, "fixed")["ports"]] == [18673]
    assert view(agent, "fixed")["id"] == after["id"]
