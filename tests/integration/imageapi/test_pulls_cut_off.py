# SPDX-License-Identifier: Apache-2.0
"""Pulls that are cut off: by the death of the agent, and by a client that leaves."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable
from http.client import HTTPException
from urllib.parse import urlsplit

import pytest

from harness.agent import AgentUnderTest
from harness.hostile_registry import Handler, HostileRegistry, stall
from harness.images import MadeImage, make_image
from harness.waiting import eventually
from mooring_agent.images.content import MEDIA_MANIFEST

pytestmark = pytest.mark.root

_SIZE = 3 << 20
_LIMIT = 30.0


def offered(registry: HostileRegistry) -> tuple[MadeImage, str]:
    """An image at the registry, and its name."""
    image = make_image({"data": random.Random(4).randbytes(_SIZE)})
    registry.blobs.update(image.blobs)
    registry.manifests["1"] = (MEDIA_MANIFEST, image.manifest)
    return image, f"{registry.host}/app:1"


class Dripping:
    """Sends a blob slowly, and tells when its client has gone."""

    def __init__(self) -> None:
        self.begun, self.gone = threading.Event(), threading.Event()

    def __call__(self, handler: Handler) -> bool:
        data = handler.registry.blobs[urlsplit(handler.path).path.rpartition("/")[2]]
        handler.close_connection = True
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        self.begun.set()
        try:
            for start in range(0, len(data), 16384):
                handler.wfile.write(data[start : start + 16384])
                handler.wfile.flush()
                if handler.registry.over.wait(0.1):
                    break
        except OSError:
            self.gone.set()
        return True


def test_a_killed_agent_goes_on_with_its_pull(
    start_agent: Callable[..., AgentUnderTest], hostile: HostileRegistry
) -> None:
    agent = start_agent(image=False)
    image, name = offered(hostile)
    layer = image.layers[0].digest
    hostile.fault(f"GET .*/blobs/{layer}", stall(after=2 << 20))
    asking = threading.Thread(target=_ignored, args=(agent, name))
    asking.start()
    partial = agent.config.data_root / "images/ingest" / f"partial-{layer[7:]}"
    eventually(lambda: partial.exists() and partial.stat().st_size > 1 << 20, _LIMIT, "half of the layer")
    agent.kill9()
    asking.join(_LIMIT)
    assert not asking.is_alive()

    agent.start()
    assert agent.api("GET", "/mooring/v1/images") == []
    done = agent.api("POST", f"/mooring/v1/images/{name}/pull", {})
    assert (done["changed"], done["digest"]) == (True, image.digest)
    asked = [each for each in hostile.asked if each.path.endswith(layer) and each.method == "GET"]
    assert asked[-1].headers.get("Range", "").startswith("bytes=")
    assert agent.api("POST", f"/mooring/v1/images/{name}/verify", {})["sound"]
    assert not partial.exists()


def _ignored(agent: AgentUnderTest, name: str) -> None:
    try:
        agent.request("POST", f"/mooring/v1/images/{name}/pull", {})
    except (OSError, HTTPException):
        pass  # the agent was killed, or has ended


@pytest.mark.docker
def test_a_pull_ends_when_its_last_client_has_left(
    start_agent: Callable[..., AgentUnderTest], hostile: HostileRegistry
) -> None:
    agent = start_agent(image=False)
    image, name = offered(hostile)
    dripping = Dripping()
    hostile.fault(f"GET .*/blobs/{image.layers[0].digest}", dripping)
    clients = [
        subprocess.Popen(
            agent.docker_command("pull", name),
            env=agent.docker_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for _ in range(2)
    ]
    try:
        assert dripping.begun.wait(_LIMIT)
        for client in clients:  # both see it
            assert client.stdout is not None
            assert b"Pulling from app" in client.stdout.readline()
        clients[0].kill()
        clients[0].wait(_LIMIT)
        assert not dripping.gone.wait(1.0)
        clients[1].kill()
        clients[1].wait(_LIMIT)
        assert dripping.gone.wait(_LIMIT)
    finally:
        for client in clients:
            client.kill()
            client.wait(_LIMIT)
            assert client.stdout is not None
            client.stdout.close()
    assert hostile.count(f"GET .*/blobs/{image.layers[0].digest}") == 1
    assert f"Downloaded newer image for {name}" in agent.docker("pull", name).stdout


def test_an_agent_stops_in_the_middle_of_a_pull(
    start_agent: Callable[..., AgentUnderTest], hostile: HostileRegistry
) -> None:
    agent = start_agent(image=False)
    image, name = offered(hostile)
    dripping = Dripping()
    hostile.fault(f"GET .*/blobs/{image.layers[0].digest}", dripping)
    asking = threading.Thread(target=_ignored, args=(agent, name))
    asking.start()
    assert dripping.begun.wait(_LIMIT)
    agent.restart()
    asking.join(_LIMIT)
    assert agent.api("POST", f"/mooring/v1/images/{name}/pull", {})["digest"] == image.digest
