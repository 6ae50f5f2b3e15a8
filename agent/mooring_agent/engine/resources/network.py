# SPDX-License-Identifier: Apache-2.0
"""A network as it is declared. Keys and types only: what the addresses mean is held by `network`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mooring_agent.engine.resources.declared import Declared, option
from mooring_agent.engine.resources.isolation import OverlayHosts, Rules
from mooring_agent.engine.resources.options import Bool, Choice, Integer, Items, Pairs, Text, WordSet
from mooring_agent.network.encryption import ENCRYPTIONS
from mooring_agent.network.rules import Rule
from mooring_agent.network.specs import DRIVERS, MACVLAN_MODES, MTUS

_ADDRESS = Text("an address of the subnet")


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSpec(Declared):
    """What a network should be; without `subnet` a free one of the agent's prefix is chosen and kept.

    It has IPv4 unless `ipv4` is false, and IPv6 if `ipv6` is true or it has a `subnet6`.
    """

    KIND: ClassVar[str] = "network"

    driver: str = option(Choice(*DRIVERS), default="bridge")
    ipv4: bool = option(Bool(), default=True)
    ipv6: bool | None = option(Bool())
    subnet: str | None = option(Text('a subnet such as "10.210.7.0/24"'))
    gateway: str | None = option(_ADDRESS)
    ip_range: str | None = option(Text("a part of the subnet"))
    subnet6: str | None = option(Text('a subnet such as "fd12:3456:789a::/64"'))
    gateway6: str | None = option(_ADDRESS)
    ip_range6: str | None = option(Text("a part of the subnet"))
    reserved: tuple[str, ...] = option(Items(_ADDRESS), default=())
    nat: bool = option(Bool(), default=True, live=True)
    internal: bool = option(Bool(), default=False)
    mtu: int | None = option(Integer(*MTUS, what="a number of bytes"))
    parent: str | None = option(Text("the name of an interface of the host"))
    mode: str | None = option(Choice(*MACVLAN_MODES))
    hosts: Mapping[str, Any] | None = option(OverlayHosts(), live=True)
    host: str | None = option(Text("the name of one of the hosts"))
    vni: int | None = option(Integer(1, 2**24 - 1, what="a number"))
    slice_prefix: int | None = option(Integer(9, 30, what="a prefix length"))
    encryption: str | None = option(Choice(*ENCRYPTIONS), live=True)
    port: int | None = option(Integer(1, 65535, what="a UDP port"), live=True)
    reachable_from: tuple[str, ...] = option(WordSet(Text("the name of a network")), default=(), live=True)
    rules: tuple[Rule, ...] = option(Rules(), default=(), live=True)
    bridge_name: str | None = option(Text("the name that its bridge has on the host"))
    port_isolation: bool = option(Bool(), default=False)
    interface_prefix: str | None = option(Text("what the names of containers' interfaces begin with"))
    publish_address: str | None = option(Text("an IPv4 address of the host"))
    attachable: bool = option(Bool(), default=False, live=True)
    labels: Mapping[str, str] = option(Pairs("labels"), default={}, live=True)
