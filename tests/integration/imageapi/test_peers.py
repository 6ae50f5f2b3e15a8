# SPDX-License-Identifier: Apache-2.0
"""Agents that are each other's peers, declared through the Mooring API."""

from __future__ import annotations

import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.registry import RegistryUnderTest, free_port, make_certificates
from integration.conftest import StartAgent

pytestmark = [pytest.mark.root, pytest.mark.docker]

PATH = "/mooring/v1/peers"
SIZE = 3 << 20


@pytest.fixture(scope="module")
def plain() -> Iterator[RegistryUnderTest]:
    with RegistryUnderTest() as registry:
        yield registry


@pytest.fixture
def fleet(start_agent: StartAgent, tmp_path: Path) -> list[AgentUnderTest]:
    """Return three agents with certificates of one CA, in `tmp_path`, that know each other."""
    make_certificates(tmp_path)
    agents = [start_agent(image=not number, pool=2) for number in range(3)]
    members = [f"127.0.0.1:{free_port()}" for _ in agents]
    files = {"ca_file": "ca.crt", "certificate": "server.crt", "key": "server.key"}
    tls = {key: str(tmp_path / name) for key, name in files.items()}
    for agent, address in zip(agents, members, strict=True):
        agent.api("PUT", PATH, {"listen": address, "members": members, "tls": tls})
    return agents


def pushed(agent: AgentUnderTest, name: str) -> None:
    """Push busybox with a layer of SIZE bytes that do not pack."""
    script = f"head -c {SIZE} /dev/urandom > /noise"
    agent.docker("run", "--name", "maker", "busybox", "sh", "-c", script)
    agent.docker("commit", "--change", "CMD wc -c /noise", "maker", name)
    agent.docker("rm", "maker")
    agent.docker("push", name)


def test_agents_pull_from_each_other(
    fleet: list[AgentUnderTest], plain: RegistryUnderTest, tmp_path: Path
) -> None:
    first, *others = fleet
    name = f"{plain.host}/fleet/app:1"
    pushed(first, name)
    plain.forget()
    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(agent.docker, "run", "--rm", name) for agent in others]:
            assert done.result(60).stdout == f"{SIZE} /noise\n"
    assert plain.traffic.received < SIZE / 10
    # It lasts beyond the agent that was told.
    serving = first.api("GET", PATH)["serving"]
    first.restart()
    assert first.api("GET", PATH)["serving"] == serving
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.crt"))
    with pytest.raises((OSError, ssl.SSLError)):
        urllib.request.urlopen(f"https://{serving}/v2/", timeout=10, context=context)
    context.load_cert_chain(tmp_path / "client.crt", tmp_path / "client.key")
    with urllib.request.urlopen(f"https://{serving}/v2/", timeout=10, context=context) as response:
        assert response.status == 200


def test_peers_are_declared_changed_and_removed(agent: AgentUnderTest) -> None:
    address, other = (f"127.0.0.1:{free_port()}" for _ in range(2))
    spec = {"listen": address, "members": [address, other], "plain": True}
    assert agent.api("GET", PATH) == {"declared": None, "serving": None, "failure": None}

    def answers(at: str) -> bool:
        try:
            with urllib.request.urlopen(f"http://{at}/v2/", timeout=10) as response:
                return bool(response.status == 200)
        except urllib.error.URLError:
            return False

    planned = agent.api("PUT", f"{PATH}?dry_run=true", spec)
    assert (planned["changed"], answers(address)) == (True, False)
    assert agent.api("PUT", PATH, spec)["changed"]
    assert answers(address)
    assert not agent.api("PUT", PATH, spec)["changed"]
    changed = agent.api("PUT", PATH, spec | {"members": [address]})
    assert changed["before"]["members"] == [address, other]
    assert changed["after"]["members"] == [address]
    moved = agent.api("PUT", PATH, spec | {"listen": other, "address": other})
    assert moved["changed"]
    assert (answers(address), answers(other)) == (False, True)
    # What is no use changes nothing.
    refused = agent.request("PUT", PATH, spec | {"listen": "0.0.0.0:1"})
    assert refused.status == 400
    assert "loopback" in refused.json()["message"]
    bad = {"ca_file": "/none", "certificate": "/none", "key": "/none"}
    assert agent.request("PUT", PATH, {"listen": address, "tls": bad}).status == 400
    assert answers(other)
    assert agent.api("DELETE", PATH)["changed"]
    assert not agent.api("DELETE", PATH)["changed"]
    assert not answers(other)


def test_an_agent_without_peers_listens_nowhere(agent: AgentUnderTest) -> None:
    assert agent.process is not None
    sockets = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True, timeout=20).stdout
    assert f"pid={agent.process.pid}," not in sockets
