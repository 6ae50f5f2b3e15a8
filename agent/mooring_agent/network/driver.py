# SPDX-License-Identifier: Apache-2.0
"""What a kind of network has to do on the host: the seam between the model of networks and the kernel.

A driver is one module with one class, named in `drivers.py`. It keeps nothing but what it has seen of the
kernel, so that an agent which starts finds everything out again: what is declared comes from the state file,
and `ensure` and `restore` bring the kernel to it. Everything is called in the event loop's thread.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from ..linux.rtnetlink import RouteSocket
from .records import Endpoint, IPAddress, Network
from .veths import Cable


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
        self, netlink: RouteSocket, network: Network, endpoints: Collection[Endpoint]
    ) -> list[str]:
        """What is not as it should be, a sentence each."""

    def lays_ahead(self, network: Network) -> bool:
        """Whether cables may be laid before it is known whose they will be."""

    def lay(self, netlink: RouteSocket, network: Network, host_ifname: str, pid: int, ifname: str) -> Cable:
        """Lead a cable into the network namespace of process `pid`, its inner end down and called `ifname`.

        Raises OSError as the kernel gives it, MooringError where there is more to say.
        """

    def forget(self, network: Network) -> None:
        """The network is gone, and its links with it."""
