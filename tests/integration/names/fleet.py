# SPDX-License-Identifier: Apache-2.0
"""Hosts on one wire, each a network namespace with an agent of its own, and a network across them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness.agent import AgentUnderTest
from integration.conftest import StartAgent
from integration.names.asking import run
from integration.network.topology import NamedNamespace, Wire

SUBNET = "10.200.0.0/16"
PATIENT = ("-m", "mooring_agent")
IMPATIENT = (str(Path(__file__).with_name("impatient_agent.py")),)


class Member:
    """A host of a fleet."""

    def __init__(self, name: str, number: int, *, ipv6: bool) -> None:
        self.name = name
        self.address = f"2001:db8::{number:x}" if ipv6 else f"192.0.2.{number}"
        self.gateway = f"10.200.{number}.1"
        self.namespace = NamedNamespace()
        self.agent: AgentUnderTest


class Fleet:
    """Hosts on one wire; `program` is what agents are started by, `underlay` the IP version of the wire."""

    def __init__(self, start_agent: StartAgent, program: tuple[str, ...], underlay: int) -> None:
        self._start_agent = start_agent
        self._program = program
        self._ipv6 = underlay == 6
        self.wire = Wire()
        self.members: dict[str, Member] = {}

    def add(self, *names: str) -> None:
        """More hosts, whose addresses end with 11, 12 and so on."""
        for name in names:
            number = len(self.members) + 11
            member = Member(name, number, ipv6=self._ipv6)
            self.members[name] = member
            where = member.namespace
            self.wire.plug(where, f"h-{name}", f"{member.address}/{64 if self._ipv6 else 24}")
            program = ("nsenter", f"--net={where.path}", sys.executable, *self._program)
            member.agent = self._start_agent(program=program, pool=3)

    def __getitem__(self, name: str) -> AgentUnderTest:
        return self.members[name].agent

    def declare(self, *names: str, on: tuple[str, ...] = (), **rest: Any) -> None:
        """Declare the network across hosts, on each of them or on some."""
        hosts = {name: self.members[name].address for name in names}
        given = {"driver": "overlay", "subnet": SUBNET, "hosts": hosts, **rest}
        spec = {key: value for key, value in given.items() if value is not None}
        for name in on or names:
            self[name].api("PUT", "/mooring/v1/networks/mesh", spec)

    def run(self, host: str, name: str, **spec: Any) -> dict[str, Any]:
        """Run a container that sleeps on the network, with these `aliases` there."""
        attachment = {"name": "mesh", "aliases": spec.pop("aliases", [])}
        return run(self[host], name, attachment, *spec.pop("networks", ()), **spec)

    def cut(self, name: str, state: str = "down") -> None:
        """Take a host off the wire; "up" is to put it there again."""
        self.wire.run("ip", "link", "set", f"h-{name}", state)

    def remove(self) -> None:
        """Remove the namespaces; the agents have ended."""
        for member in self.members.values():
            member.namespace.remove()
        self.wire.remove()
