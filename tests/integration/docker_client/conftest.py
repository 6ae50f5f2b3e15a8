# SPDX-License-Identifier: Apache-2.0
"""What the tests with docker's clients share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from harness.agent import AgentUnderTest


@pytest.fixture
def tidy(agent: AgentUnderTest) -> Iterator[None]:
    """Leave the agent without containers, and without networks of a test's own."""
    yield
    left = agent.docker("ps", "-aq").stdout.split()
    if left:
        agent.docker("rm", "-f", "-v", *left)
    agent.docker("network", "prune", "-f")


@pytest.fixture
def client(agent: AgentUnderTest) -> Iterator[Any]:
    """docker-py's client; what was made through it is removed."""
    docker = pytest.importorskip("docker")
    made = docker.DockerClient(base_url=f"unix://{agent.socket}", timeout=60)
    yield made
    for container in made.containers.list(all=True):
        container.remove(force=True, v=True)
    for network in made.networks.list(filters={"type": "custom"}):
        network.remove()
    for volume in made.volumes.list():
        volume.remove()
    made.close()
