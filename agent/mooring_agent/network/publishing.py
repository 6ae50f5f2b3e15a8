# SPDX-License-Identifier: Apache-2.0
"""What has to change for a container to publish exactly certain ports."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from ..errors import InvalidSpec, MooringError
from .ports import Key, PortBook
from .records import ANY_ADDRESS, Publication

PROTOCOLS = ("tcp", "udp")


class Mapped(Protocol):
    """A published port as it is declared: a dataclass with these fields; `host` None or 0 is any free one."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def container(self) -> int:
        """The port inside the container."""

    @property
    def host(self) -> int | None:
        """The port of the host."""

    @property
    def host_ip(self) -> str:
        """The address of the host, or 0.0.0.0 for all."""

    @property
    def protocol(self) -> str:
        """Tcp or udp."""


M = TypeVar("M", bound=Mapped)


@dataclass(frozen=True)
class Change:
    """Publications that go and that come, one whose target changes in both; `keys` belong to the mappings."""

    removed: tuple[Publication, ...]
    added: tuple[Publication, ...]
    keys: tuple[Key, ...] = ()

    def inverse(self) -> Change:
        """What undoes it."""
        return Change(self.added, self.removed)

    def filled(self, mappings: Sequence[M]) -> list[M]:
        """The mappings with the ports of the host that they got."""
        return [
            dataclasses.replace(mapping, host=key[2])
            for mapping, key in zip(mappings, self.keys, strict=True)
        ]


def plan(
    book: PortBook, container_id: str, mappings: Sequence[Mapped], ip: str, taking_over: str | None
) -> Change:
    """Claim the ports in the book, and tell what changes. Raises Conflict or InvalidSpec."""
    wanted = [_checked(mapping) for mapping in mappings]
    mine = {publication.key: publication for publication in book.of(container_id)}
    lent = {publication.key: publication for publication in (book.of(taking_over) if taking_over else ())}
    known = _known_keys(wanted, mine)
    surplus = [publication for key, publication in mine.items() if key not in known]
    book.forget(publication.key for publication in surplus)
    keys: list[Key] = []
    claimed: list[Key] = []
    try:
        for entry, key in zip(wanted, known, strict=True):
            if key is None or (key not in mine and key not in lent):
                key = book.claim(entry.protocol, entry.host_ip, entry.host)
                claimed.append(key)
            keys.append(key)
    except MooringError:
        book.forget(claimed)
        for publication in surplus:
            book.restore(publication)
        raise
    removed, added = list(surplus), []
    for entry, key in zip(wanted, keys, strict=True):
        publication = Publication(*key, container_id, ip, entry.container)
        before = mine.get(key) or lent.get(key)
        if before == publication:
            continue
        if before is not None:
            removed.append(before)
        added.append(publication)
        book.record(publication)
    return Change(tuple(removed), tuple(added), tuple(keys))


@dataclass(frozen=True)
class _Wanted:
    protocol: str
    host_ip: str
    host: int | None
    container: int

    def fits(self, publication: Publication) -> bool:
        """Whether a publication is what this asks for, whatever the port of the host."""
        asked = self.protocol, self.host_ip, self.container
        return asked == (publication.protocol, publication.host_ip, publication.container_port)


def _checked(mapping: Mapped) -> _Wanted:
    if mapping.protocol not in PROTOCOLS:
        raise InvalidSpec(f"published port protocol {mapping.protocol!r} is unknown: expected tcp or udp")
    for port in (mapping.container, mapping.host or 1):
        if not 1 <= port <= 65535:
            raise InvalidSpec(f"published port {port} is not usable: expected 1 to 65535")
    try:
        host_ip = ipaddress.IPv4Address(mapping.host_ip or ANY_ADDRESS)
    except ValueError:
        raise InvalidSpec(
            f"host address {mapping.host_ip!r} of published port {mapping.container}/{mapping.protocol} "
            "is not usable: ports are published on IPv4 addresses; expected one of the host's, or 0.0.0.0"
        ) from None
    return _Wanted(mapping.protocol, str(host_ip), mapping.host or None, mapping.container)


def _known_keys(wanted: Sequence[_Wanted], mine: Mapping[Key, Publication]) -> list[Key | None]:
    """The key of each entry that names the host's port or keeps the one it has; None where one is chosen."""
    keys = [(entry.protocol, entry.host_ip, entry.host) if entry.host else None for entry in wanted]
    for position, entry in enumerate(wanted):
        if keys[position] is None:
            keys[position] = next((key for key in mine if key not in keys and entry.fits(mine[key])), None)
    return keys
