# SPDX-License-Identifier: Apache-2.0
"""Published ports as elements and chains of our nftables table: pure functions, nft(8).

A port of one container is one map element a family. A balanced one is an element whose verdict is a chain of
its own, with a rule a family that draws a slot and looks up whose it is, and one without a map. Either way a
change is one transaction, which new connections see at once and those of before do not notice: their
translation is in the kernel's connection tracking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from . import balancing
from .records import EVERY_ADDRESS, EVERY_IPV4, EVERY_IPV6, Publication

FAMILY = "inet"
CHAIN_PREFIX = "port_"
# Any constant: without one, each new version of a rule would lead everybody elsewhere.
_SEED = "0x6d6f6f72"


@dataclass(frozen=True)
class Element:
    """A member of a map, as nft writes it."""

    where: str
    key: str
    value: str


@dataclass(frozen=True)
class Chain:
    """A chain that is no hook's, with its rules; each has a comment that tells its content."""

    name: str
    rules: tuple[str, ...]


def elements(members: Sequence[Publication]) -> Iterator[Element]:
    """The elements of one port of the host."""
    first = members[0]
    protocol, host_ip, port = first.key
    for version, suffix in ((4, ""), (6, "6")):
        if not _of_family(host_ip, version):
            continue
        target = first.container_ip if version == 4 else first.container_ipv6
        if first.balance:
            name, value = "balanced", f"goto {chain_name(first)}"
        elif target:
            name, value = "published", f"{target} . {first.container_port}"
        else:
            continue
        if host_ip in (EVERY_ADDRESS, EVERY_IPV4, EVERY_IPV6):
            yield Element(f"{name}_anywhere{suffix}", f"{protocol} . {port}", value)
        else:
            yield Element(f"{name}{suffix}", f"{protocol} . {host_ip} . {port}", value)


def chain(members: Sequence[Publication]) -> Chain | None:
    """The chain of one port of the host, None for one that is not balanced."""
    first = members[0]
    if not first.balance:
        return None
    rules: list[str] = []
    for version in (4, 6):
        targets = {
            member.seat: (address, member.container_port)
            for member in members
            if _of_family(first.host_ip, version)
            and (address := member.container_ip if version == 4 else member.container_ipv6)
        }
        weights = {member.seat: member.weight for member in members if member.seat in targets}
        turns = balancing.slots(first.balance, weights)
        if turns:
            rules += _rules(first, version, [targets[seat] for seat in turns])
    return Chain(chain_name(first), tuple(rules))


def chain_name(publication: Publication) -> str:
    """The name of a balanced port's chain."""
    protocol, host_ip, port = publication.key
    where = host_ip.replace(".", "_").replace(":", "_") if host_ip else "any"
    return f"{CHAIN_PREFIX}{protocol}_{port}_{where}"


def by_port(publications: Iterable[Publication]) -> list[list[Publication]]:
    """The publications of each port of the host, in a fixed order."""
    found: dict[tuple[str, str, int], list[Publication]] = {}
    for publication in publications:
        found.setdefault(publication.key, []).append(publication)
    return [sorted(found[key], key=lambda member: member.seat) for key in sorted(found)]


def change(table: str, before: Iterable[Publication], after: Iterable[Publication]) -> list[str]:
    """Commands that turn what some ports of the host have been into what they are to be."""
    old = {members[0].key: members for members in by_port(before)}
    new = {members[0].key: members for members in by_port(after)}
    chains: list[str] = []
    gone: list[Element] = []
    come: list[Element] = []
    chains_gone: list[str] = []
    for key in dict.fromkeys([*old, *new]):
        had = list(elements(old[key])) if key in old else []
        has = list(elements(new[key])) if key in new else []
        gone += (element for element in had if element not in has)
        come += (element for element in has if element not in had)
        chains += _change_of_chain(table, old.get(key), new.get(key), chains_gone)
    return [*chains, *delete(table, gone), *add(table, come), *chains_gone]


def _change_of_chain(
    table: str, old: Sequence[Publication] | None, new: Sequence[Publication] | None, chains_gone: list[str]
) -> Iterator[str]:
    name = f"{FAMILY} {table}"
    old_chain, new_chain = chain(old) if old else None, chain(new) if new else None
    if new_chain is not None and new_chain != old_chain:
        if old_chain is None:
            yield f"add chain {name} {new_chain.name}"
        yield f"flush chain {name} {new_chain.name}"
        yield from (f"add rule {name} {new_chain.name} {rule}" for rule in new_chain.rules)
    if old_chain is not None and new_chain is None:
        chains_gone += (
            f"flush chain {name} {old_chain.name}",
            f"delete chain {name} {old_chain.name}",
        )


def add(table: str, elements: Iterable[Element]) -> Iterator[str]:
    """The commands that add elements, one a map, however many there are; those that are there already do no
    harm.
    """
    for where, found in _by_map(elements).items():
        inner = ", ".join(f"{one.key} : {one.value}" for one in found)
        yield f"add element {FAMILY} {table} {where} {{ {inner} }}"


def delete(table: str, elements: Iterable[Element]) -> Iterator[str]:
    """The commands that remove elements."""
    for where, found in _by_map(elements).items():
        inner = ", ".join(one.key for one in found)
        yield f"delete element {FAMILY} {table} {where} {{ {inner} }}"


def _by_map(elements: Iterable[Element]) -> dict[str, list[Element]]:
    found: dict[str, list[Element]] = {}
    for element in elements:
        found.setdefault(element.where, []).append(element)
    return found


def _of_family(host_ip: str, version: int) -> bool:
    return host_ip == EVERY_ADDRESS or (":" in host_ip) == (version == 6)


def _rules(first: Publication, version: int, targets: Sequence[tuple[str, int]]) -> Iterator[str]:
    """The rule that draws one of the targets, and one without a map for whoever finds none.

    The kernel asks at each look-up anew which generation of the rules holds. A packet that is at the old rule
    when a change takes effect finds its map empty, as the map goes with it; it would be answered by the host.
    """
    family = "ip" if version == 4 else "ip6"
    rule = f"meta nfproto ipv{version} meta l4proto {first.protocol} dnat {family} to"
    if len(set(targets)) > 1:
        if first.balance == balancing.SOURCE:
            draw = f"jhash {family} saddr mod {len(targets)} seed {_SEED}"
        else:
            draw = f"numgen inc mod {len(targets)}"
        slots = ", ".join(f"{number} : {address} . {port}" for number, (address, port) in enumerate(targets))
        yield _named(f"{rule} {draw} map {{ {slots} }}")
    address, port = targets[0]
    yield _named(f"{rule} {address if version == 4 else f'[{address}]'}:{port}")


def _named(text: str) -> str:
    """A rule with a comment that tells its content."""
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f'{text} comment "{digest}"'
