# SPDX-License-Identifier: Apache-2.0
"""Docker's images, networks, volumes and events as their clients see them, on an engine in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .fake_engine import IMAGE, FakeEngine
from .served import Served


def create(api: Served, name: str = "web1", **body: Any) -> str:
    answer = api.call("POST", f"/v1.47/containers/create?name={name}", {"Image": "web:1", **body})
    assert answer.status == 201, answer.body
    identity: str = answer.json()["Id"]
    return identity


def start(api: Served, name: str = "web1", **body: Any) -> str:
    identity = create(api, name, **body)
    assert api.call("POST", f"/containers/{name}/start").status == 204
    return identity


def test_images(api: Served, engine: FakeEngine) -> None:
    create(api)
    entry = api.call("GET", "/images/json").json()[0]
    assert (entry["Id"], entry["RepoTags"], entry["Containers"]) == (IMAGE.id, ["web:1"], 1)
    shown = api.call("GET", "/images/web:1/json").json()
    assert (shown["Config"]["Cmd"], shown["RootFS"]["Layers"]) == (["serve"], list(IMAGE.diff_ids))
    assert api.call("GET", "/images/web:1/history").json()[0]["CreatedBy"] == "import"
    assert api.call("POST", "/images/web:1/tag?repo=x/y&tag=2").status == 201
    assert engine.image_service.tagged == ["x/y:2"]
    assert api.call("DELETE", "/images/web:1").json() == [{"Untagged": "web:1"}, {"Deleted": IMAGE.id}]
    assert api.call("GET", "/images/no/such:1/json").status == 404


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ('{"reference":["w*"]}', 1),
        ('{"reference":["x"]}', 0),
        ('{"dangling":["true"]}', 0),
        ('{"label":["made"]}', 1),
    ],
)
def test_image_filters(api: Served, filters: str, count: int) -> None:
    quoted = filters.replace('"', "%22")
    assert len(api.call("GET", f"/images/json?filters={quoted}").json()) == count


def test_import_streams_its_body(api: Served, engine: FakeEngine) -> None:
    query = "fromSrc=-&repo=my/web&tag=2&message=mine&changes=CMD%20%5B%22a%22%5D&changes=ENV%20A=1"
    answer = api.call("POST", f"/images/create?{query}", b"tar" * 100_000)
    assert json.loads(answer.body.splitlines()[-1]) == {"status": IMAGE.id}
    content, reference, config, comment = engine.image_service.imported[0]
    assert (content, reference, comment) == (b"tar" * 100_000, "my/web:2", "mine")
    assert (config.cmd, config.env) == (("a",), ("A=1",))


def test_import_tells_its_errors_in_the_stream(api: Served) -> None:
    answer = api.call("POST", "/images/create?fromSrc=-&repo=x", b"bad")
    assert json.loads(answer.body)["errorDetail"] == {"code": 409, "message": "this is no tar"}


@pytest.mark.parametrize(
    ("query", "status", "part"),
    [
        ("fromImage=BUSYBOX", 400, "lower case"),
        ("fromImage=busybox&platform=a/b/c/d", 400, "a/b/c/d"),
        ("fromSrc=ftp://x/y.tar", 400, "ftp://x/y.tar"),
        ("fromSrc=127.0.0.1:1/y.tar", 503, "http://127.0.0.1:1/y.tar cannot be fetched"),
        ("fromSrc=-&repo=x&changes=RUN%20x", 400, "RUN x"),
        ("fromSrc=-&repo=x&platform=windows/amd64", 501, "windows/amd64"),
    ],
)
def test_what_import_cannot_do(api: Served, query: str, status: int, part: str) -> None:
    answer = api.call("POST", f"/images/create?{query}", b"")
    assert answer.status == status
    assert part in answer.json()["message"]


def test_networks(api: Served) -> None:
    made = api.call(
        "POST",
        "/networks/create",
        {"Name": "front", "Labels": {"a": "b"}, "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]}},
    )
    assert made.status == 201
    shown = api.call("GET", f"/networks/{made.json()['Id'][:12]}").json()
    assert (shown["Name"], shown["IPAM"]["Config"][0]["Subnet"]) == ("front", "10.9.0.0/24")
    assert [each["Name"] for each in api.call("GET", "/networks").json()] == ["front", "host", "none"]
    quoted = '{"type":{"custom":true}}'.replace('"', "%22")
    assert len(api.call("GET", f"/networks?filters={quoted}").json()) == 1
    assert api.call("POST", "/networks/create", {"Name": "front"}).status == 409
    assert api.call("DELETE", "/networks/front").status == 204
    for name in ("bridge", "host", "none"):
        assert api.call("POST", "/networks/create", {"Name": name}).status == 403
    assert api.call("DELETE", "/networks/host").status == 403
    assert api.call("GET", "/networks/front").status == 404


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"Name": "nn", "Driver": "ipvlan"}, "Driver"),
        ({"Name": "nn", "ConfigOnly": True}, "ConfigOnly"),
        ({"Name": "nn", "Options": {"mtu": "9"}}, "Options.mtu"),
        ({"Name": "nn", "IPAM": {"Config": [{"Range": "10.0.0.0/25"}]}}, "IPAM.Config.Range"),
        ({"Name": "nn", "IPAM": {"Config": [{"Subnet": "10.0.0.0/24"}] * 2}}, "IPAM.Config"),
    ],
)
def test_what_a_network_cannot_have_is_refused_by_name(api: Served, body: dict[str, Any], part: str) -> None:
    answer = api.call("POST", "/networks/create", body)
    assert answer.status == 501
    assert part in answer.json()["message"]


def test_a_network_in_dockers_words_is_shown_as_it_was_asked_for(api: Served) -> None:
    pools = [
        {
            "Subnet": "10.9.0.0/24",
            "Gateway": "10.9.0.1",
            "IPRange": "10.9.0.128/25",
            "AuxiliaryAddresses": {"10.9.0.130": "10.9.0.130"},
        },
        {"Subnet": "fd00:9::/64", "Gateway": "fd00:9::1"},
    ]
    body = {
        "Name": "both",
        "EnableIPv6": True,
        "IPAM": {"Config": pools},
        "Options": {"com.docker.network.driver.mtu": "1400"},
    }
    assert api.call("POST", "/networks/create", body).status == 201
    shown = api.call("GET", "/networks/both").json()
    assert shown["IPAM"]["Config"] == pools
    assert (shown["EnableIPv4"], shown["EnableIPv6"]) == (True, True)
    assert shown["Options"]["com.docker.network.driver.mtu"] == "1400"


def test_a_macvlan_network_in_dockers_words(api: Served) -> None:
    body = {
        "Name": "lan",
        "Driver": "macvlan",
        "IPAM": {"Config": [{"Subnet": "10.9.0.0/24"}]},
        "Options": {"parent": "eth1", "macvlan_mode": "vepa"},
    }
    assert api.call("POST", "/networks/create", body).status == 201
    shown = api.call("GET", "/networks/lan").json()
    assert (shown["Driver"], shown["Options"]["parent"], shown["Options"]["macvlan_mode"]) == (
        "macvlan",
        "eth1",
        "vepa",
    )


def test_volumes(api: Served) -> None:
    assert api.call("POST", "/volumes/create", {"Name": "vol", "Labels": {"a": "b"}}).status == 201
    assert api.call("GET", "/volumes/vol").json()["Labels"] == {"a": "b"}
    assert [each["Name"] for each in api.call("GET", "/volumes").json()["Volumes"]] == ["vol"]
    create(api, HostConfig={"Binds": ["vol:/data"]})
    assert api.call("DELETE", "/volumes/vol").status == 409
    api.call("DELETE", "/containers/web1")
    assert api.call("DELETE", "/volumes/vol").status == 204
    assert api.call("DELETE", "/volumes/vol").status == 404
    assert api.call("DELETE", "/volumes/vol?force=1").status == 204
    assert api.call("POST", "/volumes/create", {"Driver": "nfs"}).status == 501
    options = {"type": "nfs", "o": "addr=192.0.2.1,rw", "device": ":/srv"}
    assert api.call("POST", "/volumes/create", {"Name": "far", "DriverOpts": options}).status == 201
    assert api.call("GET", "/volumes/far").json()["Options"] == options
    pruned = api.call("POST", "/volumes/prune?filters=%7B%22all%22%3A%5B%221%22%5D%7D").json()
    assert pruned["VolumesDeleted"] == []


def test_events(api: Served) -> None:
    start(api)
    with api.wire() as wire:
        quoted = '{"type":["container"],"event":["start"]}'.replace('"', "%22")
        wire.ask("GET", f"/events?since=1&filters={quoted}")
        wire.head()
        event = json.loads(wire.chunk())
    assert (event["Type"], event["Action"], event["status"]) == ("container", "start", "start")
    assert event["Actor"]["Attributes"]["name"] == "web1"


@pytest.mark.parametrize(
    ("method", "path", "status", "part"),
    [
        ("GET", "/images/search?term=x", 501, "docker search"),
        ("GET", "/swarm", 503, "not a swarm manager"),
        ("GET", "/nothing", 404, "no such call"),
    ],
)
def test_what_is_missing_says_so(api: Served, method: str, path: str, status: int, part: str) -> None:
    answer = api.call(method, path)
    assert answer.status == status
    assert part in answer.json()["message"]
