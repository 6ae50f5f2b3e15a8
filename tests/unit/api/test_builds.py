# SPDX-License-Identifier: Apache-2.0
"""Builds as the two APIs take and tell them."""

from __future__ import annotations

import base64
import json
from typing import Any
from urllib.parse import urlencode

import pytest

from mooring_agent.api.docker.builds import build_options
from mooring_agent.api.fleet.builds import read_options
from mooring_agent.api.query import Query
from mooring_agent.errors import InvalidSpec, NotSupported
from mooring_agent.images.build.errors import BuildFailed
from mooring_agent.images.build.options import BuildOptions, RunLimits
from mooring_agent.images.dockerfile.errors import Location
from mooring_agent.images.platform import Platform

from .fake_engine import IMAGE, FakeEngine
from .served import Served


def docker(**parameters: Any) -> BuildOptions:
    return build_options(Query(urlencode(parameters, doseq=True)))


def lines(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


def test_the_parameters_of_docker() -> None:
    found = docker(
        dockerfile="d/Web", t=["a:1", "b"], nocache="1", pull="1", target="one", networkmode="none",
        buildargs=json.dumps({"A": "1", "UNSET": None}), labels=json.dumps({"l": "v"}), memory=1 << 24,
        memswap=1 << 25, cpuquota=50_000, cpusetcpus="0", shmsize=1 << 20, platform="linux/arm64",
        extrahosts="a:1.2.3.4,b:5.6.7.8", rm="1", forcerm="1", version="1", cachefrom="[]", ulimits="null",
    )  # fmt: skip
    assert found == BuildOptions(
        dockerfile="d/Web",
        tags=("a:1", "b"),
        args={"A": "1"},
        labels={"l": "v"},
        target="one",
        no_cache=True,
        pull=True,
        network="none",
        platform=Platform("linux", "arm64"),
        limits=RunLimits(
            memory=1 << 24,
            memory_swap=1 << 25,
            cpus=0.5,
            cpuset_cpus="0",
            shm_size=1 << 20,
            extra_hosts=("a:1.2.3.4", "b:5.6.7.8"),
        ),
    )
    assert docker(networkmode="default") == BuildOptions()
    assert docker(cachefrom='["a", "b:1"]').cache_from == ("a", "b:1")
    limits = docker(ulimits='[{"Name":"nofile","Soft":1,"Hard":2}]', cgroupparent="builds").limits
    assert limits == RunLimits(ulimits={"nofile": {"soft": 1, "hard": 2}}, cgroup="builds")
    assert docker(remote="https://example.org/x.git#a:b").remote == "https://example.org/x.git#a:b"


@pytest.mark.parametrize(
    "parameters",
    [
        {"version": "2"},
        {"outputs": '[{"Type":"local"}]'},
        {"squash": "1"},
        {"securityopt": '["seccomp=unconfined"]'},
        {"isolation": "hyperv"},
    ],
)
def test_what_docker_may_ask_and_is_not_there_is_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(NotSupported):
        docker(**parameters)


@pytest.mark.parametrize(
    "parameters",
    [{"buildargs": "x"}, {"labels": "[]"}, {"buildargs": '{"A": 1}'}, {"extrahosts": '["a:1.2.3.4"'}],
)
def test_what_is_not_well_formed_is_refused(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidSpec):
        docker(**parameters)


def test_the_options_of_the_mooring_api() -> None:
    document = {
        "text": "FROM x", "tags": ["a"], "args": {"A": "1"},
        "secrets": {"s": base64.b64encode(b"hush").decode()}, "memory": 1 << 24,
        "source_date_epoch": 5, "platform": "amd64", "time_limit": 3,
    }  # fmt: skip
    found = read_options(json.dumps(document).encode())
    assert found == BuildOptions(
        text=b"FROM x",
        tags=("a",),
        args={"A": "1"},
        secrets={"s": b"hush"},
        epoch=5,
        platform=Platform("linux", "amd64"),
        time_limit=3.0,
        limits=RunLimits(memory=1 << 24),
    )
    assert "hush" not in repr(found)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b"FROM busybox", "not JSON"),
        (b"[]", "no JSON object"),
        (b'{"tag": "x"}', 'no option "tag"'),
        (b'{"secrets": {"s": "?"}}', "secret s is not in base64"),
        (b'{"memory": -1}', "memory"),
    ],
)
def test_what_the_mooring_api_refuses(line: bytes, part: str) -> None:
    with pytest.raises(InvalidSpec, match=part):
        read_options(line)


def test_options_that_cannot_be_are_refused() -> None:
    for options in (
        BuildOptions(tags=("a@sha256:" + "1" * 64,)),
        BuildOptions(tags=("No Name",)),
        BuildOptions(secrets={"a b": b""}),
        BuildOptions(secrets={"a": bytes(1 << 20)}),
        BuildOptions(epoch=-1),
        BuildOptions(args={"SOURCE_DATE_EPOCH": "yesterday"}),
        BuildOptions(time_limit=0),
        BuildOptions(network="container:other"),
    ):
        with pytest.raises(InvalidSpec):
            options.checked()


def test_a_build_is_told_as_docker_renders_it(api: Served, engine: FakeEngine) -> None:
    answer = api.call("POST", "/v1.43/build?t=web:2", b"the context")
    assert lines(answer.body) == [
        {"stream": "Step 1/1 : FROM x\n"},
        {"stream": "said\n"},
        {"aux": {"ID": IMAGE.id}},
        {"stream": f"Successfully built {'ab' * 6}\n"},
        {"stream": "Successfully tagged web:2\n"},
    ]
    assert engine.builds.contexts == [b"the context"]
    config = base64.urlsafe_b64encode(b'{"r.example": {"username": "somebody", "password": "hush"}}')
    quiet = api.call("POST", "/build?q=1", b"x", X_Registry_Config=config.decode())
    assert engine.builds.options[-1].credentials["r.example"].password == "hush"
    assert lines(quiet.body) == [{"aux": {"ID": IMAGE.id}}, {"stream": f"{IMAGE.id}\n"}]

    engine.builds.failure = BuildFailed(
        Location("Dockerfile", 2, 2, "RUN x"), 5, "end", ("/bin/sh", "-c", "x")
    )
    (failed,) = lines(api.call("POST", "/build?q=1", b"x").body)
    assert failed["errorDetail"]["code"] == 5
    assert failed["error"] == (
        "The command '/bin/sh -c x' returned a non-zero code: 5: "
        "Dockerfile:2: RUN x ended with exit code 5; the end of its output:\nend"
    )
    assert api.call("POST", "/build?version=2", b"x").status == 501


def test_a_build_is_told_line_by_line(api: Served, engine: FakeEngine) -> None:
    answer = api.call("POST", "/mooring/v1/builds", b'{"tags": ["web:2"]}\nthe context')
    first, second, last = lines(answer.body)
    assert (first["progress"]["detail"], second["progress"]["step"]) == ("Step 1/1 : FROM x", "output")
    assert last["image"]["id"] == IMAGE.id
    assert engine.builds.options[0].tags == ("web:2",)
    assert engine.builds.contexts == [b"the context"]

    engine.builds.failure = ZeroDivisionError("a detail")
    error = lines(api.call("POST", "/mooring/v1/builds", b"{}\n").body)[-1]["error"]
    assert error["status"] == 500
    assert "a detail" not in error["message"]
    assert api.call("POST", "/mooring/v1/builds", b'{"x": 1}\n').status == 400


def test_the_cache_is_pruned_as_docker_asks(api: Served) -> None:
    query = urlencode({"all": "1", "filters": json.dumps({"until": ["1m"]}), "keep-storage": "7"})
    answer = api.call("POST", f"/build/prune?{query}").json()
    assert answer == {
        "CachesDeleted": ["unused_for=60.0", "keep_bytes=7", "everything=True"],
        "SpaceReclaimed": 5,
    }
