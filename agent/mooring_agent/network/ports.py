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
from collections.abc import Callable, Iterable, Iterator

from ..errors import Conflict, InvalidSpec, MooringError
from .holders import port_holder
from .records import ANY_ADDRESS, Publication

FREE_PORT_ATTEMPTS = 64
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}

Key = tuple[str, str, int]
"""Protocol, address of the host, port of the host."""


class PortBook:
    """The published ports of this agent. `container_name` puts a container's id into words for messages."""

    def __init__(self, container_name: Callable[[str], str]) -> None:
        self._container_name = container_name
        self._published: dict[Key, Publication] = {}
        self._addresses: dict[tuple[str, int], set[str]] = {}
        self._by_container: dict[str, dict[Key, Publication]] = {}
        self._sockets: dict[Key, socket.socket] = {}
        self._most_held = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4

    def __iter__(self) -> Iterator[Publication]:
        return iter(list(self._published.values()))

    def of(self, container_id: str) -> list[Publication]:
        """What a container has published."""
        return list(self._by_container.get(container_id, {}).values())

    def claim(self, protocol: str, host_ip: str, port: int | None) -> Key:
        """Hold a port of the host, for a publication that `record` tells of soon; None means any free one.

        Raises Conflict naming who has it, InvalidSpec if the host has no such address.
        """
        if port:
            key = protocol, host_ip, port
            self._refuse_published(key)
            self._hold(key, _bound(*key))
            return key
        for _ in range(FREE_PORT_ATTEMPTS):
            holder = _bound(protocol, host_ip, 0)
            key = protocol, host_ip, int(holder.getsockname()[1])
            if self._rival(key) is None:
                self._hold(key, holder)
                return key
            holder.close()
        raise Conflict(f"no free {protocol} port was found on {host_ip}; name the host's port")

    def restore(self, publication: Publication) -> str | None:
        """Take up a publication of before; returns who else listens on its port now, if somebody does."""
        self.record(publication)
        try:
            self._hold(publication.key, _bound(*publication.key))
        except MooringError as error:
            return error.message
        return None

    def record(self, publication: Publication) -> None:
        """Note a publication; one of the same port of the host is replaced."""
        key = publication.key
        before = self._published.get(key)
        if before is not None:
            self._detach(before)
        self._published[key] = publication
        self._by_container.setdefault(publication.container_id, {})[key] = publication
        self._addresses.setdefault((publication.protocol, publication.host_port), set()).add(
            publication.host_ip
        )

    def forget(self, keys: Iterable[Key]) -> None:
        """Give ports back, published or only claimed."""
        for key in keys:
            holder = self._sockets.pop(key, None)
            if holder is not None:
                holder.close()
            publication = self._published.pop(key, None)
            if publication is None:
                continue
            self._detach(publication)
            protocol, host_ip, port = key
            addresses = self._addresses[protocol, port]
            addresses.discard(host_ip)
            if not addresses:
                del self._addresses[protocol, port]

    def close(self) -> None:
        """Let go of the sockets; what is published stays so."""
        for holder in self._sockets.values():
            holder.close()
        self._sockets.clear()

    def _detach(self, publication: Publication) -> None:
        mine = self._by_container[publication.container_id]
        del mine[publication.key]
        if not mine:
            del self._by_container[publication.container_id]

    def _hold(self, key: Key, holder: socket.socket) -> None:
        if len(self._sockets) < self._most_held:
            self._sockets[key] = holder
        else:
            holder.close()

    def _rival(self, key: Key) -> Publication | None:
        """The publication that has this port, on the same address or one that includes the other."""
        protocol, host_ip, port = key
        for address in self._addresses.get((protocol, port), ()):
            if address == host_ip or ANY_ADDRESS in (address, host_ip):
                return self._published[protocol, address, port]
        return None

    def _refuse_published(self, key: Key) -> None:
        rival = self._rival(key)
        if rival is not None:
            raise Conflict(
                f"{rival} is already published by container {self._container_name(rival.container_id)}; "
                "choose another port of the host, or remove it there"
            )


def _bound(protocol: str, host_ip: str, port: int) -> socket.socket:
    """A socket bound to a port of the host. Raises Conflict naming who has it, or InvalidSpec."""
    holder = socket.socket(socket.AF_INET, _KINDS[protocol])
    try:
        _bind(holder, host_ip, port)
    except OSError as error:
        holder.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"host port {port}/{protocol} is in use by {port_holder(protocol, host_ip, port)}; "
                "choose another port of the host, or stop that program"
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise InvalidSpec(
                f"host address {host_ip} of port {port}/{protocol} is not usable: "
                "this host has no such address"
            ) from None
        raise MooringError(f"host port {port}/{protocol} cannot be held: {error.strerror}") from error
    return holder


def _bind(holder: socket.socket, host_ip: str, port: int) -> None:
    try:
        holder.bind((host_ip, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE or holder.type != socket.SOCK_STREAM:
            raise
        # Connections in TIME_WAIT refuse the first bind but not this one; a listener refuses both, socket(7).
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host_ip, port))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
