# SPDX-License-Identifier: Apache-2.0
"""One network across hosts that a playbook makes, and makes larger and smaller while it is used."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness import dns, unix_http
from harness.dns import Answer
from harness.fleet import FleetHosts
from harness.waiting import PATIENCE, eventually
from integration.collection.conftest import end_masters
from integration.collection.playbooks import Controller, Run
from integration.fleet.flows import Flow
from integration.network.topology import Namespace

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel("nftables", "overlay"),
    pytest.mark.slow,
    # Another test's traffic could fill the queue of packets that a processor has for all, netdev_max_backlog.
    pytest.mark.alone,
    pytest.mark.timeout(900),
]

HERE = Path(__file__).parent
NETWORK = "The network"
CONTAINERS = "Containers that tell who they are"
NO_CONTAINERS, NO_NETWORK = "No containers", "No network"


class Fleet:
    """Hosts, and what a user has of them: an inventory, playbooks, and a client of each agent."""

    def __init__(self, hosts: FleetHosts, archive: Path) -> None:
        self.hosts = hosts
        self._archive = archive
        directory = hosts.base / "controller"
        directory.mkdir()
        self.controller = Controller(directory, hosts.base, {})
        self.controller.timeout = round(240 * PATIENCE)  # an agent is installed on several hosts at once

    def group(self, **groups: Iterable[str]) -> None:
        """Write the inventory."""
        inventory = self.hosts.inventory(**groups)
        inventory["all"]["vars"]["mooring_agent_source"] = str(self._archive)
        self.controller.inventory.write_text(yaml.safe_dump(inventory))

    def play(self, playbook: str, *flags: str) -> Run:
        """Run a playbook of this directory, which must not fail."""
        run = self.controller.play(yaml.safe_load((HERE / playbook).read_text()), *flags)
        assert run.code == 0, run.output
        return run

    def ask(self, host: str, path: str) -> Any:
        """An answer of a host's agent."""
        return unix_http.request(self.hosts.socket(host), "GET", f"/mooring/v1/{path}").json()

    def containers(self, *hosts: str) -> dict[str, dict[str, Any]]:
        """The views of the containers of some hosts, by their names."""
        return {view["name"]: view | {"at": host} for host in hosts for view in self.ask(host, "containers")}

    def namespace(self, view: dict[str, Any]) -> Namespace:
        """The network namespace of a container."""
        return Namespace(self.hosts.network_of(view["at"], view["pid"]))

    def execute(self, view: dict[str, Any], *argv: str) -> str:
        """What a program in a container prints."""
        path = f"/mooring/v1/containers/{view['id']}/exec"
        said = unix_http.request(self.hosts.socket(view["at"]), "POST", path, {"argv": argv}).json()
        assert said["exit_code"] == 0, said
        return str(said["stdout"])

    def look_up(self, client: dict[str, Any], name: str, kind: str) -> Answer:
        """Ask whom a container asks, from within it."""
        lines = self.execute(client, "cat", "/etc/resolv.conf").splitlines()
        [resolver] = [line.split()[1] for line in lines if line.startswith("nameserver ")]
        with self.namespace(client).open_socket(socket.SOCK_DGRAM, resolver) as made:
            return dns.ask(made, resolver, name, kind)

    def places(self, client: dict[str, Any], server: dict[str, Any]) -> list[str]:
        """The addresses at which one container finds another by its name, all that it has."""
        on = server["networks"]["mesh"]
        addresses = [on["ipv4_address"], on["ipv6_address"]]

        def found() -> bool:
            said = [self.look_up(client, server["name"], kind).values for kind in ("A", "AAAA")]
            assert said == [(address,) for address in addresses]
            return True

        eventually(found, what=f"{server['name']} as {client['name']} finds it")
        return addresses


def who_answers(where: Namespace, address: str) -> str:
    """The name of the container that has an address, as it tells it itself."""
    with where.connect(address, 80) as connection:
        connection.sendall(b"GET /hostname HTTP/1.0\r\n\r\n")
        return connection.makefile().read().split()[-1]


def every_pair_reaches_each_other(fleet: Fleet, *hosts: str) -> None:
    """By name, at whichever address of it."""
    views = fleet.containers(*hosts)
    assert len(views) == 3 * len(hosts)
    for client in views.values():
        where = fleet.namespace(client)
        for server in views.values():
            for address in fleet.places(client, server):
                assert who_answers(where, address) == server["name"], (client["name"], address)
            asked = f"http://{server['name']}/hostname"
            assert fleet.execute(client, "wget", "-qO-", asked).strip() == server["name"], client["name"]


def steps(run: Run, task: str) -> dict[str, list[tuple[str, str]]]:
    """What a task did, or in check mode would have done, by host and item: without the reasons, which tell in
    check mode what is still missing, too.
    """
    return {
        f"{line['host']} {result.get('item', '')}".strip(): [
            (action["action"], action["name"]) for action in result["actions"]
        ]
        for line in run.lines
        if line.get("task") == task
        for result in line["result"].get("results", [line["result"]])
    }


def changed(run: Run) -> dict[str, int]:
    """How many changes each host has had."""
    return {line["host"]: line["result"]["changed"] for line in run.lines if line["status"] == "stats"}


@pytest.fixture
def fleet(project_root: Path, tmp_path: Path) -> Iterator[Fleet]:
    """Four hosts with nothing on them."""
    archive = tmp_path / "mooring.pyz"
    subprocess.run(
        [sys.executable, project_root / "script" / "zip_agent.py", archive], check=True, timeout=100
    )
    hosts = FleetHosts(project_root, 4)
    with ExitStack() as stack:
        stack.callback(hosts.down)
        hosts.up()
        fleet = Fleet(hosts, archive)
        stack.callback(end_masters, fleet.controller)
        yield fleet


def test_playbook_adds_a_host_and_removes_one_while_traffic_flows(fleet: Fleet) -> None:
    one, two, three, four = fleet.hosts.names
    fleet.group(mesh=[one, two, three])
    fleet.play("agents.yml")
    fleet.play("site.yml")
    again = fleet.play("site.yml")
    assert changed(again) == {one: 0, two: 0, three: 0}, again.output
    every_pair_reaches_each_other(fleet, one, two, three)
    before = fleet.containers(one, two)

    with ExitStack() as stack:
        flows = [
            stack.enter_context(Flow(fleet.namespace(client), fleet.namespace(server), address))
            for client, server in (
                (before[f"{one}-a"], before[f"{two}-a"]),
                (before[f"{two}-b"], before[f"{one}-b"]),
            )
            for address in fleet.places(client, server)
        ]
        # A user adds one and takes one away, has it told what would be, and lets it be so.
        fleet.group(mesh=[one, two, four], leaving=[three])
        fleet.play("agents.yml")
        checked = fleet.play("site.yml", "--check", "--diff")
        done = fleet.play("site.yml", "--diff")
        assert [flow.lost() for flow in flows] == [[] for _ in flows]
        assert min(flow.sent for flow in flows) > 500

    assert steps(checked, NETWORK) == {
        one: [("update", "mesh")],
        two: [("update", "mesh")],
        four: [("create", "mesh")],
    }
    assert steps(checked, NO_NETWORK) == {three: [("remove", "mesh")]}
    assert len(steps(checked, NO_CONTAINERS)) == 3
    for task in (NETWORK, CONTAINERS, NO_CONTAINERS, NO_NETWORK):
        assert steps(done, task) == steps(checked, task), task
    updates = [
        action
        for line in checked.lines
        if line.get("task") == NETWORK
        for action in line["result"]["actions"]
        if action["action"] == "update"
    ]
    assert len(updates) == 2
    assert all(name in update["reason"] for update in updates for name in (three, four)), updates
    last = fleet.play("site.yml")
    assert changed(last) == dict.fromkeys((one, two, three, four), 0), last.output

    every_pair_reaches_each_other(fleet, one, two, four)
    for client in fleet.containers(one, two, four).values():
        assert fleet.look_up(client, f"{three}-a", "A").code == dns.NXDOMAIN, client["name"]
    after = fleet.containers(one, two)
    assert {name: view["pid"] for name, view in after.items()} == {
        name: view["pid"] for name, view in before.items()
    }
    assert "mesh" not in [network["name"] for network in fleet.ask(three, "networks")]
    assert fleet.ask(three, "containers") == []
    assert "vxlan" not in fleet.hosts.run(three, "ip", "-d", "link")
