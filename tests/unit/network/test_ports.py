# SPDX-License-Identifier: Apache-2.0
"""Which ports are published, by whom, and what changes when something else is asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.claims import free_port
from mooring_agent.engine.resources import PortMapping
from mooring_agent.errors import Conflict, InvalidSpec
from mooring_agent.network.holders import port_holder
from mooring_agent.network.ports import PortBook
from mooring_agent.network.publishing import Change, Target, plan, withdraw
from mooring_agent.network.records import Publication

HERE = "127.0.0.1"
IP = "10.9.8.2"
IP6 = "fd00:9::2"


@pytest.fixture
def book() -> Iterator[PortBook]:
    made = PortBook(lambda container_id: f"<{container_id}>")
    yield made
    made.close()


@pytest.fixture
def free() -> int:
    """A port that is free, and that no connection of others gets meanwhile."""
    return free_port()


def mapping(container: int, host: int | None = None, protocol: str = "tcp") -> PortMapping:
    return PortMapping(container, host, HERE, protocol)


def publish(
    book: PortBook, container_id: str, *wanted: PortMapping, taking_over: str | None = None
) -> Change:
    return plan(book, container_id, wanted, Target(IP, IP6), taking_over)


def bind(port: int, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((HERE, port))


def among(container: int, first: int, last: int) -> PortMapping:
    return PortMapping(container, None, HERE, "tcp", among=(first, last))


def test_of_a_range_the_first_free_port_is_chosen_and_kept(book: PortBook, free: int) -> None:
    with socket.socket() as holder:
        holder.bind((HERE, free))
        holder.listen()
        wanted = among(80, free, free + 20)
        first = publish(book, "one", wanted)
        second = publish(book, "two", among(80, free, free + 20))
        again = publish(book, "one", wanted)

    ports = [change.keys[0][2] for change in (first, second)]
    assert free < ports[0] < ports[1] <= free + 20
    assert (again.removed, again.added, again.keys) == ((), (), first.keys)
    assert first.filled([wanted]) == [mapping(80, ports[0])]
    elsewhere = publish(book, "one", among(80, ports[1] + 1, ports[1] + 20))
    assert elsewhere.keys[0][2] > ports[1]


def test_a_range_without_a_free_port_is_refused(book: PortBook, free: int) -> None:
    publish(book, "one", mapping(80, free))
    with pytest.raises(Conflict, match=f"host ports {free} to {free}/tcp of {HERE} are all taken"):
        publish(book, "two", among(80, free, free))
    assert [publication.container_id for publication in book] == ["one"]


def test_nothing_changes_when_the_same_is_asked_again(book: PortBook, free: int) -> None:
    first = publish(book, "web", mapping(80, free), mapping(81))
    again = publish(book, "web", mapping(80, free), mapping(81))

    assert (first.removed, len(first.added)) == ((), 2)
    assert (again.removed, again.added, again.keys) == ((), (), first.keys)
    filled = first.filled([mapping(80, free), mapping(81)])
    assert [item.host for item in filled] == [key[2] for key in first.keys]
    assert len({item.host for item in filled}) == 2


def test_chosen_ports_are_each_kept_by_one(book: PortBook) -> None:
    first = publish(book, "web", mapping(80), mapping(80))
    again = publish(book, "web", mapping(80), mapping(80))
    assert first.keys == again.keys
    assert len(set(again.keys)) == 2


def test_a_new_address_of_the_container_is_a_change_of_the_target(book: PortBook, free: int) -> None:
    [before] = publish(book, "web", mapping(80, free)).added
    moved = plan(book, "web", [mapping(80, free)], Target("10.9.8.3"), None)
    assert moved.removed == (before,)
    assert [publication.container_ip for publication in moved.added] == ["10.9.8.3"]


def test_held_port_is_refused_to_others_until_it_is_given_back(book: PortBook, free: int) -> None:
    publish(book, "web", mapping(80, free), mapping(80, free, "udp"))
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with pytest.raises(OSError, match="in use"):
            bind(free, kind)
    publish(book, "web")
    bind(free)
    bind(free, socket.SOCK_DGRAM)
    assert list(book) == []


def test_refusal_leaves_everything_as_it_was(book: PortBook, free: int) -> None:
    publish(book, "web", mapping(80, free))
    kept = publish(book, "other", mapping(80)).keys

    with pytest.raises(
        Conflict, match=rf"host port {free}/tcp of {HERE} is already published by container <web>"
    ):
        publish(book, "other", mapping(81), mapping(82), mapping(80, free))

    assert [publication.key for publication in book.of("other")] == list(kept)
    with pytest.raises(OSError, match="in use"):
        bind(kept[0][2])
    assert len(list(book)) == 2


def test_wildcard_and_one_address_exclude_each_other(book: PortBook, free: int) -> None:
    publish(book, "web", mapping(80, free))
    with pytest.raises(Conflict, match="container <web>"):
        publish(book, "other", PortMapping(80, free))
    assert publish(book, "other", mapping(80, free, "udp")).added


def test_taking_over_moves_the_ports_and_takes_the_rest_back(book: PortBook, free: int) -> None:
    old = publish(book, "old", mapping(80, free), mapping(81), mapping(82))
    new = publish(book, "new", mapping(80, free), mapping(81), taking_over="old")

    assert set(new.removed) == set(old.added)
    assert [publication.container_id for publication in new.added] == ["new", "new"]
    assert new.keys == old.keys[:2], "a port that was chosen for the one is kept by the other"
    assert book.of("old") == []
    with pytest.raises(OSError, match="in use"):
        bind(free)
    bind(old.keys[2][2])


def test_shared_port_is_held_until_its_last_container_has_gone(book: PortBook, free: int) -> None:
    shared = PortMapping(80, free, HERE, balance="round_robin")
    publish(book, "one", shared)
    second = publish(book, "two", PortMapping(81, free, HERE, balance="round_robin", weight=3))

    assert [(one.container_id, one.weight) for one in second.before] == [("one", 1)]
    assert [(one.container_id, one.weight) for one in second.after] == [("one", 1), ("two", 3)]
    third = publish(book, "three", shared, taking_over="one")
    assert [(one.container_id, one.seat) for one in third.added] == [("three", "one")]
    withdraw(book, "three")
    with pytest.raises(OSError, match="in use"):
        bind(free)
    withdraw(book, "two")
    bind(free)


@pytest.mark.parametrize("other", [None, "source"])
def test_port_is_shared_by_those_only_who_say_the_same(book: PortBook, free: int, other: str | None) -> None:
    publish(book, "one", PortMapping(80, free, HERE, balance="round_robin"))
    with pytest.raises(Conflict, match=rf"host port {free}/tcp of {HERE} .* <one> with balance round_robin"):
        publish(book, "two", PortMapping(80, free, HERE, balance=other))
    assert book.of("two") == []


def test_both_families_of_an_address_are_one_port(book: PortBook) -> None:
    [key] = publish(book, "web", PortMapping(80)).keys
    for address in ("0.0.0.0", "127.0.0.1", "::", "fd00::1"):
        with pytest.raises(Conflict, match="container <web>"):
            publish(book, "other", PortMapping(80, key[2], address))
    with pytest.raises(OSError, match="in use"):
        bind(key[2])


def test_families_apart_do_not_exclude_each_other(book: PortBook, free: int) -> None:
    publish(book, "web", PortMapping(80, free, "0.0.0.0"))
    assert publish(book, "other", PortMapping(80, free, "::")).added


def test_address_of_a_family_that_the_container_has_not_is_refused(book: PortBook, free: int) -> None:
    with pytest.raises(InvalidSpec, match="no IPv6 address"):
        plan(book, "web", [PortMapping(80, free, "::")], Target(IP), None)
    with pytest.raises(InvalidSpec, match="no IPv4 address"):
        plan(book, "web", [PortMapping(80, free, HERE)], Target("", IP6), None)


def test_program_that_listens_is_named(book: PortBook) -> None:
    with socket.socket() as native:
        native.bind((HERE, 0))
        native.listen()
        port = int(native.getsockname()[1])
        with pytest.raises(Conflict, match=rf"host port {port}/tcp is in use by \S+ \(process \d+\)"):
            publish(book, "web", mapping(80, port))


def test_a_restored_port_that_somebody_else_took_meanwhile_is_told(book: PortBook) -> None:
    with socket.socket() as native:
        native.bind((HERE, 0))
        native.listen()
        port = int(native.getsockname()[1])
        told = book.restore(Publication("tcp", HERE, port, "web", IP, 80))
    assert told is not None
    assert f"host port {port}/tcp is in use by" in told
    assert len(book.of("web")) == 1


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (PortMapping(80, 80, HERE, "icmp"), "expected tcp, udp or sctp"),
        (PortMapping(0, 80, HERE), "published port 0 is not usable"),
        (PortMapping(80, 65536, HERE), "published port 65536 is not usable"),
        (PortMapping(80, 80, "::1"), "cannot lead from ::1 to a container"),
        (PortMapping(80, 80, "fe80::1%lo"), "expected an IPv4 or IPv6 address of the host"),
        (PortMapping(80, 80, "::ffff:127.0.0.1"), "expected an IPv4 or IPv6 address of the host"),
        (PortMapping(80, 80, "here; drop"), "expected an IPv4 or IPv6 address of the host"),
        (PortMapping(80, 80, HERE, balance="random"), "expected round_robin or source"),
        (PortMapping(80, None, HERE, balance="source"), "name the one to be shared"),
        (PortMapping(80, 80, HERE, balance="source", weight=101), "a number from 0 to 100"),
    ],
)
def test_unusable_mappings(book: PortBook, wanted: PortMapping, message: str) -> None:
    with pytest.raises(InvalidSpec, match=message):
        publish(book, "web", wanted)


def test_holder_of_an_ipv6_wildcard_socket_is_found(tmp_path: Path) -> None:
    """`nginx` on [::]:8080, which takes IPv4 connections too."""
    (tmp_path / "net").mkdir()
    header = "  sl  local_address remote_address st tx_queue:rx_queue tr:tm retrnsmt uid timeout inode\n"
    (tmp_path / "net/tcp").write_text(header)
    (tmp_path / "net/tcp6").write_text(
        f"{header}   0: {'0' * 32}:1F90 {'0' * 32}:0000 0A 0:0 0:0 0 0 0 4711 1\n"
    )
    (tmp_path / "812/fd").mkdir(parents=True)
    (tmp_path / "812/fd/6").symlink_to("socket:[4711]")
    (tmp_path / "812/comm").write_text("nginx\n")

    assert port_holder("tcp", "0.0.0.0", 8080, tmp_path) == "nginx (process 812)"
    assert port_holder("tcp", "0.0.0.0", 8081, tmp_path) == "another program of the host"


def test_holder_of_an_ipv6_address_is_not_one_of_another_address(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    lines = "".join(
        f" 0: B80D0120{'0' * 16}{last:02}000000:1F90 {'0' * 32}:0000 0A 0:0 0:0 0 0 0 {last} 1\n"
        for last in (1, 2)
    )
    (tmp_path / "net/tcp6").write_text(f"header\n{lines}")
    for last in (1, 2):
        (tmp_path / f"{last}/fd").mkdir(parents=True)
        (tmp_path / f"{last}/fd/6").symlink_to(f"socket:[{last}]")
        (tmp_path / f"{last}/comm").write_text("nginx\n")

    for last in (1, 2):
        assert port_holder("tcp", f"2001:db8::{last}", 8080, tmp_path) == f"nginx (process {last})"
