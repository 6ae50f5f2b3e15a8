# SPDX-License-Identifier: Apache-2.0
"""The grammar of the command line, and what of it needs no agent."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.docker.convert import convert
from mooring_agent.api.duplex import frame
from mooring_agent.cli.arguments import parser
from mooring_agent.cli.client import Client, segment
from mooring_agent.cli.containers import moment
from mooring_agent.cli.dispatch import dispatch
from mooring_agent.cli.frames import FrameReader
from mooring_agent.cli.images import _changes, _config, _split
from mooring_agent.cli.main import main
from mooring_agent.cli.outcomes import difference, line
from mooring_agent.cli.output import size, table
from mooring_agent.cli.run import _body
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.errors import InvalidSpec, Unavailable


def body(*words: str) -> dict[str, Any]:
    return _body(parser().parse_args(["run", *words]))


def spec(*words: str) -> dict[str, Any]:
    given = convert(body(*words)).spec
    ContainerSpec.parse(given)
    return {key: value for key, value in given.items() if key not in ("image", "networks")}


def test_run_says_which_networks_and_names_it_was_told() -> None:
    words = ("--network", "name=blue,ip=10.0.0.7,ip6=fd00::7,alias=a,alias=b,sysctl=net.ipv4.conf.IFNAME.x=1")
    more = ("--network", "red", "--dns", "192.0.2.53", "--add-host", "db:192.0.2.7", "--link", "db:database")
    converted = convert(body(*words, *more, "web:1"))
    assert converted.links == (("db", "database"),)
    parsed = ContainerSpec.parse(converted.spec)
    assert [str(network) for network in parsed.networks] == ["blue=10.0.0.7,fd00::7", "red"]
    assert parsed.networks[0].aliases == ("a", "b")
    assert parsed.networks[0].sysctls == {"net.ipv4.conf.IFNAME.x": "1"}
    assert (parsed.dns, parsed.extra_hosts) == (("192.0.2.53",), {"db": "192.0.2.7"})
    assert ContainerSpec.parse(convert(body("--network", "red", "web:1")).spec).networks[0].name == "red"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name=blue,colour=red", "'colour=red': expected NAME, or parts of alias"),
        ("ip=10.0.0.7", "names no network"),
        ("name=blue,ip=10.0.0.7,ip=10.0.0.8", "ip twice"),
        ("name=blue,default-route=no", "'default-route=no': expected NAME, or parts of alias"),
        ("name=blue,ip", "'ip': expected NAME, or parts of alias"),
    ],
)
def test_networks_that_are_not_understood(text: str, why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        body("--network", text, "web:1")


def test_a_network_that_is_named_twice_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="names blue twice"):
        body("--network", "name=blue,ip=10.0.0.7", "--network", "blue", "web:1")


def test_run_says_what_it_was_told() -> None:
    assert spec("web:1", "sh", "-c", "x -y") == {"command": ["sh", "-c", "x -y"]}
    assert spec("-it", "web:1") == {"tty": True, "interactive": True}
    assert spec("-m", "64m", "--memory-swap", "-1", "--cpus", "1.5", "--pids-limit", "9", "web:1") == {
        "memory": 64 << 20,
        "memory_swap": -1,
        "cpus": 1.5,
        "pids_limit": 9,
    }
    assert spec("-p", "8080:80", "-p", "127.0.0.1::53/udp", "web:1")["ports"] == [
        {"container": 80, "protocol": "tcp", "host": 8080},
        {"container": 53, "protocol": "udp", "host_ip": "127.0.0.1"},
    ]
    assert spec("-v", "/a:/b:ro", "--tmpfs", "/t:size=1m", "web:1")["volumes"] == [
        {"type": "bind", "source": "/a", "target": "/b", "create_host_path": True, "read_only": True},
        {"type": "tmpfs", "target": "/t", "size": 1 << 20},
    ]
    assert spec("--restart", "on-failure:3", "-l", "a=b", "--entrypoint", "e f", "web:1") == {
        "restart": "on-failure:3",
        "labels": {"a": "b"},
        "entrypoint": ["e", "f"],
    }
    assert convert(body("--network", "n1", "--network", "n2", "web:1")).spec["networks"] == [
        {"name": "n1"},
        {"name": "n2"},
    ]
    assert convert(body("--rm", "web:1")).auto_remove


def test_run_says_how_it_is_asked_whether_it_is_healthy() -> None:
    times = ("--health-interval", "1m30s", "--health-timeout", "2", "--health-start-period", "500ms")
    given = spec("--health-cmd", "true", *times, "--health-retries", "4", "web:1")
    assert ContainerSpec.parse({"image": "web:1", **given}).given["healthcheck"] == {
        "test": ["CMD-SHELL", "true"],
        "interval": 90,
        "timeout": 2,
        "start_period": "500ms",
        "retries": 4,
    }
    assert spec("--no-healthcheck", "web:1") == {"healthcheck": {"test": ["NONE"]}}
    with pytest.raises(InvalidSpec, match="--no-healthcheck cannot be combined"):
        body("--no-healthcheck", "--health-retries", "4", "web:1")
    with pytest.raises(InvalidSpec, match='--health-timeout is "soon", expected a number of seconds'):
        body("--health-timeout", "soon", "web:1")


def test_run_opens_and_closes_a_container(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text('{"defaultAction": "SCMP_ACT_ALLOW"}')
    given = spec(
        *("--init", "--userns", "auto", "--uts", "host", "--ipc", "shareable", "--cgroupns", "host"),
        *("--security-opt", f"seccomp={profile}", "--security-opt", "apparmor=web", "--no-new-privileges"),
        *("--device", "/dev/fuse:r", "--device-cgroup-rule", "c 1:1 r", "--ulimit", "nofile=5:6"),
        *("--sysctl", "net.core.somaxconn=9", "--shm-size", "1m", "--group-add", "7"),
        *("--oom-score-adj", "5", "--tmpfs", "/t:mode=700", "web:1"),
    )
    assert ContainerSpec.parse({"image": "web:1", **given}).given == {
        "image": "web:1",
        "init": True,
        "userns": "auto",
        "uts": "host",
        "ipc": "shareable",
        "cgroupns": "host",
        "seccomp": {"defaultAction": "SCMP_ACT_ALLOW"},
        "apparmor": "web",
        "no_new_privileges": True,
        "devices": [{"host": "/dev/fuse", "container": "/dev/fuse", "access": "r"}],
        "device_cgroup_rules": ["c 1:1 r"],
        "ulimits": {"nofile": "5:6"},
        "sysctls": {"net.core.somaxconn": "9"},
        "shm_size": 1 << 20,
        "group_add": ["7"],
        "oom_score_adj": 5,
        "volumes": [{"type": "tmpfs", "target": "/t", "options": ["mode=700"]}],
    }
    assert spec("--privileged", "--pid", "host", "web:1") == {"privileged": True, "pid": "host"}


def test_variables_without_a_value_come_from_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    assert spec("-e", "A=1", "-e", "HERE", "-e", "NOT_HERE", "web:1")["env"] == {"A": "1", "HERE": "yes"}


@pytest.mark.parametrize("words", [("-p", "x", "w"), ("--restart", "on-failure:x", "w"), ("-m", "much", "w")])
def test_bad_options_are_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(InvalidSpec):
        body(*words)


def test_the_separator_is_no_part_of_the_command() -> None:
    assert spec("web:1", "--", "ls")["command"] == ["ls"]


@pytest.mark.parametrize("argv", [["ps", "--nope"], ["nosuch"], [], ["rm"], ["apply"]])
def test_usage_errors_are_one_line_and_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("mooring")
    assert error.count("\n") == 1


def test_the_socket_may_be_named_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in (["--socket", "/x", "ps"], ["ps", "--socket", "/x"]):
        assert parser().parse_args(argv).socket == "/x"
    assert not hasattr(parser().parse_args(["ps"]), "socket")
    monkeypatch.setenv("MOORING_SOCKET", "/y")
    assert Client().path == Path("/y")
    assert Client("/x").path == Path("/x")


def test_no_agent_is_one_line_and_status_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["--socket", str(tmp_path / "none.sock"), "ps"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("mooring: no agent answers on ")
    assert error.count("\n") == 1
    with pytest.raises(Unavailable):
        Client(tmp_path / "none.sock").call("GET", "/_ping")


def test_every_command_names_a_function_that_is_there() -> None:
    import argparse
    import importlib

    def leaves(each: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
        nested = [action for action in each._actions if isinstance(action, argparse._SubParsersAction)]
        if not nested:
            return [each]
        return [leaf for action in nested for child in action.choices.values() for leaf in leaves(child)]

    calls = [leaf.get_default("call") for leaf in leaves(parser())]
    assert len(calls) > 25
    for call in calls:
        module, _, function = call.partition(".")
        assert callable(getattr(importlib.import_module(f"mooring_agent.cli.{module}"), function))


@given(
    st.lists(st.tuples(st.sampled_from([1, 2]), st.binary(max_size=20)), max_size=8),
    st.integers(1, 30),
)
def test_frames_survive_any_cut(pieces: list[tuple[int, bytes]], cut: int) -> None:
    wire = b"".join(frame(stream, data) for stream, data in pieces)
    reader = FrameReader()
    found = {1: b"", 2: b""}
    for start in range(0, len(wire), cut):
        for stream, data in reader.feed(wire[start : start + cut]):
            found[stream] += data
    for stream in (1, 2):
        assert found[stream] == b"".join(data for number, data in pieces if number == stream)


def test_image_options_as_a_config_and_as_instructions() -> None:
    words = ["image", "import", "-", "my/web:2", "--cmd", "sh -c 'a b'", "-e", "A=x y", "-l", "k=v"]
    arguments = parser().parse_args([*words, "--expose", "80"])
    assert _config(arguments) == {
        "cmd": ["sh", "-c", "a b"],
        "env": {"A": "x y"},
        "labels": {"k": "v"},
        "exposed_ports": ["80"],
    }
    assert list(_changes(arguments)) == [
        'CMD ["sh", "-c", "a b"]',
        "ENV 'A=x y'",
        "LABEL k=v",
        "EXPOSE 80",
    ]


@pytest.mark.parametrize(
    ("reference", "parts"),
    [
        ("a", ("a", "")),
        ("a:1", ("a", "1")),
        ("h:5000/a", ("h:5000/a", "")),
        ("h:5000/a:1", ("h:5000/a", "1")),
    ],
)
def test_references_are_split_at_the_tag(reference: str, parts: tuple[str, str]) -> None:
    assert _split(reference) == parts


@pytest.mark.parametrize(
    ("text", "expected"),
    [("10m", "400.000000"), ("1.5h", "-4400.000000"), ("", None), ("2024-01-01", "2024-01-01")],
)
def test_spans_before_now(text: str, expected: str | None) -> None:
    assert moment(text, 1000.0) == expected


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0B"), (999, "999B"), (2_002_944, "2MB"), (25_276_502_016, "25.3GB"), (None, "-")]
)
def test_sizes(count: int | None, text: str) -> None:
    assert size(count) == text


def test_tables_align(capsys: pytest.CaptureFixture[str]) -> None:
    table(("A", "B"), [("long one", "x")])
    assert capsys.readouterr().out == "A         B\nlong one  x\n"


def test_paths_escape_what_would_end_them() -> None:
    assert segment("a/b?c") == "a%2Fb%3Fc"
    assert segment("reg:5000/a/b:1", slashes=True) == "reg:5000/a/b:1"


def test_actions_and_differences_are_told() -> None:
    action = {"action": "update", "kind": "container", "name": "web1", "reason": "memory 64m → 128m, live"}
    assert line(action, dry_run=True) == "would update container web1: memory 64m → 128m, live"
    assert '-  "a": 1' in difference({"a": 1}, {"a": 2}, "x")
    assert difference({"a": 1}, {"a": 1}, "x") == ""


def test_the_command_line_imports_little() -> None:
    code = (
        "import sys, mooring_agent.cli.dispatch, mooring_agent.cli.containers; "
        "print(*sorted(name for name in ('asyncio', 'h11', 'sqlite3', 'yaml', 'ctypes', 'subprocess') "
        "if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.strip() == ""


def test_the_keeper_is_reached_before_anything_else_is_imported() -> None:
    code = (
        "import sys; before = set(sys.modules); from mooring_agent.cli.main import main; "
        "new = set(sys.modules) - before; "
        "print(*sorted(name for name in new if not name.startswith('mooring_agent.cli')))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[3] / "agent")},
    )
    assert done.stdout.split() == ["__future__", "mooring_agent"]
