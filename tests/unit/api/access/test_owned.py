# SPDX-License-Identifier: Apache-2.0
"""`allow: own`: an owner of names reaches what is theirs, and nothing of the host or of others."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api import docker
from mooring_agent.api.access import admission
from mooring_agent.api.access.owned import OwnedCalls, told_to
from mooring_agent.api.access.ownership import Forbidden, Owner
from mooring_agent.api.access.policy import Policy, Rule
from mooring_agent.api.docker.convert import Conversion, convert
from mooring_agent.api.docker.render import network_id
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.errors import InvalidSpec, MooringError, NotFound

from ..fake_engine import FakeEngine
from ..served import Answer, Served, served
from .test_policy import Held, all_routes

OWNER = Owner("user carol (uid 1001)", 2, "carol-")

# Every other call of both APIs. A new one is sorted into one of the tables of owned.py, or in here.
REFUSED = {
    "DELETE /images/{ref:path}",
    "GET /distribution/{ref:path}/json",
    "GET /images/get",
    "GET /images/search",
    "GET /images/{ref:path}/get",
    "GET /images/{ref:path}/history",
    "GET /plugins/privileges",
    "GET /system/df",
    "POST /auth",
    "POST /build",
    "POST /build/prune",
    "POST /commit",
    "POST /containers/prune",
    "POST /grpc",
    "POST /images/create",
    "POST /images/load",
    "POST /images/prune",
    "POST /images/{ref:path}/push",
    "POST /images/{ref:path}/tag",
    "POST /networks/prune",
    "POST /plugins/create",
    "POST /plugins/pull",
    "POST /session",
    "POST /volumes/prune",
}
SWARM = ("/swarm", "/nodes", "/tasks", "/services", "/configs", "/secrets")


def test_every_call_is_guarded_or_refused(tmp_path: Path) -> None:
    engine = cast(Any, FakeEngine(tmp_path))
    guarded = set(OwnedCalls(engine).guards)
    swarms = {
        name
        for route in docker.routes(engine)
        if (name := f"{route.method} {route.path}").split()[1].startswith(SWARM)
    }
    known = {f"{route.method} {route.path}" for route in docker.routes(engine)}
    assert guarded & (REFUSED | swarms) == set()
    assert guarded | REFUSED | swarms == known, "sort these calls: guarded in owned.py, or refused here"
    assert not any("/mooring/" in name for name in guarded)


def test_every_option_is_harmless_checked_or_refused() -> None:
    refused = {
        *("apparmor", "cgroup", "cgroupns", "device_cgroup_rules", "devices", "dns", "drain"),
        *("masked_paths", "network_class", "network_limits", "privileged", "pull", "readonly_paths"),
        *(
            "ready_timeout",
            "selinux",
            "state",
            "sysctls",
            "time_offsets",
            "ulimits",
            "annotations",
            "update_order",
            "userns",
        ),
        # Paths on the host, or what takes from others.
        *("blkio_weight_device", "device_read_bps", "device_write_bps", "device_read_iops"),
        *("device_write_iops", "cpu_rt_period", "cpu_rt_runtime", "oom_kill_disable"),
    }
    known = {field.name for field in fields(ContainerSpec)} - {"given_fields"}
    let_in = admission.HARMLESS | admission.CHECKED.keys() | {"volumes", "networks"}
    assert let_in & refused == set()
    assert let_in | refused == known, "sort these options: admission.py, or refused here"


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    return FakeEngine(tmp_path)


@pytest.fixture
def root(tmp_path: Path, engine: FakeEngine) -> Iterator[Served]:
    with served(tmp_path / "s" / "o.sock", all_routes(engine)) as running:
        yield running


@pytest.fixture
def carol(tmp_path: Path, engine: FakeEngine) -> Iterator[Served]:
    rules = Held({"users": ["other"], "allow": "all"}, {"users": ["me"], "allow": "own", "prefix": "carol-"})
    owned = OwnedCalls(cast(Any, engine))
    with served(tmp_path / "s" / "c.sock", all_routes(engine), policy=rules, owned=owned) as running:
        yield running


def make(api: Served, name: str, **body: Any) -> Answer:
    return api.call("POST", f"/v1.47/containers/create?name={name}", {"Image": "web:1", **body})


def test_an_owner_lives_with_what_is_theirs(carol: Served, root: Served) -> None:
    assert make(root, "dave-web").status == 201
    assert make(carol, "carol-web").status == 201
    assert make(carol, "carol-old").status == 201
    for path in ("/containers/json?all=1", "/v1.47/containers/json?limit=5"):
        names = [each["Names"] for each in carol.call("GET", path).json()]
        assert sorted(names) == [["/carol-old"], ["/carol-web"]]
    # The last of theirs, whatever others have made since.
    assert make(root, "dave-new").status == 201
    (last,) = carol.call("GET", "/containers/json?limit=1").json()
    assert last["Names"] == ["/carol-old"]
    assert carol.call("POST", "/containers/carol-web/start").status == 204
    assert carol.call("GET", f"/containers/{last['Id'][:12]}/json").json()["Name"] == "/carol-old"
    made = carol.call("POST", "/containers/carol-web/exec", {"Cmd": ["true"], "Privileged": False})
    assert carol.call("GET", f"/exec/{made.json()['Id']}/json").status == 200
    assert carol.call("POST", "/containers/carol-web/update", {"Memory": 64 << 20}).status == 200
    assert carol.call("POST", "/containers/carol-web/rename?name=carol-site").status == 204
    assert carol.call("DELETE", "/containers/carol-site?force=1").status == 204


def test_what_is_others_is_as_if_it_were_not_there(carol: Served, root: Served, engine: FakeEngine) -> None:
    identity = make(root, "dave-web").json()["Id"]
    root.call("POST", "/containers/dave-web/start")
    execution = root.call("POST", "/containers/dave-web/exec", {"Cmd": ["true"]}).json()["Id"]
    root.call("POST", "/networks/create", {"Name": "dave-net"})
    root.call("POST", "/volumes/create", {"Name": "dave-data"})
    owned = OwnedCalls(cast(Any, engine))
    params = {
        "/containers/{id}": (("dave-web", "absent"), (identity, "0" * 64), (identity[:12], "0" * 12)),
        "/exec/{id}": ((execution, "0" * 64),),
        "/networks/{id}": (("dave-net", "absent"), (network_id("dave-net"), "0" * 64), ("bridge", "absent")),
        "/volumes/{name}": (("dave-data", "absent"),),
    }
    asked = 0
    for name in owned.guards:
        method, path = name.split()
        for template, pairs in params.items():
            if not path.startswith(template):
                continue
            for theirs, nobodys in pairs:
                answers = []
                for reference in (theirs, nobodys):
                    target = path.replace(template, template.partition("{")[0] + reference)
                    target = target.replace("{alias}", "db") + "?name=carol-x&path=/etc"
                    with carol.wire() as wire:
                        wire.ask(method, target, b"" if method in ("GET", "HEAD") else b"{}")
                        answer = wire.head() if method == "HEAD" else wire.answer()
                    answers.append((answer.status, answer.body.replace(reference.encode(), b"")))
                assert answers[0] == answers[1], (name, theirs)
                assert answers[0][0] == 404, (name, theirs)
                asked += 1
    assert asked > 70
    assert carol.call("GET", "/networks").json() == []
    assert carol.call("GET", "/volumes").json()["Volumes"] == []
    for filters in ({"before": ["dave-web"]}, {"since": [identity]}):
        assert (
            carol.call("GET", f"/containers/json?filters={json.dumps(filters)}".replace(" ", "")).status
            == 404
        )
    assert "dave-web" in [each.name for each in engine.containers.list()]


@pytest.mark.parametrize(
    "body",
    [
        {"HostConfig": {"Privileged": True}},
        {"hostconfig": {"privileged": True}},
        {"HostConfig": {"Binds": ["/:/host"]}},
        {"HostConfig": {"Binds": ["/run/mooring/mooring.sock:/s:ro"]}},
        {"HostConfig": {"Binds": ["dave-data:/data"]}},
        {"HostConfig": {"Binds": ["carol:/data"]}},
        {"HostConfig": {"Mounts": [{"Type": "bind", "Source": "/etc", "Target": "/x"}]}},
        {"HostConfig": {"Mounts": [{"Type": "volume", "Source": "dave-data", "Target": "/x"}]}},
        {
            "HostConfig": {
                "Mounts": [
                    {
                        "Type": "volume",
                        "Source": "carol-data",
                        "Target": "/x",
                        "VolumeOptions": {
                            "DriverConfig": {"Options": {"type": "none", "o": "bind", "device": "/etc"}}
                        },
                    }
                ]
            }
        },
        {"HostConfig": {"VolumesFrom": ["dave-web"]}},
        {"HostConfig": {"NetworkMode": "host"}},
        {"HostConfig": {"NetworkMode": "container:dave-web"}},
        {"HostConfig": {"NetworkMode": "dave-net"}},
        {"HostConfig": {"NetworkMode": network_id("dave-net")}},
        {"NetworkingConfig": {"EndpointsConfig": {"dave-net": {}}}},
        {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"Aliases": ["db"]}}}},
        {"NetworkingConfig": {"EndpointsConfig": {"bridge": {"MacAddress": "02:00:00:00:00:01"}}}},
        {"NetworkingConfig": {"EndpointsConfig": {"carol-net": {"Links": ["dave-web:db"]}}}},
        {"MacAddress": "02:00:00:00:00:01"},
        {"HostConfig": {"Links": ["dave-web:db"]}},
        {"HostConfig": {"PidMode": "host"}},
        {"HostConfig": {"PidMode": "container:dave-web"}},
        {"HostConfig": {"IpcMode": "host"}},
        {"HostConfig": {"IpcMode": "container:dave-web"}},
        {"HostConfig": {"UTSMode": "host"}},
        {"HostConfig": {"CgroupnsMode": "host"}},
        {"HostConfig": {"UsernsMode": "host"}},
        {"HostConfig": {"CgroupParent": "system"}},
        {"HostConfig": {"Devices": [{"PathOnHost": "/dev/sda"}]}},
        {"HostConfig": {"DeviceCgroupRules": ["b *:* rwm"]}},
        {"HostConfig": {"CapAdd": ["SYS_ADMIN"]}},
        {"HostConfig": {"CapAdd": ["cap_net_admin"]}},
        {"HostConfig": {"CapAdd": ["ALL"], "CapDrop": ["SYS_ADMIN"]}},
        {"HostConfig": {"SecurityOpt": ["seccomp=unconfined"]}},
        {"HostConfig": {"SecurityOpt": ["apparmor=unconfined"]}},
        {"HostConfig": {"SecurityOpt": ["label=disable"]}},
        {"HostConfig": {"SecurityOpt": ["systempaths=unconfined"]}},
        {"HostConfig": {"SecurityOpt": ["unmask=ALL"]}},
        {"HostConfig": {"MaskedPaths": []}},
        {"HostConfig": {"ReadonlyPaths": []}},
        {"HostConfig": {"Sysctls": {"net.ipv4.ip_forward": "1"}}},
        {"HostConfig": {"Ulimits": [{"Name": "rtprio", "Soft": 99, "Hard": 99}]}},
        {"HostConfig": {"OomScoreAdj": -1000}},
        {"HostConfig": {"Dns": ["10.0.0.1"]}},
        {"HostConfig": {"PortBindings": {"22/tcp": [{"HostPort": "22"}]}}},
    ],
)
def test_nothing_that_reaches_further_is_let_in(
    carol: Served, root: Served, engine: FakeEngine, body: Any
) -> None:
    make(root, "dave-web")
    root.call("POST", "/networks/create", {"Name": "dave-net"})
    root.call("POST", "/networks/create", {"Name": "carol-net"})
    answer = make(carol, "carol-evil", **body)
    assert answer.status in (403, 404), answer.body
    assert "rule 2 of access" in answer.json()["message"]
    assert [each.name for each in engine.containers.list()] == ["dave-web"]
    assert engine.volumes.list() == []


@pytest.mark.parametrize(
    "body",
    [
        {
            "HostConfig": {
                "Binds": ["carol-data:/data:ro", "/scratch"],
                "Mounts": [{"Type": "tmpfs", "Target": "/t"}],
                "NetworkMode": "default",
                "CapAdd": ["NET_BIND_SERVICE"],
                "CapDrop": ["ALL"],
                "SecurityOpt": ["no-new-privileges", "seccomp=builtin"],
                "PortBindings": {"80/tcp": [{"HostPort": "8080"}], "81/tcp": [{}]},
                "RestartPolicy": {"Name": "always"},
                "LogConfig": {"Type": "json-file", "Config": {"max-size": "1m"}},
                "Memory": 64 << 20,
                "NanoCpus": 500_000_000,
                "ReadonlyRootfs": True,
                "Init": True,
                "MaskedPaths": None,
                "Privileged": False,
            },
            "NetworkingConfig": {"EndpointsConfig": {"default": {"IPAMConfig": None, "GwPriority": 0}}},
            "Healthcheck": {"Test": ["CMD", "true"]},
            "Labels": {"com.docker.compose.project": "carol-shop"},
        },
        {"HostConfig": {"NetworkMode": "carol-net"}, "NetworkingConfig": {
            "EndpointsConfig": {"carol-net": {"Aliases": ["db"], "MacAddress": "02:00:00:00:00:01"}}}},
        {"HostConfig": {"PidMode": "container:carol-web", "IpcMode": "container:carol-web"}},
        {"HostConfig": {"NetworkMode": "container:carol-web", "VolumesFrom": ["carol-web:ro"]}},
        {"HostConfig": {"NetworkMode": "none"}},
    ],
)  # fmt: skip
def test_what_stays_within_a_container_is_let_in(carol: Served, body: Any) -> None:
    assert carol.call("POST", "/networks/create", {"Name": "carol-net", "Internal": True}).status == 201
    assert make(carol, "carol-web").status == 201
    answer = make(carol, "carol-new", **body)
    assert answer.status == 201, answer.body


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/containers/create", {"Image": "web:1"}),
        ("POST", "/containers/create?name=dave-x", {"Image": "web:1"}),
        ("POST", "/containers/create?name=carol", {"Image": "web:1"}),
        ("POST", "/containers/create?name=/carolx", {"Image": "web:1"}),
        ("POST", "/containers/create?name=//carol-x", {"Image": "web:1"}),
        ("POST", "/containers/carol-web/rename?name=dave-web", None),
        ("POST", "/containers/carol-web/update", {"Devices": [{"PathOnHost": "/dev/sda"}]}),
        ("POST", "/containers/carol-web/update", {"devicecgrouprules": ["a *:* rwm"]}),
        ("POST", "/containers/carol-web/exec", {"Cmd": ["sh"], "Privileged": True}),
        ("POST", "/containers/carol-web/exec", {"Cmd": ["sh"], "privileged": True}),
        ("POST", "/containers/carol-web/exec", {"Cmd": ["sh"], "NewOption": 1}),
        ("POST", "/networks/create", {"Name": "dave-net"}),
        ("POST", "/networks/create", {"Name": "carol-n", "Driver": "macvlan", "Options": {"parent": "eth0"}}),
        ("POST", "/networks/create", {"Name": "carol-n", "IPAM": {"Config": [{"Subnet": "192.0.2.0/24"}]}}),
        ("POST", "/volumes/create", {"Name": "dave-data"}),
        ("POST", "/volumes/create", {}),
        (
            "POST",
            "/volumes/create",
            {"Name": "carol-d", "DriverOpts": {"type": "none", "o": "bind", "device": "/"}},
        ),
        ("POST", "/images/create?fromImage=web", None),
        ("POST", "/build?t=carol-web", b"FROM web:1"),
        ("POST", "/commit?container=carol-web", None),
        ("POST", "/images/web:1/tag?repo=carol-x", None),
        ("GET", "/images/web:1/get", None),
        ("GET", "/system/df", None),
        ("POST", "/containers/prune", None),
        ("POST", "/auth", {"serveraddress": "192.0.2.1"}),
        ("GET", "/mooring/v1/containers", None),
        ("PUT", "/mooring/v1/containers/carol-web", {"image": "web:1", "privileged": True}),
        ("POST", "/mooring/v1/containers/carol-web/exec", {"command": ["id"]}),
        ("PUT", "/mooring/v1/state", {}),
    ],
)
def test_what_is_not_for_owners_is_refused(
    carol: Served, engine: FakeEngine, method: str, path: str, body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert make(carol, "carol-web").status == 201
    carol.call("POST", "/containers/carol-web/start")
    answer = carol.call(method, path, body)
    assert answer.status == 403, answer.body
    message = answer.json()["message"]
    assert "rule 2 of access" in message
    assert "carol-" in message
    assert [each.name for each in engine.containers.list()] == ["carol-web"]
    assert any("refused" in each.getMessage() for each in caplog.records)


def test_a_privileged_command_of_the_operator_is_not_started_by_the_owner(
    carol: Served, root: Served
) -> None:
    make(carol, "carol-web")
    carol.call("POST", "/containers/carol-web/start")
    made = root.call("POST", "/containers/carol-web/exec", {"Cmd": ["sh"], "Privileged": True}).json()["Id"]
    assert carol.call("POST", f"/exec/{made}/start", {}).status == 403


def test_a_container_of_theirs_is_referred_to_by_its_name_or_whole_id(carol: Served) -> None:
    identity = make(carol, "carol-web").json()["Id"]
    for number, reference in enumerate(("carol-web", identity)):
        assert make(carol, f"carol-{number}", HostConfig={"PidMode": f"container:{reference}"}).status == 201
    answer = make(carol, "carol-short", HostConfig={"PidMode": f"container:{identity[:12]}"})
    assert (answer.status, "say carol-web" in answer.json()["message"]) == (403, True)


@pytest.mark.parametrize("reference", ["0" * 63, "/" + "0" * 63, "A" * 64, "carol-we"])
def test_what_may_lead_elsewhere_at_the_next_start_is_not_let_in(reference: str) -> None:
    asked = convert({"Image": "web:1", "HostConfig": {"PidMode": f"container:{reference}"}})
    with pytest.raises(Forbidden, match="a part of an id"):
        admission.admit(asked, OWNER, lambda reference: "carol-web", nobodys)


def test_containers_are_put_on_networks_of_the_same_owner(carol: Served, root: Served) -> None:
    for name in ("dave-web", "dave-net"):
        make(root, name) if name.endswith("web") else root.call("POST", "/networks/create", {"Name": name})
    make(carol, "carol-web")
    carol.call("POST", "/networks/create", {"Name": "carol-net"})

    def connect(network: str, container: str, **config: Any) -> int:
        body = {"Container": container, "EndpointConfig": config}
        return carol.call("POST", f"/networks/{network}/connect", body).status

    assert connect("carol-net", "dave-web") == 404
    assert connect("dave-net", "carol-web") == 404
    assert connect("bridge", "carol-web") == 404
    assert connect("carol-net", "carol-web", DriverOpts={"com.docker.network.endpoint.sysctls": "a=1"}) == 403
    assert connect("carol-net", "carol-web", Links=["dave-web:db"]) == 404


def test_events_are_those_of_what_is_theirs(carol: Served, root: Served) -> None:
    for api, owner in ((root, "dave"), (carol, "carol")):
        make(api, f"{owner}-web", Labels={"name": "carol-label"})
        api.call("POST", f"/containers/{owner}-web/start")
    told = carol.call("GET", "/events?since=0&until=1").body
    assert b"dave" not in told


def test_only_events_of_ones_own_are_told() -> None:
    def event(kind: str, identity: str, **attributes: str) -> bytes:
        return json.dumps({"Type": kind, "Actor": {"ID": identity, "Attributes": attributes}}).encode()

    mine = [
        event("container", "1", name="carol-web"),
        event("network", "2", name="carol-net", container="1"),
        event("volume", "carol-data"),
    ]
    others = [
        event("container", "carol-1", name="dave-web"),
        event("network", "carol-2"),
        event("volume", "dave-data", name="carol-data"),
        event("image", "carol-image", name="carol-image"),
        event("daemon", "carol-", name="carol-"),
    ]

    async def pieces() -> Any:
        for piece in [*others, *mine, *others]:
            yield piece

    async def told() -> list[bytes]:
        return [piece async for piece in told_to(pieces(), OWNER)]

    assert asyncio.run(told()) == mine


# -- whatever is asked ---------------------------------------------------------------------------------------

KEYS = st.sampled_from(sorted({*(field.name for field in fields(ContainerSpec)), "made_up"}))
VALUES = st.none() | st.booleans() | st.integers(-9, 99) | st.sampled_from(["host", "default", "private", ""])


def nobodys(reference: str) -> str:
    raise NotFound(f"no such container: {reference}")


@given(st.dictionaries(KEYS, VALUES))
def test_no_option_that_is_not_known_gets_past(spec: dict[str, Any]) -> None:
    asked = Conversion(spec, {}, auto_remove=False, anonymous=())
    unknown = spec.keys() - admission.HARMLESS - admission.CHECKED.keys() - {"volumes", "networks"}
    try:
        admission.admit(asked, OWNER, nobodys, nobodys)
    except (MooringError, TypeError, AttributeError, ValueError):
        return
    assert not unknown


@given(st.text(max_size=12), st.sampled_from(["carol-", "ci.", "a1b2c3_"]))
def test_a_reference_is_let_in_only_by_its_name_or_whole_id(reference: str, prefix: str) -> None:
    owner = Owner("carol", 1, prefix)
    body = {"Image": "web:1", "HostConfig": {"PidMode": f"container:{reference}"}}

    def mine(asked: str) -> str:
        if asked:
            return f"{prefix}web"  # as a beginning of its id would be found
        raise NotFound("no such container")

    try:
        admission.admit(convert(body), owner, mine, nobodys)
    except (NotFound, InvalidSpec, Forbidden):
        return
    assert reference.removeprefix("/") == f"{prefix}web"


@pytest.mark.parametrize(
    ("rule", "part"),
    [
        ({"allow": "own"}, "prefix is 'None'"),
        ({"allow": "own", "prefix": "carol"}, "'carol'"),
        ({"allow": "own", "prefix": ""}, "prefix"),
        ({"allow": "own", "prefix": "-"}, "prefix"),
        ({"allow": "own", "prefix": "ab\n"}, "prefix"),
        ({"allow": "own", "prefix": "a b-"}, "prefix"),
        ({"allow": "own", "prefix": 7}, "prefix"),
        ({"allow": "all", "prefix": "carol-"}, "allow: all"),
        ({"allow": "read", "prefix": "carol-"}, "allow: read"),
    ],
)
def test_a_rule_whose_prefix_is_no_use_is_named(rule: dict[str, Any], part: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Rule.parse({"users": ["carol"], **rule}, 3)
    assert "rule 3 of access" in caught.value.message
    assert part in caught.value.message


def test_without_guards_an_owner_does_nothing(tmp_path: Path, engine: FakeEngine) -> None:
    rules: Policy = Held({"users": ["me"], "allow": "own", "prefix": "carol-"})
    with served(tmp_path / "s" / "n.sock", all_routes(engine), policy=rules) as running:
        assert running.call("GET", "/_ping").status == 403
