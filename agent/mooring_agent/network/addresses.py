# SPDX-License-Identifier: Apache-2.0
"""Which addresses of a subnet are free: a pure allocator, without I/O."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping

from ..errors import AddressTaken, Conflict, InvalidSpec
from .records import IPAddress, Subnet
from .specs import usable


class AddressPool:
    """The addresses of one IP version that a network can give to its containers.

    The subnet's own address, its broadcast address, the gateway and what is `reserved` are never given, and
    without being asked for only those of `ip_range`. Addresses are given in turn, so that one that was
    released rests as long as possible before somebody else gets it. `describe` puts an owner into words for
    messages.
    """

    def __init__(
        self,
        network: str,
        subnet: Subnet,
        *,
        reserved: Iterable[IPAddress] = (),
        taken: Mapping[IPAddress, str] | None = None,
        describe: Callable[[str], str] = str,
    ) -> None:
        self.network = network
        self.subnet = subnet
        self._describe = describe
        first, last = usable(subnet.cidr)
        self._bounds = int(first), int(last)
        self._first, self._last = self._bounds
        if subnet.ip_range is not None:
            self._first = max(self._first, int(subnet.ip_range.network_address))
            self._last = min(self._last, int(subnet.ip_range.broadcast_address))
        version = subnet.cidr.version
        self._reserved = {int(address) for address in reserved if address.version == version}
        self._reserved.add(int(subnet.gateway))
        self._owners = {int(address): owner for address, owner in (taken or {}).items()}
        self._taken = sum(map(self._in_turn, self._owners))
        self._next = max(filter(self._in_turn, self._owners), default=self._first - 1) + 1

    @property
    def size(self) -> int:
        """How many containers fit in all that ask for no address."""
        return self._last - self._first + 1 - sum(map(self._in_range, self._reserved))

    @property
    def free(self) -> int:
        """How many addresses can still be given to somebody who asks for none."""
        return self.size - self._taken

    def owner(self, address: IPAddress) -> str | None:
        """Who has the address, or None."""
        return self._owners.get(int(address))

    def allocate(self, owner: str, wanted: str | None = None) -> IPAddress:
        """Give `owner` a free address, or the one it wants.

        Raises InvalidSpec for one that this network cannot give, Conflict for one that is taken and when none
        is left.
        """
        number = self._wanted(wanted) if wanted is not None else self._free()
        self._owners[number] = owner
        self._taken += self._in_turn(number)
        return self._address(number)

    def release(self, address: IPAddress) -> None:
        """Take an address back; one that nobody has is left as it is."""
        if self._owners.pop(int(address), None) is not None:
            self._taken -= self._in_turn(int(address))

    def _address(self, number: int) -> IPAddress:
        if self.subnet.cidr.version == 4:
            return ipaddress.IPv4Address(number)
        return ipaddress.IPv6Address(number)

    def _in_range(self, number: int) -> bool:
        return self._first <= number <= self._last

    def _in_turn(self, number: int) -> bool:
        return self._in_range(number) and number not in self._reserved

    def _free(self) -> int:
        if self.free <= 0:
            raise Conflict(
                f"network {self.network} has no free address left: all {self.size} of "
                f"{self.subnet.ip_range or self.subnet.cidr} are taken; remove containers from it, or "
                "declare a network with a larger subnet"
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
        cidr = self.subnet.cidr
        try:
            address = ipaddress.ip_address(wanted)
        except ValueError:
            address = None
        if address is None or address.version != cidr.version or "%" in wanted:
            raise InvalidSpec(
                f"address {wanted!r} is not usable on network {self.network}: expected an IPv{cidr.version} "
                f"address of {cidr}"
            )
        number = int(address)
        first, last = self._bounds
        if not first <= number <= last:
            raise InvalidSpec(
                f"address {address} is not usable on network {self.network}: expected one from "
                f"{self._address(first)} to {self._address(last)}"
            )
        if number in self._reserved:
            what = "its gateway" if address == self.subnet.gateway else "reserved"
            raise InvalidSpec(f"address {address} of network {self.network} is {what}; choose another one")
        if number in self._owners:
            owner = self._describe(self._owners[number])
            raise AddressTaken(
                f"address {address} of network {self.network} is taken by container {owner}; "
                "choose another one, or remove that container"
            )
        return number
