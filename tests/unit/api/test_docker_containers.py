# SPDX-License-Identifier: Apache-2.0
"""Docker's containers as their clients see them, on an engine in memory."""

from __future__ import annotations

import json
import struct
import time
from typing import Any

import pytest

from mooring_agent.engine.logs import LogChunk

from .fake_engine import FakeEngine
from .served import Served, Wire

NEVER = "0001-01-01T00:00:00Z"


def create(api: Served, name: str = "web1", **body: Any) -> str:
    answer = api.call("POST", f"/v1.47/containers/create?name={name}", {"Image": "web:1", **body})
    assert answer.status == 201, answer.body
    identity: str = answer.json()["Id"]
    return identity


def start(api: Served, name: str = "web1", **body: Any) -> str:
    identity = create(api, name, **body)
    assert api.call("POST", f"/containers/{name}/start").status == 204
    return identity


def inspect(api: Served, name: str = "web1") -> dict[str, Any]:
    document: dict[str, Any] = api.call("GET", f"/containers/{name}/json").json()
    return document


def frames(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        stream, length = struct.unpack(">BxxxI", data[:8])
        found.append((stream, data[8 : 8 + length]))
        data = data[8 + length :]
    return found


def test_ping_and_version(api: Served) -> None:
    ping = api.call("GET", "/_ping")
    assert (ping.body, ping.headers["api-version"], ping.headers["docker-experimental"]) == (
        b"OK",
        "1.47",
        "false",
    )
    version = api.call("GET", "/v1.41/version").json()
    assert (version["ApiVersion"], version["MinAPIVersion"], version["Arch"]) == ("1.47", "1.24", "amd64")
    assert version["Components"][0]["Name"] == "Engine"


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/v1.48/version", "client version 1.48 is too new. Maximum supported API version is 1.47"),
        ("/v1.23/version", "client version 1.23 is too old. Minimum supported API version is 1.24"),
    ],
)
def test_versions_outside_the_range_are_refused_in_dockers_words(api: Served, path: str, part: str) -> None:
    answer = api.call("GET", path)
    assert answer.status == 400
    assert part in answer.json()["message"]


def test_the_fleet_api_has_no_docker_version(api: Served) -> None:
    assert api.call("GET", "/v1.47/mooring/v1/host").status == 404


def test_info_counts(api: Served) -> None:
    start(api)
    create(api, "web2")
    info = api.call("GET", "/info").json()
    assert (info["Containers"], info["ContainersRunning"], info["ContainersStopped"]) == (2, 1, 1)
    assert (info["CgroupVersion"], info["NCPU"], info["Swarm"]["LocalNodeState"]) == ("2", 2, "inactive")


def test_create_keeps_what_only_docker_asks_for_again(api: Served) -> None:
    create(
        api, AttachStdin=True, StdinOnce=True, ExposedPorts={"81/tcp": {}}, HostConfig={"ConsoleSize": [5, 6]}
    )
    shown = inspect(api)
    assert shown["Name"] == "/web1"
    assert (shown["Config"]["AttachStdin"], shown["Config"]["StdinOnce"]) == (True, True)
    assert shown["Config"]["ExposedPorts"] == {"80/tcp": {}, "81/tcp": {}}
    assert shown["HostConfig"]["ConsoleSize"] == [5, 6]


def test_inspect_shows_what_was_asked_for(api: Served) -> None:
    host = {
        "Memory": 64 << 20,
        "NanoCpus": 500_000_000,
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "Binds": ["/a:/b:ro", "vol:/c"],
        "Tmpfs": {"/t": "size=4k"},
        "PortBindings": {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}], "81/tcp": [{}]},
        "CapAdd": ["NET_ADMIN"],
        "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}},
        "SecurityOpt": ["no-new-privileges"],
        "PidsLimit": 5,
    }
    start(api, Cmd=["x", "y"], Env=["A=1"], Labels={"l": "1"}, StopTimeout=3, HostConfig=host)
    shown = inspect(api)
    config, kept, settings = shown["Config"], shown["HostConfig"], shown["NetworkSettings"]
    assert (shown["Path"], shown["Args"], config["Cmd"], config["Env"]) == ("x", ["y"], ["x", "y"], ["A=1"])
    assert config["Labels"] == {"made": "here", "l": "1"}
    assert config["StopTimeout"] == 3
    assert (kept["Memory"], kept["NanoCpus"], kept["PidsLimit"]) == (64 << 20, 500_000_000, 5)
    assert kept["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 3}
    assert sorted(kept["Binds"]) == ["/a:/b:ro", "vol:/c"]
    assert kept["Tmpfs"] == {"/t": "size=4k"}
    assert kept["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "8080"}],
        "81/tcp": [{"HostIp": "", "HostPort": ""}],
    }
    assert kept["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "1m", "max-file": "2"}}
    assert settings["Ports"]["81/tcp"] == [{"HostIp": "0.0.0.0", "HostPort": "40000"}]
    assert settings["Networks"]["bridge"]["IPAddress"] == settings["IPAddress"] == "10.1.0.2"
    assert [mount["Destination"] for mount in shown["Mounts"]] == ["/b", "/c", "/t"]
    assert shown["State"]["Running"]
    assert shown["State"]["FinishedAt"] == NEVER


def test_a_quota_is_shown_as_it_was_given(api: Served) -> None:
    create(api, HostConfig={"CpuQuota": 20_000, "CpuPeriod": 40_000})
    kept = inspect(api)["HostConfig"]
    assert (kept["CpuQuota"], kept["CpuPeriod"], kept["NanoCpus"]) == (20_000, 40_000, 0)


def test_publish_all_publishes_what_is_exposed(api: Served) -> None:
    start(api, ExposedPorts={"53/udp": {}}, HostConfig={"PublishAllPorts": True})
    assert set(inspect(api)["NetworkSettings"]["Ports"]) == {"80/tcp", "53/udp"}


def test_volumes_without_names_are_made_and_dropped_again_on_failure(api: Served, engine: FakeEngine) -> None:
    create(api, Volumes={"/data": {}})
    name = inspect(api)["Mounts"][0]["Name"]
    assert len(name) == 64
    assert inspect(api)["Config"]["Volumes"] == {"/data": {}}
    assert (
        api.call("POST", "/containers/create?name=web1", {"Image": "web:1", "Volumes": {"/x": {}}}).status
        == 409
    )
    assert len(engine.volumes.dropped) == 1


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"Image": "nosuch"}, 404, "nosuch"),
        ({"Image": "web:1", "HostConfig": {"KernelMemory": 5}}, 501, "HostConfig.KernelMemory"),
        ({"Image": "web:1", "HostConfig": {"Memory": -5}}, 400, "memory"),
        ({}, 400, "Image"),
    ],
)
def test_a_bad_create_is_refused_with_docker_s_form_of_error(
    api: Served, body: dict[str, Any], status: int, part: str
) -> None:
    answer = api.call("POST", "/containers/create", body)
    assert answer.status == status
    assert list(answer.json()) == ["message"]
    assert part in answer.json()["message"]


def listed(api: Served, query: str = "", filters: object = None) -> list[str]:
    suffix = "" if filters is None else "&filters=" + json.dumps(filters).replace(" ", "").replace('"', "%22")
    answer = api.call("GET", f"/containers/json?{query}{suffix}")
    assert answer.status == 200, answer.body
    return [entry["Names"][0] for entry in answer.json()]


def test_ps_lists_newest_first_and_running_ones_only(api: Served) -> None:
    start(api, "one", HostConfig={"PortBindings": {"80": [{"HostPort": "8080"}]}})
    create(api, "two")
    assert listed(api) == ["/one"]
    assert listed(api, "all=1") == ["/two", "/one"]
    assert listed(api, "limit=1") == ["/two"]
    entry = api.call("GET", "/containers/json").json()[0]
    assert entry["Ports"] == [{"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}]
    assert entry["Status"] == "Up Less than a second"
    assert entry["HostConfig"] == {"NetworkMode": "bridge"}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"name": {"^/?a.*$": True}}, ["/alpha"]),
        ({"name": ["ph", "et"]}, ["/beta", "/alpha"]),
        ({"status": ["created"]}, ["/beta"]),
        ({"status": ["exited"]}, []),
        ({"label": ["tier=front"]}, ["/alpha"]),
        ({"label": ["tier=front", "other"]}, []),
        ({"ancestor": ["web:1"]}, ["/beta", "/alpha"]),
        ({"ancestor": ["nosuch"]}, []),
        ({"network": ["bridge"]}, ["/alpha"]),
        ({"network": ["host"]}, ["/beta"]),
        ({"since": ["alpha"]}, ["/beta"]),
        ({"before": ["beta"]}, ["/alpha"]),
        ({"id": ["zz"]}, []),
    ],
)
def test_ps_filters(api: Served, filters: object, expected: list[str]) -> None:
    start(api, "alpha", Labels={"tier": "front"})
    time.sleep(0.01)
    create(api, "beta", HostConfig={"NetworkMode": "host"})
    assert listed(api, "all=1", filters) == expected


def test_an_unknown_filter_is_refused(api: Served) -> None:
    answer = api.call("GET", '/containers/json?filters={"colour":["red"]}'.replace('"', "%22"))
    assert answer.status == 400
    assert "invalid filter 'colour'" in answer.json()["message"]


def test_life(api: Served, engine: FakeEngine) -> None:
    create(api)
    assert api.call("POST", "/containers/web1/stop").status == 304
    assert api.call("POST", "/containers/web1/start").status == 204
    assert api.call("POST", "/containers/web1/start").status == 304
    assert api.call("POST", "/containers/web1/pause").status == 204
    assert inspect(api)["State"]["Paused"]
    assert api.call("POST", "/containers/web1/unpause").status == 204
    assert api.call("POST", "/containers/web1/resize?h=3&w=4").status == 200
    assert api.call("POST", "/containers/web1/resize?h=x&w=4").status == 400
    assert api.call("POST", "/containers/web1/restart?t=2").status == 204
    assert api.call("POST", "/containers/web1/kill?signal=HUP").status == 204
    assert api.call("POST", "/containers/web1/rename?name=web2").status == 204
    assert api.call("POST", "/containers/web2/update", {"Memory": 64 << 20}).json() == {"Warnings": []}
    assert inspect(api, "web2")["HostConfig"]["Memory"] == 64 << 20
    assert api.call("DELETE", "/containers/web2?v=1").status == 204
    assert engine.containers.asked == [
        ("resize", 3, 4),
        ("restart", 2),
        ("kill", "HUP"),
        ("update", {"memory": 64 << 20}),
        ("remove", False, True),
    ]


def test_removing_a_running_one_needs_force(api: Served) -> None:
    start(api)
    assert api.call("DELETE", "/containers/web1").status == 409
    assert api.call("DELETE", "/containers/web1?force=1").status == 204


def test_wait_answers_its_head_before_the_start(api: Served) -> None:
    create(api)
    with api.wire() as wire:
        wire.ask("POST", "/v1.47/containers/web1/wait?condition=next-exit")
        assert wire.head().status == 200
        api.call("POST", "/containers/web1/start")
        api.call("POST", "/containers/web1/kill")
        assert json.loads(wire.chunk()) == {"StatusCode": 137}
    assert api.call("POST", "/containers/web1/wait?condition=sometime").status == 400
    assert api.call("POST", "/containers/nosuch/wait").status == 404


def attach(api: Served, wire: Wire, query: str = "stream=1&stdin=1&stdout=1&stderr=1") -> None:
    wire.ask("POST", f"/v1.47/containers/web1/attach?{query}", Connection="Upgrade", Upgrade="tcp")


def test_attach_frames_output_and_keeps_it_after_the_end_of_input(api: Served) -> None:
    start(api, OpenStdin=True, StdinOnce=True)
    with api.wire() as wire:
        attach(api, wire)
        wire.send(b"early ")
        head = wire.head()
        assert head.status == 101
        assert head.headers["content-type"] == "application/vnd.docker.multiplexed-stream"
        wire.send(b"late")
        wire.sock.shutdown(1)
        got = frames(wire.rest())
    assert got[0] == (2, b"ready\n")
    assert b"".join(data for _, data in got[1:]) == b"EARLY LATE"


def test_attach_to_a_terminal_is_plain_and_detaches_by_its_keys(api: Served, engine: FakeEngine) -> None:
    start(api, OpenStdin=True, Tty=True)
    with api.wire() as wire:
        attach(api, wire)
        assert wire.head().headers["content-type"] == "application/vnd.docker.raw-stream"
        wire.send(b"a\x10b")
        assert wire.exactly(9) == b"ready\nA\x10B"
        wire.send(b"\x10\x11 never")
        assert wire.rest() == b""
    assert engine.containers.streams[0].closed


def test_attach_without_open_input_sends_nothing_in(api: Served, engine: FakeEngine) -> None:
    start(api)
    with api.wire() as wire:
        attach(api, wire)
        wire.head()
        wire.send(b"lost")
        assert wire.exactly(8 + 6)[8:] == b"ready\n"
    assert engine.containers.asked[-1][1]["stdin"] is False


def test_logs(api: Served, engine: FakeEngine) -> None:
    start(api)
    second = 1_700_000_000_000_000_000
    engine.containers.lines = [
        LogChunk(second, 1, b"a\n"),
        LogChunk(second + 5, 2, b"b\n"),
        LogChunk(second, 1, b"half"),
        LogChunk(second, 1, b" done\n"),
    ]
    answer = api.call("GET", "/containers/web1/logs?stdout=1&stderr=1&tail=2&timestamps=1&until=5.5")
    stamp = b"2023-11-14T22:13:20.000000000Z "
    assert frames(answer.body) == [
        (1, stamp + b"a\n"),
        (2, b"2023-11-14T22:13:20.000000005Z b\n"),
        (1, stamp + b"half"),
        (1, b" done\n"),
    ]
    asked = engine.containers.asked[-1][1]
    assert (asked["tail"], asked["until"], asked["follow"]) == (2, 5.5, False)
    assert api.call("GET", "/containers/web1/logs").status == 400


def test_follow_ends_with_its_client(api: Served) -> None:
    start(api)
    with api.wire() as wire:
        wire.ask("GET", "/containers/web1/logs?stdout=1&follow=1")
        assert wire.head().status == 200


def test_exec(api: Served, engine: FakeEngine) -> None:
    start(api)
    body = {
        "Container": "web1",
        "Cmd": ["sh", "-c", "x"],
        "AttachStdin": True,
        "AttachStdout": True,
        "Env": ["A=1"],
        "User": "me",
        "WorkingDir": "/w",
        "detachKeys": "ctrl-a",
    }
    identity = api.call("POST", "/containers/web1/exec", body).json()["Id"]
    assert api.call("POST", f"/exec/{identity}/resize?h=1&w=2").status == 409
    spec = engine.execs.get(identity).spec
    assert (spec.argv, spec.env, spec.user, spec.workdir, spec.stdin) == (
        ("sh", "-c", "x"),
        ("A=1",),
        "me",
        "/w",
        True,
    )
    with api.wire() as wire:
        wire.ask("POST", f"/exec/{identity}/start", b'{"Detach":false}', Connection="Upgrade", Upgrade="tcp")
        assert wire.head().status == 101
        wire.send(b"in")
        wire.sock.shutdown(1)
        assert frames(wire.rest()) == [(2, b"ready\n"), (1, b"IN")]
    shown = api.call("GET", f"/exec/{identity}/json").json()
    assert (shown["Running"], shown["ProcessConfig"]["entrypoint"]) == (True, "sh")
    assert inspect(api)["ExecIDs"] == [identity]
    assert api.call("POST", f"/exec/{identity}/resize?h=1&w=2").status == 200


def test_a_detached_exec_answers_at_once(api: Served, engine: FakeEngine) -> None:
    start(api)
    identity = api.call("POST", "/containers/web1/exec", {"Cmd": ["x"]}).json()["Id"]
    assert api.call("POST", f"/exec/{identity}/start", {"Detach": True}).status == 200
    assert engine.execs.asked == [("start", True)]


def test_exec_needs_a_running_container_and_a_command(api: Served) -> None:
    create(api)
    assert api.call("POST", "/containers/web1/exec", {"Cmd": ["x"]}).status == 409
    api.call("POST", "/containers/web1/start")
    assert api.call("POST", "/containers/web1/exec", {"Cmd": []}).status == 400
    assert api.call("POST", "/containers/web1/exec", {"Cmd": ["x"], "Sudo": True}).status == 400
    assert api.call("POST", "/exec/nosuch/start", {}).status == 404


def test_stats(api: Served) -> None:
    start(api, HostConfig={"Memory": 64 << 20})
    shown = api.call("GET", "/containers/web1/stats?stream=0&one-shot=1").json()
    assert shown["memory_stats"]["usage"] == 1000
    assert shown["memory_stats"]["limit"] == 64 << 20
    assert (shown["pids_stats"]["current"], shown["cpu_stats"]["cpu_usage"]["total_usage"]) == (3, 5000)
    assert shown["cpu_stats"]["system_cpu_usage"] > 0
    assert "system_cpu_usage" not in shown["precpu_stats"]
    with api.wire() as wire:
        wire.ask("GET", "/containers/web1/stats")
        wire.head()
        assert json.loads(wire.chunk())["name"] == "/web1"
        assert json.loads(wire.chunk())["precpu_stats"]["cpu_usage"]["total_usage"] == 5000


def test_top(api: Served) -> None:
    start(api)
    answer = api.call("GET", "/containers/web1/top").json()
    assert answer["Titles"][1] == "PID"
    assert answer["Processes"][0][1] == "1"
    refused = api.call("GET", "/containers/web1/top?ps_args=-o+user%3DPID")
    assert refused.status == 400
    assert "user=PID" in refused.json()["message"]
