# SPDX-License-Identifier: Apache-2.0
"""Which ports of the host are published, and which are still free.

A published port is held by a bound socket as well, on which nobody listens: packets never reach it, since the
firewall sends them on, but a program of the host (docker, a second agent, a service) that wants the port
later is told so by its own bind, instead of waiting for connections that never come. This costs one
descriptor a port; beyond a quarter of the descriptors that this process may have, ports are checked but not
held.
"""

from __future__ import annotations

import errno
import resource
import socket
from collections.abc import Callable, Collection, Iterable, Iterator

from ..errors import Conflict, InvalidSpec, MooringError
from .holders import port_holder
from .records import EVERY_ADDRESS, EVERY_IPV4, EVERY_IPV6, Publication

FREE_PORT_ATTEMPTS = 64
_KINDS = {
    "tcp": (socket.SOCK_STREAM, socket.IPPROTO_TCP),
    "udp": (socket.SOCK_DGRAM, socket.IPPROTO_UDP),
    "sctp": (socket.SOCK_SEQPACKET, socket.IPPROTO_SCTP),
}
# What a kernel without SCTP says.
_NO_PROTOCOL = (errno.EPROTONOSUPPORT, errno.ESOCKTNOSUPPORT)
# What a host without IPv6 says: the family is not there, or has no address.
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)

Key = tuple[str, str, int]
"""Protocol, address of the host, port of the host."""


class PortBook:
    """The published ports of this agent. `container_name` puts a container's id into words for messages."""

    def __init__(self, container_name: Callable[[str], str]) -> None:
        self._container_name = container_name
        self._published: dict[Key, dict[str, Publication]] = {}
        self._addresses: dict[tuple[str, int], set[str]] = {}
        self._by_container: dict[str, dict[Key, Publication]] = {}
        self._sockets: dict[Key, socket.socket] = {}
        self._most_held = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def __iter__(self) -> Iterator[Publication]:
        return iter([publication for members in self._published.values() for publication in members.values()])

    def of(self, container_id: str) -> list[Publication]:
        """What a container has published."""
        return list(self._by_container.get(container_id, {}).values())

    def at(self, keys: Iterable[Key]) -> list[Publication]:
        """What is published at some ports, by whomever."""
        return [publication for key in keys for publication in self._published.get(key, {}).values()]

    def claim(
        self, protocol: str, host_ip: str, port: int | tuple[int, int] | None, balance: str = ""
    ) -> Key:
        """Hold a port of the host, for a publication that `change` tells of soon; None means any free one,
        two numbers the first free one from one to the other.

        A port that others have may be shared if all say how it is balanced. Raises Conflict naming who has
        it, InvalidSpec if the host has no such address.
        """
        if isinstance(port, tuple):
            return self._claim_among(protocol, host_ip, port)
        if port:
            key = protocol, host_ip, port
            if key in self._published:
                self.refuse_unlike(key, balance, ())
                return key
            self._refuse_overlap(key)
            self._hold(key, _bound(*key))
            return key
        for _ in range(FREE_PORT_ATTEMPTS):
            holder = _bound(protocol, host_ip, 0)
            if holder is None:
                break
            key = protocol, host_ip, int(holder.getsockname()[1])
            if self._rival(key) is None:
                self._hold(key, holder)
                return key
            holder.close()
        raise Conflict(f"no free {protocol} port was found on {host_ip or 'this host'}; name the host's port")

    def _claim_among(self, protocol: str, host_ip: str, among: tuple[int, int]) -> Key:
        first, last = among
        for port in range(first, last + 1):
            key = protocol, host_ip, port
            if self._rival(key) is not None:
                continue
            try:
                self._hold(key, _bound(*key, name_holder=False))
            except Conflict:
                continue
            return key
        raise Conflict(
            f"host ports {first} to {last}/{protocol}{_on(host_ip)} are all taken; give a larger range, or "
            "leave the port of the host out"
        )

    def refuse_unlike(self, key: Key, balance: str, but: Collection[str | None]) -> None:
        """Raise Conflict if a container other than those of `but` has the port and does not share it in the
        way of `balance`.
        """
        for publication in self._published.get(key, {}).values():
            if publication.container_id in but or publication.balance == balance != "":
                continue
            name = self._container_name(publication.container_id)
            if publication.balance or balance:
                raise Conflict(
                    f"{publication} is published by container {name} with balance "
                    f"{publication.balance or 'none'}, not {balance or 'none'}: containers that share a port "
                    "say the same balance; choose another port of the host, or the same balance"
                )
            raise Conflict(_taken(publication, name))

    def restore(self, publication: Publication) -> str | None:
        """Take up a publication of before; returns who else listens on its port now, if somebody does."""
        self.change((), (publication,))
        if publication.key in self._sockets:
            return None
        try:
            self._hold(publication.key, _bound(*publication.key))
        except MooringError as error:
            return error.message
        return None

    def change(self, removed: Iterable[Publication], added: Iterable[Publication]) -> None:
        """Note publications that go and that come. A port is given back when its last one has gone."""
        gone = list(removed)
        for publication in gone:
            self._detach(publication)
        for publication in added:
            before = self._published.get(publication.key, {}).get(publication.container_id)
            if before is not None:
                self._detach(before)
            protocol, host_ip, port = publication.key
            self._published.setdefault(publication.key, {})[publication.container_id] = publication
            self._by_container.setdefault(publication.container_id, {})[publication.key] = publication
            self._addresses.setdefault((protocol, port), set()).add(host_ip)
        self.give_back(publication.key for publication in gone)

    def give_back(self, keys: Iterable[Key]) -> None:
        """Let go of those ports that nobody has published: claimed ones, or the last one has gone."""
        for key in keys:
            if key not in self._published:
                holder = self._sockets.pop(key, None)
                if holder is not None:
                    holder.close()

    def close(self) -> None:
        """Let go of the sockets; what is published stays so."""
        for holder in self._sockets.values():
            holder.close()
        self._sockets.clear()

    def _detach(self, publication: Publication) -> None:
        key, container_id = publication.key, publication.container_id
        members, mine = self._published.get(key, {}), self._by_container.get(container_id, {})
        if members.pop(container_id, None) is None:
            return
        del mine[key]
        if not mine:
            del self._by_container[container_id]
        if not members:
            del self._published[key]
            protocol, host_ip, port = key
            addresses = self._addresses[protocol, port]
            addresses.discard(host_ip)
            if not addresses:
                del self._addresses[protocol, port]

    def _hold(self, key: Key, holder: socket.socket | None) -> None:
        if holder is None:
            return
        if len(self._sockets) < self._most_held:
            self._sockets[key] = holder
        else:
            holder.close()

    def _rival(self, key: Key) -> Publication | None:
        """A publication that has this port, on the same address or one that includes the other."""
        protocol, host_ip, port = key
        for address in self._addresses.get((protocol, port), ()):
            if overlap(address, host_ip):
                return next(iter(self._published[protocol, address, port].values()))
        return None

    def _refuse_overlap(self, key: Key) -> None:
        rival = self._rival(key)
        if rival is not None:
            raise Conflict(_taken(rival, self._container_name(rival.container_id)))


def overlap(one: str, other: str) -> bool:
    """Whether two addresses of the host have an address in common, each alone or for all of a family."""
    if EVERY_ADDRESS in (one, other) or one == other:
        return True
    if (":" in one) != (":" in other):
        return False
    return one in (EVERY_IPV4, EVERY_IPV6) or other in (EVERY_IPV4, EVERY_IPV6)


def _taken(publication: Publication, container: str) -> str:
    return (
        f"{publication} is already published by container {container}; "
        "choose another port of the host, or remove it there"
    )


def _on(host_ip: str) -> str:
    return "" if host_ip == EVERY_ADDRESS else f" of {host_ip}"


def _bound(protocol: str, host_ip: str, port: int, *, name_holder: bool = True) -> socket.socket | None:
    """A socket bound to a port of the host, None where the kernel has none of this protocol, so that nobody
    else has either. Raises Conflict, naming who has it unless nobody will read that, or InvalidSpec.

    One for all addresses is an IPv6 socket that has the port of IPv4 as well, ipv6(7).
    """
    try:
        if host_ip == EVERY_ADDRESS:
            try:
                return _bind(socket.AF_INET6, protocol, EVERY_IPV6, port, only_ipv6=False)
            except OSError as error:
                if error.errno not in _NO_IPV6:
                    raise
                return _bind(socket.AF_INET, protocol, EVERY_IPV4, port)
        family = socket.AF_INET6 if ":" in host_ip else socket.AF_INET
        return _bind(family, protocol, host_ip, port)
    except OSError as error:
        if error.errno in _NO_PROTOCOL:
            if port:
                return None
            raise MooringError(
                f"no free {protocol} port can be chosen: this kernel has no sockets of {protocol}; name the "
                "host's port, or load the kernel's module of that name"
            ) from None
        if error.errno == errno.EADDRINUSE:
            holder = port_holder(protocol, host_ip, port) if name_holder else "another program"
            raise Conflict(
                f"host port {port}/{protocol} is in use by {holder}; "
                "choose another port of the host, or stop that program"
            ) from None
        if error.errno in _NO_IPV6:
            raise InvalidSpec(
                f"host address {host_ip} of port {port}/{protocol} is not usable: "
                "this host has no such address"
            ) from None
        raise MooringError(f"host port {port}/{protocol} cannot be held: {error.strerror}") from error


def _bind(family: int, protocol: str, address: str, port: int, *, only_ipv6: bool = True) -> socket.socket:
    kind, number = _KINDS[protocol]
    holder = socket.socket(family, kind, number)
    try:
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
        try:
            holder.bind((address, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE or kind != socket.SOCK_STREAM:
                raise
            # Connections in TIME_WAIT refuse the first bind but not this one; a listener refuses both,
            # socket(7).
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            holder.bind((address, port))
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        holder.close()
        raise
    return holder
