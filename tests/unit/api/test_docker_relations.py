# SPDX-License-Identifier: Apache-2.0
"""What Docker's clients ask of a container with regard to others, and what they are shown as they gave it."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.docker.archives import go_mode
from mooring_agent.api.docker.convert import convert
from mooring_agent.api.docker.images import parents
from mooring_agent.api.docker.relations import link_variables
from mooring_agent.api.docker.render import network_id
from mooring_agent.errors import InvalidSpec, NotSupported

from .fake_engine import FakeEngine
from .fake_images import IMAGE
from .served import Served
from .test_docker_containers import create, inspect, start


def test_a_network_may_be_given_by_its_id(api: Served) -> None:
    assert api.call("POST", "/networks/create", {"Name": "back"}).status == 201
    given = network_id("back")
    settings = {"EndpointsConfig": {"back": {"Aliases": ["db"]}}}
    create(api, HostConfig={"NetworkMode": given}, NetworkingConfig=settings)
    networks = inspect(api)["NetworkSettings"]["Networks"]
    assert list(networks) == ["back"]
    assert networks["back"]["Aliases"] == ["db"]


def test_links_on_the_common_network_are_told_in_the_environment(api: Served, engine: FakeEngine) -> None:
    start(api, "db", Env=["FOO=1"])
    create(api, "web", HostConfig={"Links": ["db:my-db"]})
    shown = inspect(api, "web")
    assert shown["HostConfig"]["Links"] == ["/db:/web/my-db"]
    env = shown["Config"]["Env"]
    assert {"MY_DB_NAME=/web/my-db", "MY_DB_ENV_FOO=1", "MY_DB_PORT_80_TCP_ADDR=10.1.0.2"} <= set(env)


def test_a_link_of_a_network_may_lead_to_one_that_is_not_there_yet(api: Served) -> None:
    api.call("POST", "/networks/create", {"Name": "back"})
    settings = {"EndpointsConfig": {"back": {"Links": ["later:db"]}}}
    create(api, HostConfig={"NetworkMode": "back"}, NetworkingConfig=settings)
    assert inspect(api)["NetworkSettings"]["Networks"]["back"]["Links"] == ["later:db"]
    refused = api.call("POST", "/containers/create", {"Image": "web:1", "HostConfig": {"Links": ["x:db"]}})
    assert (refused.status, "leads nowhere" in refused.json()["message"]) == (400, True)


def test_a_link_is_removed_by_its_own_path_alone(api: Served) -> None:
    create(api)
    for path in ("/containers/web1?link=1", "/containers/web1/db"):
        assert api.call("DELETE", path).status == 400


@given(
    st.lists(st.tuples(st.sampled_from(["A", "B", "PATH", "HOME"]), st.text(max_size=4)), max_size=4),
    st.lists(st.integers(1, 65535), unique=True, max_size=3),
)
def test_the_variables_of_a_link_begin_with_its_alias(env: list[tuple[str, str]], ports: list[int]) -> None:
    variables = tuple(f"{name}={value}" for name, value in env)
    exposed = tuple(f"{port}/tcp" for port in ports)
    told = list(link_variables(variables, exposed, "10.0.0.2", "web", "the-db"))
    assert all(name.startswith("THE_DB_") for name, _ in told)
    assert ("THE_DB_PORT" in dict(told)) == bool(ports)
    assert not {"THE_DB_ENV_PATH", "THE_DB_ENV_HOME"} & dict(told).keys()


def test_volumes_come_from_others(api: Served) -> None:
    create(api, "first", HostConfig={"Binds": ["one:/one", "two:/two", "/host:/three"]})
    create(api, "web", HostConfig={"Binds": ["mine:/two/"], "VolumesFrom": ["first:ro"]})
    shown = inspect(api, "web")
    mounts = {mount["Destination"]: (mount["Source"], mount["RW"]) for mount in shown["Mounts"]}
    assert mounts == {"/one": ("", False), "/two": ("", True), "/three": ("/host", False)}
    assert shown["HostConfig"]["VolumesFrom"] == ["first:ro"]
    for reference in ("first:rwx", "nobody"):
        body = {"Image": "web:1", "HostConfig": {"VolumesFrom": [reference]}}
        assert api.call("POST", "/containers/create", body).status >= 400


def test_a_variable_of_the_image_can_be_taken_away() -> None:
    spec = convert({"Image": "web:1", "Env": ["A=1", "B", "A", "C", "C=3"]}).spec
    assert (spec["env"], spec["env_unset"]) == ({"C": "3"}, ["A", "B"])


def test_values_are_shown_as_they_were_given(api: Served) -> None:
    given = {"CpusetCpus": "0,1", "Tmpfs": {"/t": "size=3M"}, "Isolation": "default", "Runtime": "runc"}
    create(api, HostConfig={**given, "LogConfig": {"Type": "local", "Config": {"max-file": "2"}}})
    kept = inspect(api)["HostConfig"]
    assert {name: kept[name] for name in given} == given
    assert kept["LogConfig"] == {"Type": "local", "Config": {"max-file": "2"}}


@pytest.mark.parametrize(
    ("host", "error", "named"),
    [
        ({"LogConfig": {"Type": "asdf"}}, InvalidSpec, "logger: no log driver named 'asdf' is registered"),
        ({"LogConfig": {"Type": "fluentd"}}, NotSupported, "fluentd"),
        ({"Runtime": "kata"}, NotSupported, "HostConfig.Runtime"),
        ({"VolumeDriver": "nfs", "Binds": ["data:/data"]}, NotSupported, "HostConfig.VolumeDriver"),
        (
            {"Mounts": [{"Type": "volume", "Target": "/d", "VolumeOptions": {"Labels": {"a": "b"}}}]},
            NotSupported,
            "Mounts[0].VolumeOptions",
        ),
    ],
)
def test_what_there_is_not_is_refused_by_name(host: dict[str, Any], error: Any, named: str) -> None:
    with pytest.raises(error) as caught:
        convert({"Image": "web:1", "HostConfig": host})
    assert named in caught.value.message


def test_a_driver_of_volumes_that_are_not_there_asks_for_nothing() -> None:
    converted = convert({"Image": "web:1", "HostConfig": {"VolumeDriver": "nfs", "Binds": ["/host:/data"]}})
    assert converted.extra["VolumeDriver"] == "nfs"


def test_a_volume_is_made_with_its_labels(api: Served, engine: FakeEngine) -> None:
    mount = {"Type": "volume", "Source": "data", "Target": "/d", "VolumeOptions": {"Labels": {"a": "b"}}}
    create(api, HostConfig={"Mounts": [mount]})
    assert engine.volumes.views["data"]["labels"] == {"a": "b"}
    body = {"Image": "gone:1", "HostConfig": {"Mounts": [{**mount, "Source": "other"}]}}
    assert api.call("POST", "/containers/create", body).status == 404
    assert "other" not in engine.volumes.views
    two = [{**mount, "Source": "other"}, {**mount, "Source": "no name", "Target": "/e"}]
    refused = api.call("POST", "/containers/create", {"Image": "web:1", "HostConfig": {"Mounts": two}})
    assert (refused.status, "no name" in refused.json()["message"]) == (400, True)
    assert "other" not in engine.volumes.views


def test_prune_takes_volumes_without_names_that_nobody_has(api: Served, engine: FakeEngine) -> None:
    nameless = api.call("POST", "/volumes/create", {}).json()["Name"]
    assert engine.volumes.views[nameless]["labels"] == {"com.docker.volume.anonymous": ""}
    api.call("POST", "/volumes/create", {"Name": "named"})
    api.call("POST", "/volumes/create", {"Name": "used"})
    create(api, HostConfig={"Binds": ["used:/d"]})

    assert api.call("POST", "/v1.47/volumes/prune").json()["VolumesDeleted"] == [nameless]
    assert api.call("POST", '/volumes/prune?filters={"label":["x"]}').json()["VolumesDeleted"] == []
    everything = api.call("POST", '/volumes/prune?filters={"all":["true"]}').json()
    assert everything["VolumesDeleted"] == ["named"]
    api.call("POST", "/volumes/create", {"Name": "named"})
    assert api.call("POST", "/v1.41/volumes/prune").json()["VolumesDeleted"] == ["named"]
    assert api.call("POST", '/volumes/prune?filters={"all":["maybe"]}').status == 400


def test_prune_takes_containers_that_do_not_run(api: Served) -> None:
    start(api, "runs")
    rests = create(api, "rests", Labels={"keep": "no"})
    kept = create(api, "kept", Labels={"keep": "yes"})
    pruned = api.call("POST", '/containers/prune?filters={"label!":["keep=yes"]}').json()
    assert pruned["ContainersDeleted"] == [rests]
    assert api.call("POST", '/containers/prune?filters={"until":["10m"]}').json()["ContainersDeleted"] is None
    assert api.call("POST", "/containers/prune").json()["ContainersDeleted"] == [kept]
    assert api.call("POST", '/containers/prune?filters={"until":["1m","2m"]}').status == 400


def test_the_driver_none_shows_nobody_what_was_written(api: Served) -> None:
    start(api, HostConfig={"LogConfig": {"Type": "none"}})
    answer = api.call("GET", "/containers/web1/logs?stdout=1")
    assert answer.status == 501
    assert "does not support reading" in answer.json()["message"]
    assert inspect(api)["HostConfig"]["LogConfig"] == {"Type": "none", "Config": {}}


def test_an_image_has_the_nearest_one_that_it_begins_with_as_its_parent() -> None:
    def image(id: str, steps: tuple[str, ...], layers: tuple[str, ...]) -> Any:
        history = tuple({"created_by": step} for step in steps)
        return replace(IMAGE, id=id, history=history, diff_ids=layers)

    base = image("base", ("FROM",), ("l1",))
    middle = image("middle", ("FROM", "RUN"), ("l1", "l2"))
    top = image("top", ("FROM", "RUN", "CMD", "RUN"), ("l1", "l2", "l3"))
    stranger = image("stranger", ("FROM", "RUN"), ("l9",))
    assert parents([base, middle, top]) == {"middle": "base", "top": "middle"}
    assert parents([base, middle, stranger, top]) == {"middle": "base", "top": "middle"}
    assert parents([base, stranger, top]) == {"top": "base"}


def test_an_image_of_another_platform_is_none(api: Served) -> None:
    body = {"Image": "web:1"}
    refused = api.call("POST", "/containers/create?platform=linux/s390x", body)
    assert (refused.status, "does not match the specified platform" in refused.json()["message"]) == (
        404,
        True,
    )
    assert api.call("POST", "/containers/create?platform=linux/amd64", body).status == 201


def test_there_are_no_plugins_and_no_swarm(api: Served) -> None:
    assert api.call("GET", "/plugins").json() == []
    for call in ("GET /services/x", "POST /secrets/create", "GET /tasks/x/logs", "POST /swarm/update"):
        assert api.call(*call.split()).status == 503


def test_files_are_told_as_go_writes_them(api: Served, engine: FakeEngine) -> None:
    create(api)
    answer = api.call("GET", "/containers/web1/archive?path=/file")
    assert (answer.status, answer.body) == (200, b"archive")
    told = json.loads(base64.b64decode(answer.headers["x-docker-container-path-stat"]))
    assert told == {
        "name": "file", "size": 5, "mode": 0o755 | 1 << 23, "mtime": "1970-01-01T00:00:01Z", "linkTarget": "",
    }  # fmt: skip
    head = api.call("HEAD", "/containers/web1/archive?path=/file")
    assert (head.status, head.body) == (200, b"")
    put = api.call("PUT", "/containers/web1/archive?path=/d&noOverwriteDirNonDir=true", b"tar")
    assert (put.status, engine.files.asked) == (200, [("web1", "/d", b"tar", True, False)])
    assert api.call("PUT", "/containers/web1/archive?path=/d&copyUIDGID=1", b"tar").status == 200
    assert engine.files.asked[1] == ("web1", "/d", b"tar", False, True)
    for query in ("", "?path=", "?path=%00"):
        assert api.call("GET", f"/containers/web1/archive{query}").status == 400


@pytest.mark.parametrize(
    ("mode", "go"),
    [
        (0o100644, 0o644),
        (0o040755, 1 << 31 | 0o755),
        (0o120777, 1 << 27 | 0o777),
        (0o041777, 1 << 31 | 1 << 20 | 0o777),
    ],
)
def test_modes_are_those_of_go(mode: int, go: int) -> None:
    assert go_mode(mode) == go
