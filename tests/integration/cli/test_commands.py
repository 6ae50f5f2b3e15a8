# SPDX-License-Identifier: Apache-2.0
"""`mooring …` against a real agent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.claims import free_port
from harness.host import missing_feature
from harness.waiting import PATIENCE, eventually

pytestmark = pytest.mark.root

Mooring = Callable[..., subprocess.CompletedProcess[str]]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "mooring_agent", *arguments]


def own_address() -> str:
    """An IPv4 address of this machine's own interfaces."""
    argv = ["ip", "-json", "-4", "address", "show", "scope", "global"]
    links = json.loads(subprocess.run(argv, check=True, capture_output=True, timeout=10).stdout)
    return next(
        str(address["local"])
        for link in links
        for address in link["addr_info"]
        if not link["ifname"].startswith("mr")
    )


def environment(agent: AgentUnderTest) -> dict[str, str]:
    return {**os.environ, "MOORING_SOCKET": str(agent.socket)}


@pytest.fixture
def mooring(agent: AgentUnderTest) -> Iterator[Mooring]:
    """Return a function that runs a command; with `check`, it must end with 0."""

    def run(*arguments: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command(*arguments),
            input=stdin,
            capture_output=True,
            env=environment(agent),
            timeout=60,
            check=False,
        )
        text = subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )
        assert not check or text.returncode == 0, text.stderr
        assert "Traceback" not in text.stderr
        return text

    yield run
    for view in agent.api("GET", "/mooring/v1/containers"):
        agent.api("DELETE", f"/mooring/v1/containers/{view['name']}?timeout=0")


def test_run(mooring: Mooring) -> None:
    done = mooring("run", "--rm", "busybox", "sh", "-c", "echo out; echo err >&2; exit 9", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (9, "out\n", "err\n")
    assert mooring("run", "--rm", "-i", "busybox", "cat", stdin=b"x\n").stdout == "x\n"
    assert mooring("ps", "-aq").stdout == ""


def test_a_container_from_run_to_rm(mooring: Mooring) -> None:
    ticks = "while true; do echo tick; sleep 0.1; done"
    mooring("run", "-d", "--name", "one", "-m", "64m", "-p", "80", "busybox", "sh", "-c", ticks)
    listed = mooring("ps").stdout.splitlines()
    assert listed[0].split()[:2] == ["NAME", "STATE"]
    assert listed[1].split()[:3] == ["one", "running", "busybox"]
    assert json.loads(mooring("ps", "-o", "json").stdout)[0]["spec"]["memory"] == 64 << 20
    assert mooring("exec", "one", "sh", "-c", "exit 4", check=False).returncode == 4
    assert mooring("exec", "-i", "-u", "1000", "one", "sh", stdin=b"id -u\n").stdout == "1000\n"
    eventually(lambda: mooring("logs", "-n", "2", "one").stdout == "tick\ntick\n", what="two lines")
    assert mooring("logs", "--since", "1h", "--until", "30m", "one").stdout == ""
    assert mooring("stop", "-t", "0", "one").stdout == "one\n"
    assert "exited (137)" in mooring("ps", "-a").stdout
    mooring("start", "one")
    mooring("restart", "-t", "0", "one")
    refused = mooring("rm", "one", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    mooring("rm", "-f", "one")
    assert mooring("ps", "-aq").stdout == ""


def test_drain(mooring: Mooring, agent: AgentUnderTest) -> None:
    shared = {"container": 80, "host": free_port(), "balance": "source"}
    spec = {"image": "busybox", "command": ["sleep", "600"], "ports": [shared], "stop_timeout": 0}
    path = "/mooring/v1/containers/shared"
    agent.api("PUT", path, spec)
    done = mooring("drain", "-t", "5", "shared")
    assert (done.stdout, done.stderr) == ("shared\n", "")
    assert agent.api("GET", path)["spec"]["ports"][0]["weight"] == 0
    refused = mooring("drain", "nobody", check=False)
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    agent.api("DELETE", path)


def test_ctrl_c_reaches_the_container(mooring: Mooring, agent: AgentUnderTest) -> None:
    script = "trap 'echo caught; exit 3' INT; echo ready; while true; do sleep 0.05; done"
    running = subprocess.Popen(
        command("run", "--rm", "busybox", "sh", "-c", script), stdout=subprocess.PIPE, env=environment(agent)
    )
    assert running.stdout is not None
    assert running.stdout.readline() == b"ready\n"
    running.send_signal(signal.SIGINT)
    assert running.stdout.read() == b"caught\n"
    assert running.wait(10) == 3
    running.stdout.close()


def test_follow_ends_with_the_container(mooring: Mooring) -> None:
    script = "for i in 1 2 3; do echo $i; sleep 0.1; done"
    mooring("run", "-d", "--name", "short", "busybox", "sh", "-c", script)
    assert mooring("logs", "-f", "short").stdout == "1\n2\n3\n"


def test_a_reader_that_leaves_is_no_error(agent: AgentUnderTest, mooring: Mooring) -> None:
    mooring("run", "--name", "much", "busybox", "seq", "1", "20000")
    line = f"{' '.join(command('logs', 'much'))} | head -1"
    done = subprocess.run(
        ["sh", "-c", line], capture_output=True, env=environment(agent), timeout=30, check=False
    )
    assert (done.stdout, done.stderr) == (b"1\n", b"")


def test_images(mooring: Mooring, busybox_rootfs: Path, tmp_path: Path) -> None:
    made = mooring("image", "import", "--cmd", "echo by path", str(busybox_rootfs), "cli-path:1")
    assert "create image cli-path:1" in made.stdout
    assert made.stderr
    assert mooring("image", "import", "--cmd", "echo by path", str(busybox_rootfs), "cli-path:1").stdout == (
        "unchanged\n"
    )
    piped = mooring(
        "image", "import", "--cmd", "echo piped", "-", "cli-pipe:1", stdin=busybox_rootfs.read_bytes()
    )
    assert piped.stdout.startswith("sha256:")
    assert mooring("image", "template", "--dry-run", "busybox", "cli-new:1").stdout.startswith("would create")
    wanted = ["ubuntu", "cli-new:1", "--mirror", "http://x/", "--component", "main", "--max-age", "1d"]
    assert mooring("image", "template", "--dry-run", *wanted).stdout.startswith("would create")
    metadata = tmp_path / "metadata.yaml"
    metadata.write_text("architecture: x86_64\nproperties: {os: Debian}\n")
    mooring("image", "import", "--metadata", str(metadata), str(busybox_rootfs), "cli-lxc:1")
    assert '"image.os": "Debian"' in mooring("image", "inspect", "cli-lxc:1").stdout
    refused = mooring("image", "import", "--metadata", str(metadata), "-", "cli-lxc:2", check=False)
    assert "--metadata goes with a file" in refused.stderr
    mooring("image", "rm", "cli-lxc:1")
    assert mooring("run", "--rm", "cli-path:1").stdout == "by path\n"
    assert mooring("run", "--rm", "cli-pipe:1").stdout == "piped\n"
    names = {row.split()[0] for row in mooring("images").stdout.splitlines()}
    assert {"cli-path:1", "cli-pipe:1"} <= names
    mooring("image", "rm", "cli-path:1", "cli-pipe:1")
    broken = mooring("image", "import", "-", "cli-broken:1", stdin=b"no tar" * 500, check=False)
    assert (broken.returncode, broken.stderr.count("mooring: ")) == (1, 1)


DOCUMENT = """
images: {busybox: {template: busybox}}
networks: {cli-front: {}}
volumes: {cli-content: {}}
cgroups: {cli-batch: {memory: 256m}}
containers:
  cli-web:
    image: busybox
    command: [sleep, "600"]
    networks: [cli-front]
    memory: 64m
    stop_timeout: 0
    volumes: ["cli-content:/srv"]
"""


def test_a_document_is_planned_applied_changed_pruned(mooring: Mooring, tmp_path: Path) -> None:
    file = tmp_path / "host.yml"
    file.write_text(DOCUMENT)
    planned = mooring("plan", "-f", str(file)).stdout
    assert "would create container cli-web" in planned
    assert "4 would change, 1 unchanged" in planned
    assert "4 changed, 1 unchanged, 0 failed" in mooring("apply", "-f", str(file)).stdout
    assert mooring("apply", "-f", str(file)).stdout == "0 changed, 5 unchanged, 0 failed\n"
    changed = mooring("apply", "--diff", "-f", "-", stdin=DOCUMENT.replace("64m", "128m").encode()).stdout
    assert "update container cli-web: memory 64m → 128m, live" in changed
    assert '-  "memory": 67108864' in changed
    answer = json.loads(
        mooring(
            "apply", "--prune", "-o", "json", "-f", "-", stdin=b"images: {busybox: {template: busybox}}"
        ).stdout
    )
    assert {item["name"] for item in answer["items"]} >= {"cli-web", "cli-front", "cli-content", "cli-batch"}
    assert mooring("ps", "-aq").stdout == ""


def test_a_document_that_fails_in_part(mooring: Mooring) -> None:
    document = b"containers: {cli-bad: {image: busybox, memroy: 3}, cli-worse: {image: nosuch}}"
    done = mooring("apply", "-f", "-", stdin=document, check=False)
    assert done.returncode == 1
    assert 'did you mean "memory"?' in done.stderr
    assert "nosuch" in done.stderr
    assert "2 failed" in done.stdout


@pytest.mark.parametrize(("document", "part"), [(b"x: [", "is no YAML"), (b"- a", "holds no mapping")])
def test_what_is_no_document(mooring: Mooring, document: bytes, part: str) -> None:
    done = mooring("apply", "-f", "-", stdin=document, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert part in done.stderr


def test_declared_resources(mooring: Mooring) -> None:
    mooring("network", "create", "cli-net", "--internal")
    assert "cli-net  bridge" in " ".join(mooring("network", "ls").stdout.splitlines())
    mooring("cgroup", "set", "cli-group", "--memory", "64m", "--pids-limit", "9")
    assert "memory 64m, pids_limit 9" in mooring("cgroup", "ls").stdout
    assert json.loads(mooring("cgroup", "inspect", "cli-group").stdout)[0]["spec"]["memory"] == 64 << 20
    mooring("volume", "create", "cli-vol", "-l", "a=b")
    assert json.loads(mooring("inspect", "cli-vol").stdout)[0]["labels"] == {"a": "b"}
    for kind, name in (("network", "cli-net"), ("cgroup", "cli-group"), ("volume", "cli-vol")):
        assert mooring(kind, "rm", name).stdout == f"{name}\n"
        again = mooring(kind, "rm", name, check=False)
        assert (again.returncode, again.stderr.count("\n")) == (1, 1)


def test_containers_come_onto_networks_and_leave_them(mooring: Mooring) -> None:
    mooring("network", "create", "cli-blue", "--subnet", "10.76.1.0/24", "--subnet6", "fd00:76:1::/64")
    mooring("network", "create", "cli-red", "--no-ipv4", "--ipv6", "--mtu", "1400")
    listed = " ".join(mooring("network", "ls").stdout.split())
    assert "cli-blue bridge 10.76.1.0/24, fd00:76:1::/64 10.76.1.1, fd00:76:1::1 nat" in listed
    endpoint = "name=cli-blue,ip=10.76.1.7,ip6=fd00:76:1::7,alias=www"
    mooring("run", "-d", "--name", "cli-on", "--network", endpoint, "busybox", "sleep", "600")
    mooring("network", "connect", "cli-red", "cli-on", "--default-route")
    assert "default via fd" in mooring("exec", "cli-on", "ip", "-6", "route").stdout
    view = json.loads(mooring("inspect", "cli-on").stdout)[0]
    assert view["networks"]["cli-blue"]["ipv4_address"] == "10.76.1.7"
    assert view["networks"]["cli-red"]["interface"] == "eth1"
    mooring("network", "disconnect", "cli-red", "cli-on")
    assert "eth1" not in mooring("exec", "cli-on", "ip", "link").stdout
    again = mooring("network", "disconnect", "cli-red", "cli-on", check=False)
    assert again.stderr.count("is not on network cli-red") == 1
    mooring("rm", "-f", "cli-on")
    mooring("network", "rm", "cli-blue", "cli-red")


def test_run_says_what_docker_has_no_words_for(mooring: Mooring) -> None:
    mooring("network", "create", "cli-router", "--subnet", "10.76.2.0/24")
    port = free_port()
    words = (
        *("--network", "name=cli-router,spoofing", "--network-class", "1:10", "--drain", "0"),
        *("--log-opt", "max-size=1m", "--network-limit", "out=50mbit", "busybox", "httpd", "-f", "-p", "80"),
    )
    for name, weight in (("cli-one", 1), ("cli-two", 3)):
        mooring("run", "-d", "--name", name, "-p", f"{port}:80,balance=round_robin,weight={weight}", *words)
    views = json.loads(mooring("inspect", "cli-one", "cli-two").stdout)
    assert [view["spec"]["ports"][0].get("weight", 1) for view in views] == [1, 3]
    assert [view["ports"][0]["host"] for view in views] == [port, port]
    for view in views:
        assert view["spec"]["networks"] == [{"name": "cli-router", "spoofing": "allowed"}]
        assert (view["spec"]["network_class"], view["spec"]["drain"]) == ("1:10", 0)
        assert view["spec"]["log"] == {"max_size": 1 << 20}

    mooring("update", "cli-one", "--no-network-class", "--network-limit", "out=20mbit")
    [view] = json.loads(mooring("inspect", "cli-one").stdout)
    assert "network_class" not in view["spec"]
    mooring("update", "cli-one", "--network-class", "1:20", "--no-network-limit")
    [view] = json.loads(mooring("inspect", "cli-one").stdout)
    assert (view["spec"]["network_class"], view["spec"].get("network_limits")) == ("1:20", None)
    mooring("network", "create", "cli-other")
    mooring("network", "connect", "cli-other", "cli-one", "--spoofing")
    [view] = json.loads(mooring("inspect", "cli-one").stdout)
    assert view["spec"]["networks"][1] == {"name": "cli-other", "spoofing": "allowed"}
    mooring("rm", "-f", "cli-one", "cli-two")
    mooring("network", "rm", "cli-router", "cli-other")


def test_an_overlay_is_declared(mooring: Mooring) -> None:
    words = ("--subnet", "10.254.0.0/16", "--overlay", "here=127.0.0.2", "--slice-prefix", "28")
    done = mooring("network", "create", "cli-mesh", *words, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "host here has the address '127.0.0.2', expected that of an interface" in done.stderr
    own = own_address()
    mesh = (
        *("network", "create", "cli-mesh", "--subnet", "10.254.0.0/16", "--ipv6", "--host", "here"),
        *("--overlay", f"here={own},slice=7", "--overlay", "there=192.0.2.9,slice=8", "--slice-prefix", "28"),
    )
    assert mooring(*mesh).stdout == "create network cli-mesh: it does not exist\n"
    assert mooring(*mesh).stdout == "unchanged\n"
    [view] = json.loads(mooring("network", "inspect", "cli-mesh").stdout)
    assert (view["overlay"]["host"], view["gateway"]) == ("here", "10.254.0.113")
    mooring("network", "rm", "cli-mesh")


def test_key_of_the_host_is_told_where_the_kernel_has_wireguard(mooring: Mooring) -> None:
    asked = mooring("network", "key", check=False)
    if missing_feature("wireguard") is not None:
        assert "has no WireGuard; load the module wireguard" in asked.stderr
        assert mooring("network", "key", "--renew", check=False).stderr == asked.stderr
        return
    assert asked.stdout == mooring("network", "key").stdout
    assert len(asked.stdout.strip()) == 44
    renewed = mooring("network", "key", "--renew")
    assert asked.stdout != renewed.stdout == mooring("network", "key").stdout


def test_encrypted_network_says_whose_keys_it_lacks(mooring: Mooring) -> None:
    words = "--encryption", "wireguard", "--subnet", "10.78.0.0/16", "--overlay", "a=192.0.2.1"
    refused = mooring("network", "create", "cli-mesh", *words, check=False)
    assert "has no public key of a: ask each host for its own (mooring network key)" in refused.stderr
    refused = mooring("network", "create", "cli-mesh", *words, "--public-key", "b=K", check=False)
    assert "--public-key names b, which no --overlay names" in refused.stderr


def test_host_and_version(mooring: Mooring) -> None:
    assert "cgroups" in mooring("host").stdout
    assert mooring("version").stdout.startswith("client ")


def test_events(agent: AgentUnderTest, mooring: Mooring) -> None:
    begun = time.time()
    mooring("run", "--rm", "--name", "seen", "busybox", "true")
    listed = mooring("events", "--since", f"{begun:.6f}", "--until", f"{time.time() + 0.2:.6f}").stdout
    assert " container start seen " in listed


def test_dial_stdio_carries_http(mooring: Mooring) -> None:
    request = b"GET /_ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert mooring("system", "dial-stdio", stdin=request).stdout.endswith("\r\n\r\nOK")


def test_down_leaves_nothing(start_agent: Callable[..., AgentUnderTest]) -> None:
    under_test = start_agent()
    under_test.api("PUT", "/mooring/v1/containers/sleeper", {"image": "busybox", "command": ["sleep", "600"]})
    process = under_test.process
    assert process is not None
    # The agent is our child here: somebody has to take its exit status while the command waits for its end.
    down = subprocess.Popen(command("system", "down"), env=environment(under_test), stdout=subprocess.DEVNULL)
    assert process.wait(30 * PATIENCE) == 0
    assert down.wait(40 * PATIENCE) == 0
    assert under_test.traces.remains() == []
    under_test.process = None
    under_test.start()


def test_two_agents_on_one_socket(agent: AgentUnderTest, tmp_path: Path) -> None:
    roots = ["--data-root", str(tmp_path / "d"), "--run-root", str(tmp_path / "r")]
    done = subprocess.run(
        command("agent", *roots, "--socket", str(agent.socket)), capture_output=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert b"another agent answers" in done.stderr
    assert not (tmp_path / "d").exists()
    assert agent.request("GET", "/_ping").status == 200
