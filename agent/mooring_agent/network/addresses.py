# SPDX-License-Identifier: Apache-2.0
"""Which addresses of a subnet are free: a pure allocator, without I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping

from ..errors import Conflict, InvalidSpec


class AddressPool:
    """The addresses that a network can give to its containers.

    The subnet's own address, its broadcast address, the gateway and what is `reserved` are never given.
    Addresses are given in turn, so that one that was released rests as long as possible before somebody else
    gets it. `describe` puts an owner into words for messages.
    """

    def __init__(
        self,
        network: str,
        subnet: ipaddress.IPv4Network,
        gateway: ipaddress.IPv4Address,
        *,
        reserved: Iterable[ipaddress.IPv4Address] = (),
        taken: Mapping[ipaddress.IPv4Address, str] | None = None,
        describe: Callable[[str], str] = str,
    ) -> None:
        self.network = network
        self.subnet = subnet
        self.gateway = gateway
        self._describe = describe
        self._first = int(subnet.network_address) + 1
        self._last = int(subnet.broadcast_address) - 1
        self._reserved = {int(gateway)} | {int(address) for address in reserved if address in subnet}
        self._reserved = {number for number in self._reserved if self._first <= number <= self._last}
        self._owners = {int(address): owner for address, owner in (taken or {}).items()}
        self._next = max(self._owners, default=self._first - 1) + 1

    @property
    def size(self) -> int:
        """How many containers fit in all."""
        return self._last - self._first + 1 - len(self._reserved)

    @property
    def free(self) -> int:
        """How many addresses can still be given."""
        return self.size - len(self._owners)

    def owner(self, address: ipaddress.IPv4Address) -> str | None:
        """Who has the address, or None."""
        return self._owners.get(int(address))

    def allocate(self, owner: str, wanted: str | None = None) -> ipaddress.IPv4Address:
        """Give `owner` a free address, or the one it wants.

        Raises InvalidSpec for one that this network cannot give, Conflict for one that is taken and when none
        is left.
        """
        number = self._wanted(wanted) if wanted is not None else self._free()
        self._owners[number] = owner
        return ipaddress.IPv4Address(number)

    def release(self, address: ipaddress.IPv4Address) -> None:
        """Take an address back; one that nobody has is left as it is."""
        self._owners.pop(int(address), None)

    def _free(self) -> int:
        if self.free <= 0:
            raise Conflict(
                f"network {self.network} has no free address left: all {self.size} of {self.subnet} are "
                "taken; remove containers from it, or declare a network with a larger subnet"
            )
        number = self._next
        while True:
            if number > self._last:
                number = self._first
            if number not in self._owners and number not in self._reserved:
                self._next = number + 1
                return number
            number += 1

    def _wanted(self, wanted: str) -> int:
        try:
            address = ipaddress.IPv4Address(wanted)
        except ValueError:
            raise InvalidSpec(
                f"address {wanted!r} is not usable on network {self.network}: expected an IPv4 address "
                f"of {self.subnet}"
            ) from None
        number = int(address)
        if not self._first <= number <= self._last:
            raise InvalidSpec(
                f"address {address} is not usable on network {self.network}: expected one from "
                f"{ipaddress.IPv4Address(self._first)} to {ipaddress.IPv4Address(self._last)}"
            )
        if number in self._reserved:
            what = "its gateway" if address == self.gateway else "reserved"
            raise InvalidSpec(f"address {address} of network {self.network} is {what}; choose another one")
        if number in self._owners:
            owner = self._describe(self._owners[number])
            raise Conflict(
                f"address {address} of network {self.network} is taken by container {owner}; "
                "choose another one, or remove that container"
            )
        return number
