# SPDX-License-Identifier: Apache-2.0
"""Connects network namespaces to networks, and takes them off again while they live."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Collection, Mapping

from ..errors import MooringError, Unavailable
from ..linux import rtnetlink
from ..linux.rtnetlink import RouteSocket
from . import linksysctls, veths
from .driver import Driver
from .leases import Leases, free_ifname
from .records import Endpoint, Network
from .traffic import Traffic
from .veths import Cable

_IPV6_SYSCTLS = {
    # Addresses and routes are given: a neighbour that says it is a router is not believed, and none is asked.
    "net.ipv6.conf.IFNAME.accept_ra": "0",
    # Nobody else has the interface's own address, since it is made of a MAC that nobody else has.
    "net.ipv6.conf.IFNAME.accept_dad": "0",
}
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


class Cabling:
    """The cables of all networks. `netlink` gives the agent's own socket of the host's namespace."""

    def __init__(
        self,
        drivers: Mapping[str, Driver],
        leases: Leases,
        traffic: Traffic,
        netlink: Callable[[], RouteSocket],
    ) -> None:
        self._drivers = drivers
        self._leases = leases
        self._traffic = traffic
        self._netlink = netlink

    def lay_ahead(self, network: Network, pid: int) -> Cable | None:
        """Lead a cable into the network namespace of process `pid`, as eth0, before it is known whose it will
        be; None where that is not possible at the moment.
        """
        driver = self._drivers[network.driver]
        if not driver.lays_ahead(network):
            return None
        try:
            return driver.lay(self._netlink(), network, veths.spare_ifname(), pid, free_ifname(network))
        except (OSError, MooringError):
            return None  # `plug` will find out, and say what is wrong

    async def plug(
        self,
        network: Network,
        endpoint: Endpoint,
        pid: int,
        ifname: str,
        default_routes: Collection[int],
        sysctls: Mapping[str, str],
        link_local: Collection[str],
        cable: Cable | None,
    ) -> None:
        """See `NetworkService.connect`."""
        laid = cable is not None
        if cable is None:
            cable = await self._lay_now(network, endpoint, pid, ifname)
        try:
            if cable.ifname != ifname:  # that was another network of this name
                raise _stale(cable)
            if cable.outer:
                await self._traffic.settled(cable.host_ifname)
                self._traffic.admit(self._netlink(), endpoint, cable.host_ifname, cable.outer)
            else:
                self._traffic.require_unlimited(endpoint)
            if network.ipv6 is not None:
                sysctls = {**_IPV6_SYSCTLS, **sysctls}
            if sysctls:
                linksysctls.apply(pid, ifname, sysctls)
            veths.configure(cable, network, endpoint, default_routes, link_local)
        except MooringError:
            cable.inside.close()
            raise
        except OSError as error:
            raise veths.failure(error, endpoint, pid) from error
        self._leases.rename(endpoint, cable.host_ifname, ifname)
        if not cable.host_ifname:
            return
        if not await veths.forwards(self._netlink(), cable.host_ifname) and laid:
            raise _stale(cable)

    async def unplug(self, endpoint: Endpoint, pid: int) -> None:
        """Take the interface of an endpoint away from the network namespace of process `pid`, whose routes go
        with it. Does nothing if process or interface is gone.
        """
        if endpoint.host_ifname:
            await asyncio.to_thread(rtnetlink.remove_links, [endpoint.host_ifname])
        else:
            await asyncio.to_thread(_remove_inside, pid, endpoint.ifname)

    def route(self, endpoints: Collection[Endpoint], pid: int, chosen: Mapping[str, Collection[int]]) -> None:
        """Lead the default routes of the namespace of process `pid` where `chosen` says, by the name of the
        network. Other routes stay. Raises MooringError if the kernel refuses.
        """
        try:
            inside = rtnetlink.socket_inside(pid)
        except OSError:
            return  # it has ended
        with inside:
            for endpoint in endpoints:
                for version, gateway in ((4, endpoint.gateway), (6, endpoint.gateway6)):
                    if version not in chosen[endpoint.network] or gateway is None:
                        continue
                    try:
                        _replace_route(inside, endpoint, version, gateway)
                    except OSError as error:
                        raise MooringError(
                            f"the default route cannot lead through network {endpoint.network} (interface "
                            f"{endpoint.ifname}): {error.strerror}"
                        ) from error

    async def _lay_now(self, network: Network, endpoint: Endpoint, pid: int, ifname: str) -> Cable:
        name = veths.host_ifname(endpoint.container_id, network.name)
        driver = self._drivers[network.driver]
        try:
            return driver.lay(self._netlink(), network, name, pid, ifname)
        except OSError:
            # Once more, without what a dying namespace may have left, and with the host's part repaired.
            await asyncio.to_thread(rtnetlink.remove_links, [name])
            driver.ensure(self._netlink(), network)
            driver.restore(self._netlink(), network, self._leases.on(network.name))
            try:
                return driver.lay(self._netlink(), network, name, pid, ifname)
            except OSError as error:
                raise veths.failure(error, endpoint, pid) from error


def _stale(cable: Cable) -> Unavailable:
    return Unavailable(
        f"cable {cable.host_ifname} leads to no bridge of network {cable.network} any more: start the "
        "container again"
    )


def _replace_route(inside: RouteSocket, endpoint: Endpoint, version: int, gateway: str) -> None:
    index = inside.index(endpoint.ifname)
    present = [
        route
        for route in inside.routes(_FAMILIES[version])
        if route.prefix_length == 0 and route.gateway and route.table == rtnetlink.RT_TABLE_MAIN
    ]
    if any((route.gateway, route.ifindex) == (gateway, index) for route in present):
        return
    for route in present:
        inside.execute(rtnetlink.route_delete(route.ifindex, _FAMILIES[version]))
    inside.execute(rtnetlink.route_add(index, gateway=gateway))


def _remove_inside(pid: int, ifname: str) -> None:
    try:
        inside = rtnetlink.socket_inside(pid)
    except OSError:
        return
    with inside:
        try:
            inside.execute(rtnetlink.link_delete(ifname))
        except OSError as error:
            if error.errno != errno.ENODEV:
                raise MooringError(
                    f"interface {ifname} cannot be taken from the container: {error.strerror}"
                ) from error
