# SPDX-License-Identifier: Apache-2.0
"""Stores that are each other's peers, with one registry in memory whose bytes are counted."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness import waiting
from harness.claims import free_port
from mooring_agent.errors import Conflict
from mooring_agent.images.peering.client import Patience, PeerClient
from mooring_agent.images.peering.election import Holds
from mooring_agent.images.peering.peering import Peering
from mooring_agent.images.peering.settings import PeerSettings
from unit.images.houses import House
from unit.images.repositories import Built, Repository, build, layer

NAME = "registry.example/me/web:1"
PATH = "me/web"
SIZE = 300_000  # bytes of a layer; a small one is not asked around for
LAYERS = tuple(layer(number, SIZE) for number in range(5))
# Whose peer is off the processor for longer than that asks the registry.
PATIENCE = Patience(
    connect=2 * waiting.PATIENCE,
    stall=1 * waiting.PATIENCE,
    pace=1,
    window=0.5,
    poll=0.5,
    still=2 * waiting.PATIENCE,
    wait=20 * waiting.PATIENCE,
)


class Host:
    """One host of a fleet: a store, and its peers."""

    def __init__(self, root: Path, settings: PeerSettings, patience: Patience = PATIENCE) -> None:
        self.house = House(root)
        self.settings = settings
        self.peering = Peering(self.house.store, settings, patience)

    def pull(self, repository: Repository, name: str = NAME) -> None:
        with self.peering.source(repository, PATH) as source:
            self.house.store.pull(source, name)

    def end(self) -> None:
        self.peering.close()
        self.house.check()
        self.house.snapshots.close()


Fleet = Callable[..., list[Host]]


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Return a function that makes a fleet of so many hosts, and of members that are no hosts of ours."""
    hosts: list[Host] = []

    def make(count: int, *others: str) -> list[Host]:
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
        for number, address in enumerate(addresses):
            settings = PeerSettings.parse(
                {"listen": address, "members": [*addresses, *others], "plain": True, "uploads": 2}
            )
            hosts.append(Host(tmp_path / str(number), settings))
        return hosts

    yield make
    for host in hosts:
        host.end()


@pytest.fixture
def impostor() -> Iterator[Callable[[Callable[[socket.socket, bytes], None]], str]]:
    """Return a function that makes a peer which answers as told, and returns its address."""
    listeners: list[socket.socket] = []

    def serve(listener: socket.socket, answer: Callable[[socket.socket, bytes], None]) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=converse, args=(client, answer), daemon=True).start()

    def converse(client: socket.socket, answer: Callable[[socket.socket, bytes], None]) -> None:
        with client:
            try:
                while head := client.recv(1 << 16):
                    answer(client, head)
            except OSError:
                pass  # whoever was answered has gone

    def make(answer: Callable[[socket.socket, bytes], None]) -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        threading.Thread(target=serve, args=(listener, answer), daemon=True).start()
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield make
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def together(hosts: list[Host], repository: Repository, name: str = NAME) -> None:
    with ThreadPoolExecutor(len(hosts)) as pool:
        for done in [pool.submit(host.pull, repository, name) for host in hosts]:
            done.result(60)


def bytes_of(built: Built) -> int:
    return sum(each.size for each in built.layers)


def sent(repository: Repository, built: Built) -> int:
    return sum(repository.sent[each.digest] for each in built.layers)


def test_all_at_once_cost_the_registry_one_image(fleet: Fleet) -> None:
    hosts, repository = fleet(6), Repository()
    built = repository.add(build(*LAYERS), "1")
    together(hosts, repository)
    assert len({host.house.store.get(NAME).id for host in hosts}) == 1
    assert sent(repository, built) <= 1.3 * bytes_of(built)


def test_of_an_update_only_the_changed_layer_moves_and_once(fleet: Fleet) -> None:
    hosts, repository = fleet(3), Repository()
    repository.add(build(*LAYERS), "1")
    together(hosts, repository)
    changed = repository.add(build(*LAYERS[:4], layer(9, SIZE)), "2")
    repository.sent.clear()
    together(hosts, repository, "registry.example/me/web:2")
    assert sent(repository, changed) == changed.layers[-1].size


def test_a_late_one_takes_nothing_but_documents_from_the_registry(fleet: Fleet) -> None:
    hosts, repository = fleet(3), Repository()
    built = repository.add(build(*LAYERS), "1")
    hosts[0].pull(repository)
    repository.sent.clear()
    hosts[1].pull(repository)
    assert sent(repository, built) == 0
    assert repository.sent[built.manifest.digest]


def test_the_registry_says_what_a_tag_means(fleet: Fleet) -> None:
    hosts, repository = fleet(2), Repository()
    repository.add(build(*LAYERS), "1")
    hosts[0].pull(repository)
    newer = repository.add(build(*LAYERS[:2]), "1")
    hosts[1].pull(repository)
    assert hosts[1].house.store.get(NAME).manifest_digest == newer.manifest.digest


def test_those_that_are_not_there_cost_little(fleet: Fleet) -> None:
    hosts = fleet(2, *(f"127.0.0.1:{free_port()}" for _ in range(8)))
    repository = Repository()
    built = repository.add(build(*LAYERS), "1")
    together(hosts, repository)
    assert sent(repository, built) <= 1.3 * bytes_of(built)


HELD = b"HTTP/1.1 200 OK\r\nMooring-Blob: held\r\nContent-Length: %d\r\n\r\n"


def test_one_that_lies_is_found_out(fleet: Fleet, impostor: Callable[..., str]) -> None:
    built = build(*LAYERS)
    sizes = {each.digest.encode(): each.size for each in built.layers}
    lies: list[bytes] = []

    def lie(client: socket.socket, head: bytes) -> None:
        digest = head.split(b" ")[1].rpartition(b"/")[2]
        client.sendall(HELD % sizes[digest])
        if head.startswith(b"GET"):
            lies.append(digest)
            client.sendall(bytes(sizes[digest]))

    repository = Repository()
    repository.add(built, "1")
    (host,) = fleet(1, impostor(lie))
    host.pull(repository)
    assert lies
    assert sent(repository, built) == bytes_of(built)


@pytest.mark.parametrize("then", ["stalls", "ends", "creeps"])
def test_one_that_breaks_off_is_gone_on_from(fleet: Fleet, impostor: Callable[..., str], then: str) -> None:
    built = build(*LAYERS)
    done = threading.Event()

    def begin(client: socket.socket, head: bytes) -> None:
        digest = head.split(b" ")[1].rpartition(b"/")[2].decode()
        data = built.blobs[digest]
        client.sendall(HELD % len(data))
        if head.startswith(b"GET"):
            client.sendall(data[: SIZE // 2])
            if then == "stalls":
                done.wait(30)
            elif then == "creeps":
                for position in range(SIZE // 2, SIZE):
                    if done.wait(0.2):
                        break
                    client.sendall(data[position : position + 1])
            client.close()

    repository = Repository()
    repository.add(built, "1")
    (host,) = fleet(1, impostor(begin))
    try:
        if then == "creeps":
            host.peering.close()
            host.peering = Peering(host.house.store, host.settings, Patience(stall=5, pace=SIZE, window=0.5))
        host.pull(repository)
    finally:
        done.set()
    # The second half of a layer came from the registry.
    assert 0 < sent(repository, built) <= bytes_of(built) - SIZE // 2


def test_one_that_never_gets_it_is_not_waited_for_long(fleet: Fleet, impostor: Callable[..., str]) -> None:
    def want(client: socket.socket, _head: bytes) -> None:
        client.sendall(
            b"HTTP/1.1 503 Later\r\nMooring-Blob: claimed\r\nMooring-Received: 5\r\nContent-Length: 0\r\n\r\n"
        )

    repository = Repository()
    built = repository.add(build(LAYERS[0]), "1")
    (host,) = fleet(1, impostor(want))
    host.pull(repository)
    assert sent(repository, built) == bytes_of(built)


def test_one_that_dies_in_the_middle_is_replaced(fleet: Fleet) -> None:
    hosts, repository = fleet(3), Repository()
    built = repository.add(build(*LAYERS[:1]), "1")
    digest = built.layers[0].digest
    gate = repository.gates[digest] = threading.Event()
    reached = repository.reached[digest] = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(hosts[0].pull, repository)
        assert reached.wait(20)
        others = [pool.submit(host.pull, repository) for host in hosts[1:]]
        hosts[0].peering.close()
        gate.set()
        for done in (first, *others):
            done.result(60)
    assert sent(repository, built) <= 2 * bytes_of(built)


def test_a_pull_that_waits_for_a_peer_can_be_cancelled(fleet: Fleet) -> None:
    hosts, repository = fleet(2), Repository()
    built = repository.add(build(*LAYERS[:1]), "1")
    digest = built.layers[0].digest
    gate = repository.gates[digest] = threading.Event()
    reached = repository.reached[digest] = threading.Event()
    cancelled = threading.Event()
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(hosts[0].pull, repository)
        assert reached.wait(20)
        source = hosts[1].peering.source(repository, PATH)
        second = pool.submit(hosts[1].house.store.pull, source, NAME, cancelled=cancelled)
        cancelled.set()
        assert second.exception(10) is not None
        source.close()
        gate.set()
        first.result(30)
    hosts[1].house.expire()


def test_flights_are_forgotten_with_their_pull(fleet: Fleet) -> None:
    (host,) = fleet(1)
    repository = Repository()
    built = repository.add(build(*LAYERS[:1]), "1")
    host.pull(repository)
    flights = host.peering._flights
    assert all(flights.of(each.digest) is Holds.ABSENT for each in built.layers)


def test_an_address_in_use_is_a_conflict(fleet: Fleet, tmp_path: Path) -> None:
    (host,) = fleet(1)
    with pytest.raises(Conflict, match=r"peers\.listen"):
        Peering(host.house.store, host.settings)


def test_an_end_while_peers_are_asked_is_no_answer(
    impostor: Callable[[Callable[[socket.socket, bytes], None]], str],
) -> None:
    asked = threading.Semaphore(0)
    silent = impostor(lambda client, head: asked.release())
    client = PeerClient(None, Patience(stall=60))
    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(client.ask, PATH, "sha256:" + "0" * 64, [silent] * 100)
        for _ in range(16):  # as many as are asked at a time: the others wait for their turn
            assert asked.acquire(timeout=20)
        client.close()
        assert answers.result(20) == {}
