# SPDX-License-Identifier: Apache-2.0
"""Images that are mounted in containers made from others, by Docker's clients."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest

docker = pytest.importorskip("docker")

pytestmark = pytest.mark.root

DOCKERFILE = """
FROM busybox
RUN mkdir -p /data/below && echo lower >/data/file && echo gone >/data/gone && echo part >/data/below/part
RUN rm /data/gone && echo upper >/data/file && ln -s /data/below /data/link
"""


@pytest.fixture
def image(agent: AgentUnderTest, client: Any, tmp_path: Path) -> Iterator[str]:
    """An image of three layers, one of which takes back what is below."""
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    client.images.build(path=str(tmp_path), tag="content")
    yield "content"
    for container in client.containers.list(all=True):
        container.remove(force=True)
    client.images.remove("content", force=True)
    client.images.prune()


def body(mount: dict[str, Any], *command: str) -> dict[str, Any]:
    """What clients of API 1.48 send; the docker client that is here may be older."""
    return {"Image": "busybox", "Cmd": list(command), "HostConfig": {"Mounts": [{"Type": "image", **mount}]}}


def made(agent: AgentUnderTest, name: str, mount: dict[str, Any], *command: str) -> None:
    answer = agent.request("POST", f"/containers/create?name={name}", body(mount, *command))
    assert answer.status == 201, answer.body


def output(agent: AgentUnderTest, client: Any, mount: dict[str, Any], *command: str) -> str:
    made(agent, "looks", mount, *command)
    container = client.containers.get("looks")
    try:
        container.start()
        container.wait(timeout=30)
        return container.logs().decode()
    finally:
        container.remove(force=True)


def test_an_image_shows_its_layers_and_takes_no_writes(
    agent: AgentUnderTest, client: Any, image: str
) -> None:
    script = "cat /image/data/file; ls /image/data; touch /image/new"
    shown = output(agent, client, {"Source": image, "Target": "/image"}, "sh", "-c", script)
    assert shown.splitlines()[:4] == ["upper", "below", "file", "link"]
    assert "Read-only file system" in shown


def test_an_image_of_one_layer_is_mounted(agent: AgentUnderTest, client: Any) -> None:
    mount = {"Source": "busybox", "Target": "/image", "ReadOnly": True}
    assert output(agent, client, mount, "/image/bin/busybox", "echo", "one") == "one\n"
    assert output(agent, client, mount, "ls", "/image") == output(agent, client, mount, "ls", "/image")


def test_the_docker_client_mounts_an_image(agent: AgentUnderTest, image: str) -> None:
    """It sends the type in any version of the API, and the part from 1.48 on alone."""
    shown = agent.docker(
        "run", "--rm", "--mount", f"type=image,source={image},target=/at", "busybox", "cat", "/at/data/file"
    )
    assert shown.stdout == "upper\n"


@pytest.mark.parametrize(
    ("subpath", "path", "content"),
    [
        ("data/below", "/at/part", "part\n"),
        ("data/link", "/at/part", "part\n"),
        ("data/file", "/at", "upper\n"),
    ],
)
def test_a_part_of_an_image_is_mounted(
    agent: AgentUnderTest, client: Any, image: str, subpath: str, path: str, content: str
) -> None:
    mount = {"Source": image, "Target": "/at", "ImageOptions": {"Subpath": subpath}}
    assert output(agent, client, mount, "cat", path) == content


def test_an_image_stays_while_a_container_has_it_mounted(
    agent: AgentUnderTest, client: Any, image: str, tmp_path: Path
) -> None:
    made(agent, "holds", {"Source": image, "Target": "/image"}, "sleep", "600")
    container = client.containers.get("holds")
    (shown,) = container.attrs["HostConfig"]["Mounts"]
    assert (shown["Type"], shown["Source"], shown["Target"]) == ("image", "content", "/image")
    with pytest.raises(docker.errors.APIError, match="in use by a container"):
        client.images.remove(client.images.get(image).id)
    client.images.prune({"dangling": False})
    # At rest, running, after the agent was killed, and started again by the next one.
    agent.docker("cp", "holds:/image/data/file", str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "upper\n"
    container.start()
    agent.kill9()
    agent.start()
    assert container.exec_run(["cat", "/image/data/file"]).output == b"upper\n"
    container.restart(timeout=0)
    assert container.exec_run(["cat", "/image/data/file"]).output == b"upper\n"


def test_an_image_that_is_not_there_and_users_of_its_own_are_said(agent: AgentUnderTest, image: str) -> None:
    answer = agent.request("POST", "/containers/create", body({"Source": "gone:1", "Target": "/i"}, "true"))
    assert answer.status == 400
    assert "gone:1" in answer.json()["message"]
    mapped = {
        "image": "busybox",
        "userns": "auto",
        "volumes": [{"type": "image", "source": image, "target": "/i"}],
    }
    answer = agent.request("PUT", "/mooring/v1/containers/mapped", mapped)
    assert "users of its own, and content mounted at /i" in answer.body.decode()
