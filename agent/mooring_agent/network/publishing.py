# SPDX-License-Identifier: Apache-2.0
"""What has to change for a container to publish exactly certain ports."""

from __future__ import annotations

import dataclasses
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from ..errors import InvalidSpec, MooringError
from . import balancing
from .ports import Key, PortBook
from .records import EVERY_ADDRESS, Publication

PROTOCOLS = ("tcp", "udp", "sctp")


class Mapped(Protocol):
    """A published port as it is declared: a dataclass with these fields; `host` None or 0 is any free one, or
    one of `among`.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def container(self) -> int:
        """The port inside the container."""

    @property
    def host(self) -> int | None:
        """The port of the host."""

    @property
    def host_ip(self) -> str:
        """The address of the host: "" for all, 0.0.0.0 for all of IPv4, :: for all of IPv6."""

    @property
    def protocol(self) -> str:
        """Tcp, udp or sctp."""

    @property
    def balance(self) -> str | None:
        """How the port is shared with other containers, None if it is not."""

    @property
    def weight(self) -> int:
        """The share of a balanced port."""

    @property
    def among(self) -> tuple[int, int] | None:
        """The first and the last port of the host to choose from, None for any."""


M = TypeVar("M", bound=Mapped)


@dataclass(frozen=True)
class Target:
    """The addresses of a container that ports lead to, "" for a family that it has not."""

    ipv4: str
    ipv6: str = ""


@dataclass(frozen=True)
class Change:
    """Everything that is published at some ports of the host, by whomever, before and after; `keys` are those
    of the mappings.
    """

    before: tuple[Publication, ...]
    after: tuple[Publication, ...]
    keys: tuple[Key, ...] = ()

    @property
    def removed(self) -> tuple[Publication, ...]:
        """What goes."""
        kept = set(self.after)
        return tuple(publication for publication in self.before if publication not in kept)

    @property
    def added(self) -> tuple[Publication, ...]:
        """What comes."""
        known = set(self.before)
        return tuple(publication for publication in self.after if publication not in known)

    def inverse(self) -> Change:
        """What undoes it."""
        return Change(self.after, self.before)

    def filled(self, mappings: Sequence[M]) -> list[M]:
        """The mappings with the ports of the host that they got."""
        return [
            dataclasses.replace(mapping, host=key[2], among=None)
            for mapping, key in zip(mappings, self.keys, strict=True)
        ]


def plan(
    book: PortBook, container_id: str, mappings: Sequence[Mapped], target: Target, taking_over: str | None
) -> Change:
    """Claim the ports in the book, and tell what changes. Raises Conflict or InvalidSpec.

    With `taking_over`, the ports of that container go over or are taken back: it gets no new connections.
    """
    wanted = [_checked(mapping, target) for mapping in mappings]
    mine = {publication.key: publication for publication in book.of(container_id)}
    lent = {publication.key: publication for publication in (book.of(taking_over) if taking_over else ())}
    known = _known_keys(wanted, {**lent, **mine})
    former = [*mine.values(), *lent.values()]
    kept = set(known)
    surplus = [publication for publication in former if publication.key not in kept]
    touched = dict.fromkeys(publication.key for publication in former)
    before = book.at(touched)
    book.change(surplus, ())
    keys: list[Key] = []
    claimed: list[Key] = []
    try:
        for entry, key in zip(wanted, known, strict=True):
            if key is None or key not in touched:
                key = book.claim(entry.protocol, entry.host_ip, entry.host or entry.among, entry.balance)
                claimed.append(key)
            else:
                book.refuse_unlike(key, entry.balance, (container_id, taking_over))
            keys.append(key)
    except MooringError:
        book.give_back(claimed)
        for publication in surplus:
            book.restore(publication)
        raise
    before += book.at(claimed)
    removed, added = [], []
    for entry, key in zip(wanted, keys, strict=True):
        own, others = mine.get(key), lent.get(key)
        seat = next((one.seat for one in (own, others) if one is not None and one.seat), container_id)
        publication = entry.publication(key, container_id, target, seat)
        if own == publication and others is None:
            continue
        removed += [one for one in (own, others) if one is not None]
        added.append(publication)
    book.change(removed, added)
    return Change(tuple(before), tuple(book.at(dict.fromkeys([*touched, *claimed]))), tuple(keys))


def withdraw(book: PortBook, container_id: str) -> Change:
    """Take all ports of a container back in the book, and tell what changes."""
    mine = book.of(container_id)
    keys = [publication.key for publication in mine]
    before = book.at(keys)
    book.change(mine, ())
    return Change(tuple(before), tuple(book.at(keys)))


@dataclass(frozen=True)
class _Wanted:
    protocol: str
    host_ip: str
    host: int | None
    container: int
    balance: str
    weight: int
    among: tuple[int, int] | None

    def fits(self, publication: Publication) -> bool:
        """Whether a publication is what this asks for that leaves the port of the host open."""
        asked = self.protocol, self.host_ip, self.container
        first, last = self.among or (1, 65535)
        return first <= publication.host_port <= last and asked == (
            publication.protocol,
            publication.host_ip,
            publication.container_port,
        )

    def publication(self, key: Key, container_id: str, target: Target, seat: str) -> Publication:
        """What is published for it."""
        return Publication(
            *key,
            container_id,
            target.ipv4,
            self.container,
            target.ipv6,
            self.balance,
            self.weight,
            seat if self.balance else "",
        )


def _checked(mapping: Mapped, target: Target) -> _Wanted:
    if mapping.protocol not in PROTOCOLS:
        raise InvalidSpec(
            f"published port protocol {mapping.protocol!r} is unknown: expected tcp, udp or sctp"
        )
    for port in (mapping.container, mapping.host or 1, *(mapping.among or ())):
        if not 1 <= port <= 65535:
            raise InvalidSpec(f"published port {port} is not usable: expected 1 to 65535")
    what = f"published port {mapping.container}/{mapping.protocol}"
    host_ip = _host_address(mapping.host_ip, what)
    if host_ip != EVERY_ADDRESS:
        version, address = (6, target.ipv6) if ":" in host_ip else (4, target.ipv4)
        if not address:
            raise InvalidSpec(
                f"{what} cannot lead from {host_ip} to the container, which has no IPv{version} address: "
                f"attach it to a network with IPv{version}, or leave the address of the host out"
            )
    if host_ip == "::1":
        raise InvalidSpec(
            f"{what} cannot lead from ::1 to a container: the kernel takes no answer for it from a bridge; "
            "name 127.0.0.1 or another address of the host"
        )
    balance = mapping.balance or ""
    if balance:
        if balance not in balancing.METHODS:
            raise InvalidSpec(f"{what} has balance {balance!r}: expected {' or '.join(balancing.METHODS)}")
        if not mapping.host:
            raise InvalidSpec(f"{what} is balanced, and has no port of the host: name the one to be shared")
    if not 0 <= mapping.weight <= balancing.MOST_WEIGHT:
        raise InvalidSpec(
            f"{what} has weight {mapping.weight}: expected a number from 0 to {balancing.MOST_WEIGHT}"
        )
    weight = mapping.weight if balance else 1
    return _Wanted(
        mapping.protocol, host_ip, mapping.host or None, mapping.container, balance, weight, mapping.among
    )


def _host_address(text: str, what: str) -> str:
    if text == EVERY_ADDRESS:
        return EVERY_ADDRESS
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or getattr(address, "scope_id", None) or getattr(address, "ipv4_mapped", None):
        raise InvalidSpec(
            f"host address {text!r} of {what} is not usable: expected an IPv4 or IPv6 address of the host, "
            "0.0.0.0, :: or none for all"
        )
    return str(address)


def _known_keys(wanted: Sequence[_Wanted], former: Mapping[Key, Publication]) -> list[Key | None]:
    """The key of each entry that names the host's port or keeps the one it has; None where one is chosen."""
    keys = [(entry.protocol, entry.host_ip, entry.host) if entry.host else None for entry in wanted]
    taken = set(keys)
    for position, entry in enumerate(wanted):
        if keys[position] is None:
            found = next((key for key in former if key not in taken and entry.fits(former[key])), None)
            keys[position] = found
            taken.add(found)
    return keys
