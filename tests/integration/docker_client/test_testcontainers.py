# SPDX-License-Identifier: Apache-2.0
"""testcontainers for Python: containers that live as long as a test of somebody's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import eventually
from harness.web import fetched

pytest.importorskip("testcontainers")

from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer
from testcontainers.core.image import DockerImage
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import (
    ExecWaitStrategy,
    HealthcheckWaitStrategy,
    HttpWaitStrategy,
    LogMessageWaitStrategy,
)

pytestmark = pytest.mark.root

SERVE = "echo listening; exec httpd -f -p 8080 -h /srv"


@pytest.fixture(autouse=True)
def here(agent: AgentUnderTest, tidy: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use this agent, and no reaper: its image is nowhere to be had here."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{agent.socket}")
    monkeypatch.setenv("DOCKER_CONFIG", str(agent.base / "docker"))
    monkeypatch.setattr(testcontainers_config, "ryuk_disabled", True)
    yield
    assert agent.docker("ps", "-aq").stdout == ""
    assert agent.docker("volume", "ls", "-q").stdout == ""


def container(command: str = SERVE, **options: Any) -> DockerContainer:
    made = DockerContainer("busybox", **options).with_command(["sh", "-c", command])
    return made.with_kwargs(init=True)


def answer(served: DockerContainer, path: str = "index.html") -> str:
    url = f"http://{served.get_container_host_ip()}:{served.get_exposed_port(8080)}/{path}"
    return fetched(url)  # it says that it is listening before it is


def test_a_server_with_a_file_of_the_test(agent: AgentUnderTest, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("hello\n")
    served = container().with_exposed_ports(8080).with_volume_mapping(tmp_path, "/srv")
    served = served.waiting_for(LogMessageWaitStrategy("listening")).with_env("KEY", "value")
    with served as running:
        assert answer(running) == "hello\n"
        assert running.get_logs() == (b"listening\n", b"")
        done = running.exec(["sh", "-c", "echo $KEY; exit 3"])
        assert (done.exit_code, done.output) == (3, b"value\n")
        running.copy_into_container(b"more\n", "/tmp/more", mode=0o600)
        running.copy_from_container("/tmp/more", tmp_path / "back")
        info = running.get_container_info()
        assert info is not None
        assert info.State is not None
        assert info.State.Running
    assert (tmp_path / "back").read_bytes() == b"more\n"


def test_waiting_for_what_a_container_says_of_itself(tmp_path: Path) -> None:
    ready = "sleep 0.5; mkdir -p /srv; echo ok > /srv/index.html; "
    with (
        container(ready + SERVE)
        .with_exposed_ports(8080)
        .waiting_for(HttpWaitStrategy(8080, "/index.html").for_status_code(200)) as served
    ):
        assert answer(served) == "ok\n"
    with container(ready + SERVE).waiting_for(ExecWaitStrategy(["test", "-e", "/srv/index.html"])) as served:
        assert served.exec(["cat", "/srv/index.html"]).output == b"ok\n"
    check = {"test": ["CMD", "test", "-e", "/srv/index.html"], "interval": 200_000_000}
    watched = container(ready + SERVE).with_kwargs(healthcheck=check, init=True)
    with watched.waiting_for(HealthcheckWaitStrategy()) as served:
        assert served.get_wrapped_container().health == "healthy"
    with container("exit 3") as ended:
        assert ended.wait() == 3


def test_containers_meet_on_a_network_and_share_a_volume() -> None:
    keep = "echo kept > /data/file; echo written; " + SERVE.replace("/srv", "/data")
    with (
        Network() as network,
        container(keep, volumes=[("shared", "/data", "rw")])
        .with_network(network)
        .with_network_aliases("store")
        .waiting_for(LogMessageWaitStrategy("written")),
        container("exec sleep 600", volumes=[("shared", "/data", "ro")]).with_network(network) as other,
    ):
        assert other.exec(["cat", "/data/file"]).output == b"kept\n"
        # What waits for "written" does not wait for the server after it.
        eventually(lambda: other.exec(["wget", "-qO-", "http://store:8080/file"]).output == b"kept\n")
        volume = other.get_docker_client().client.volumes.get("shared")
    volume.remove()


def test_an_image_of_the_test(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text('FROM busybox\nRUN echo built > /made\nCMD ["cat", "/made"]\n')
    with DockerImage(path=tmp_path, tag="of-a-test:1") as image, DockerContainer(str(image)) as ran:
        assert ran.wait() == 0
        assert ran.get_logs() == (b"built\n", b"")
