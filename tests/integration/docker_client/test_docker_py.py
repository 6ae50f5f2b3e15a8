# SPDX-License-Identifier: Apache-2.0
"""docker-py, which reads more fields than the command-line client and parses streams its own way."""

from __future__ import annotations

from typing import Any

import pytest

docker = pytest.importorskip("docker")

pytestmark = pytest.mark.root


def test_run(client: Any) -> None:
    assert client.containers.run("busybox", "echo hi", remove=True) == b"hi\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run("busybox", ["sh", "-c", "echo no >&2; exit 3"], remove=True)
    assert (caught.value.exit_status, caught.value.stderr) == (3, b"no\n")


def test_every_output_of_an_exec_arrives(client: Any) -> None:
    container = client.containers.run("busybox", "sleep 600", detach=True)
    for _ in range(25):
        done = container.exec_run(["sh", "-c", "echo a; echo b >&2; exit 4"], demux=True)
        assert (done.exit_code, done.output) == (4, (b"a\n", b"b\n"))


def test_a_container_shows_what_it_was_given(client: Any) -> None:
    container = client.containers.run(
        "busybox",
        "sleep 600",
        detach=True,
        name="whole",
        mem_limit="32m",
        ports={"80/tcp": None},
        environment={"A": "1"},
        labels={"x": "y"},
        tmpfs={"/run": "size=1m"},
        restart_policy={"Name": "on-failure", "MaximumRetryCount": 2},
        volumes={"/tmp": {"bind": "/host", "mode": "ro"}},
    )
    container.reload()
    assert container.status == "running"
    assert container.labels["x"] == "y"
    assert int(container.ports["80/tcp"][0]["HostPort"]) > 0
    assert container.attrs["HostConfig"]["Binds"] == ["/tmp:/host:ro"]
    assert container.image.tags == ["busybox:latest"]
    assert next(container.stats(decode=True))["memory_stats"]["limit"] == 32 << 20
    assert container.top()["Processes"]
    container.stop(timeout=0)
    assert container.wait()["StatusCode"] == 137
    assert [each.name for each in client.containers.list(all=True, filters={"label": "x=y"})] == ["whole"]


def test_networks_volumes_images(client: Any) -> None:
    network = client.networks.create("py-net", driver="bridge", labels={"a": "b"})
    assert [each.id for each in client.networks.list(names=["py-net"])] == [network.id]
    network.remove()
    volume = client.volumes.create("py-vol", labels={"q": "1"})
    assert volume.attrs["Labels"] == {"q": "1"}
    volume.remove()
    image = client.images.get("busybox")
    image.tag("py-image", "1")
    assert any("py-image:1" in each.tags for each in client.images.list())
    client.images.remove("py-image:1")
    assert image.history()


def test_events_are_decoded(client: Any) -> None:
    stream = client.events(decode=True, filters={"type": "container"})
    client.containers.run("busybox", "true", remove=True)
    assert [next(stream)["Action"] for _ in range(2)] == ["create", "start"]
    stream.close()
