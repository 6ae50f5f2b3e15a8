# SPDX-License-Identifier: Apache-2.0
"""What a kind of network has to do on the host: the seam between the model of networks and the kernel.

A driver is one module with one class, named in `drivers.py`. It keeps nothing but what it has seen of the
kernel, so that an agent which starts finds everything out again: what is declared comes from the state file,
and `ensure` and `restore` bring the kernel to it. Everything is called in the event loop's thread.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from ..linux.rtnetlink import Address, Link, RouteSocket
from .records import Endpoint, IPAddress, Network
from .veths import Cable


@dataclass(frozen=True, slots=True)
class Sight:
    """The links of the host and their addresses at one moment, for a look at many networks: asking for them
    takes the longer the more there are.
    """

    links: Collection[Link]
    addresses: Collection[Address]

    @classmethod
    def of(cls, netlink: RouteSocket) -> Sight:
        """What there is now."""
        families = socket.AF_INET, socket.AF_INET6
        return cls(netlink.links(), [one for family in families for one in netlink.addresses(family)])

    def link(self, name: str) -> Link | None:
        """The link of this name."""
        return next((link for link in self.links if link.name == name), None)


class Driver(Protocol):
    """One kind of network."""

    @property
    def filtered(self) -> bool:
        """Whether what its containers send passes this host's nftables table, so that it is known there."""

    def links(self, netlink: RouteSocket, network: Network) -> list[str]:
        """The interfaces of the host that are the network's, and go with it."""

    def reserved(self, netlink: RouteSocket, network: Network) -> Collection[IPAddress]:
        """Addresses that others have, beside those that are declared to be reserved."""

    def ensure(self, netlink: RouteSocket, network: Network) -> None:
        """Make the host's part of the network what it should be; leaves alone what is already right.

        Raises Conflict if something else has a name that it needs, NotFound if something of the host that it
        builds upon is not there, MooringError if the kernel refuses.
        """

    def restore(self, netlink: RouteSocket, network: Network, endpoints: Collection[Endpoint]) -> None:
        """Connect those outer ends of `endpoints` again that are there and have lost their network."""

    def differences(
        self, netlink: RouteSocket, sight: Sight, network: Network, endpoints: Collection[Endpoint]
    ) -> list[str]:
        """What is not as it should be, a sentence each; `sight` is fresh."""

    def lays_ahead(self, network: Network) -> bool:
        """Whether cables may be laid before it is known whose they will be."""

    def lay(self, netlink: RouteSocket, network: Network, host_ifname: str, pid: int, ifname: str) -> Cable:
        """Lead a cable into the network namespace of process `pid`, its inner end down and called `ifname`.

        Raises OSError as the kernel gives it, MooringError where there is more to say.
        """

    def forget(self, network: Network) -> None:
        """The network is gone, and its links with it."""
