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
from harness.claims import free_port
from harness.registry import RegistryUnderTest, make_certificates
from integration.conftest import StartAgent
from integration.imageapi.conftest import Mooring

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
    nothing = {"declared": None, "configured": False, "serving": None, "failure": None}
    assert agent.api("GET", PATH) == nothing

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


def test_peers_of_the_configuration_stand_ahead_of_a_declaration(
    start_agent: StartAgent, tmp_path: Path
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("log_level: info\n")
    first, second = (f"127.0.0.1:{free_port()}" for _ in range(2))
    agent = start_agent(image=False, pool=2, arguments=("--config", str(file)))
    agent.api("PUT", PATH, {"listen": first, "plain": True})

    file.write_text(f"peers: {{listen: '{second}', members: ['{first}', '{second}'], plain: true}}\n")
    agent.restart()
    view = agent.api("GET", PATH)
    assert (view["configured"], view["serving"], view["failure"]) == (True, second, None)
    assert view["declared"]["members"] == [first, second]
    assert not agent.api("PUT", PATH, view["declared"])["changed"]
    for method, body in (("PUT", {"listen": first, "plain": True}), ("DELETE", None)):
        refused = agent.request(method, PATH, body)
        assert refused.status == 409
        assert "change peers in its file" in refused.json()["message"]

    # They end with the file, and nothing of before comes back.
    file.write_text("log_level: info\n")
    agent.restart()
    assert agent.api("GET", PATH)["declared"] is None


def test_peers_by_the_command_line(agent: AgentUnderTest, mooring: Mooring, tmp_path: Path) -> None:
    make_certificates(tmp_path)
    address, other = (f"127.0.0.1:{free_port()}" for _ in range(2))
    assert mooring("peers", "show").stdout.splitlines()[-1] == "no peers"
    tls = ("--ca-file", f"{tmp_path}/ca.crt", "--certificate", f"{tmp_path}/server.crt")
    wanted = ("peers", "set", "--listen", address, "--member", address, "--member", other, *tls)
    refused = mooring(*wanted, check=False)
    assert (refused.returncode, "peers.tls is not usable" in refused.stderr) == (1, True)
    wanted = (*wanted, "--key", f"{tmp_path}/server.key", "--uploads", "2")
    assert mooring(*wanted, "--dry-run").stdout == "would create peers peers: there are none\n"
    assert mooring(*wanted).stdout == "create peers peers: there are none\n"
    assert mooring(*wanted).stdout == "unchanged\n"
    lines = mooring("peers", "show").stdout.splitlines()
    assert [line.split() for line in lines[1:3]] == [[address, "this", "host"], [other]]
    assert lines[-1] == f"served on {address}, by a declaration"
    assert agent.api("GET", PATH)["declared"]["uploads"] == 2
    assert mooring("peers", "rm").stdout.startswith("remove peers")
    assert mooring("peers", "rm").stdout == "unchanged\n"


def test_an_agent_without_peers_listens_nowhere(agent: AgentUnderTest) -> None:
    assert agent.process is not None
    sockets = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True, timeout=20).stdout
    assert f"pid={agent.process.pid}," not in sockets
