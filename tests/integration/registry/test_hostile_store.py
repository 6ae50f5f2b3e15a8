# SPDX-License-Identifier: Apache-2.0
"""A registry that misbehaves, and the store: a success or a clear error, and nothing lost or left over."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Iterator

import pytest

from harness import hostile_registry as faults
from harness.hostile_registry import Action, HostileRegistry
from integration.registry.conftest import Connect
from mooring_agent.errors import InvalidSpec, MooringError, NotFound, Unauthorized, Unavailable
from mooring_agent.images.reference import Reference
from mooring_agent.images.store import ImageStore
from mooring_agent.images.turns import Cancelled
from unit.images.houses import House
from unit.images.repositories import Built, Repository, build, layer

SIZE = 1 << 20
LAYERS = tuple(layer(number, SIZE) for number in range(3))
BUILT = build(*LAYERS)
KEPT = build(layer(50))
BLOBS = r"GET /v2/app/blobs/"
MANIFESTS = r"GET /v2/app/manifests/"
MIDDLE = BLOBS + re.escape(BUILT.layers[1].digest)
ALWAYS = 10_000


@pytest.fixture
def house(house: House) -> Iterator[House]:
    """Return a store that holds an image already, which has to be whole at the end."""
    repository = Repository()
    repository.add(KEPT, "1")
    house.store.pull(repository, "registry.example/kept:1")
    yield house
    (verdict,) = house.store.verify("registry.example/kept:1")
    assert verdict.sound


def serve(hostile: HostileRegistry, built: Built, tag: str = "1") -> None:
    for digest, data in built.blobs.items():
        hostile.blobs[digest] = data
    body = built.blobs[built.manifest.digest]
    hostile.manifests[tag] = hostile.manifests[built.manifest.digest] = (built.manifest.media_type, body)


@pytest.fixture
def name(hostile: HostileRegistry) -> str:
    """Return the name of the image BUILT at the registry."""
    serve(hostile, BUILT)
    return f"{hostile.host}/app:1"


def pull(house: House, connect: Connect, name: str) -> None:
    # Each with connections, and with mirrors that rest, of its own: as another day.
    registries = connect({Reference.parse(name).domain: {"tls": "off"}})
    house.store.pull(registries.repository(Reference.parse(name)), name)


def lie(handler: faults.Handler) -> bool:
    """Send as many bytes as there should be, but others."""
    data = handler.registry.blobs[handler.path.rpartition("/")[2]]
    handler.send_blob(data[:-1] + bytes([data[-1] ^ 1]))
    return True


def shorten(handler: faults.Handler) -> bool:
    """Say that a blob is shorter than its manifest says, and send that."""
    handler.send_blob(handler.registry.blobs[handler.path.rpartition("/")[2]][: SIZE // 2])
    return True


PASSING: dict[str, tuple[str, Callable[[], Action], int]] = {
    "a blob stalls": (MIDDLE, lambda: faults.stall(SIZE // 2), 1),
    "a blob is cut off": (MIDDLE, lambda: faults.break_off(SIZE // 2), 1),
    "every blob is cut off": (BLOBS, lambda: faults.break_off(SIZE // 3), 3),
    "connections end without an answer": (BLOBS, lambda: faults.hang_up, 2),
    "429 for blobs": (BLOBS, lambda: faults.status(429, Retry_After="0"), 2),
    "503 for blobs": (BLOBS, lambda: faults.status(503), 2),
    "429 for the manifest": (MANIFESTS, lambda: faults.status(429, Retry_After="0"), 2),
    "503 for the manifest": (MANIFESTS, lambda: faults.status(503), 2),
    "a manifest stalls": (MANIFESTS, lambda: faults.stall(), 1),
    "ranges are not known": (BLOBS, lambda: faults.ignore_range, 1),
}


@pytest.mark.parametrize("what", PASSING)
def test_what_passes_is_survived(
    hostile: HostileRegistry, connect: Connect, house: House, name: str, what: str
) -> None:
    pattern, make, times = PASSING[what]
    hostile.fault(pattern, make(), times)
    pull(house, connect, name)
    assert house.store.get(name).id == BUILT.config.digest


LASTING: dict[str, tuple[str, Callable[[], Action], type[MooringError], str]] = {
    "a blob stalls": (MIDDLE, lambda: faults.stall(), Unavailable, "time limit"),
    "a blob is cut off at once": (MIDDLE, lambda: faults.break_off(0), Unavailable, "too early"),
    "a blob is cut off again and again": (MIDDLE, lambda: faults.break_off(1000), Unavailable, "try again"),
    "a blob is another one": (MIDDLE, lambda: lie, InvalidSpec, "came as sha256"),
    "a blob is short": (MIDDLE, lambda: shorten, InvalidSpec, "expected"),
    "a blob never ends": (MIDDLE, lambda: faults.endless(chunked=True), InvalidSpec, "more than"),
    "a blob is gone": (MIDDLE, lambda: faults.status(404), NotFound, "does not have it"),
    "429": (BLOBS, lambda: faults.status(429, Retry_After="3600"), Unavailable, "3600 s"),
    "503": (BLOBS, lambda: faults.status(503), Unavailable, "503"),
    "the manifest is another one": (
        MANIFESTS,
        lambda: faults.answer_with(
            200, b"{}", Content_Type=BUILT.manifest.media_type, Docker_Content_Digest="sha256:" + "0" * 64
        ),
        InvalidSpec,
        "digest",
    ),
    "the manifest never ends": (MANIFESTS, lambda: faults.endless(chunked=True), InvalidSpec, "more than"),
    "the manifest is no JSON": (
        MANIFESTS,
        lambda: faults.answer_with(200, b"<html>", Content_Type="text/html"),
        InvalidSpec,
        "manifest",
    ),
    "401": (MANIFESTS, lambda: faults.status(401), Unauthorized, "log in"),
    "redirects in a circle": (
        MIDDLE,
        lambda: faults.redirect(f"/v2/app/blobs/{BUILT.layers[1].digest}"),
        Unavailable,
        "redirected more than",
    ),
    "redirects to nowhere": (
        MIDDLE,
        lambda: faults.redirect("http://127.0.0.1:1/blob"),
        Unavailable,
        "reached",
    ),
}


@pytest.mark.parametrize("what", LASTING)
def test_what_lasts_is_a_clear_error_and_leaves_nothing(
    hostile: HostileRegistry, connect: Connect, house: House, name: str, what: str
) -> None:
    pattern, make, kind, says = LASTING[what]
    hostile.fault(pattern, make(), ALWAYS)
    with pytest.raises(kind, match=says) as raised:
        pull(house, connect, name)
    # It names the image, or the registry.
    assert hostile.host in raised.value.message
    with pytest.raises(NotFound):
        house.store.get(name)
    left = os.listdir(house.root / "images/ingest")
    # What may be left is the beginning of a blob to go on with, and only of one that the registry broke off.
    assert all(each.startswith("partial-") for each in left)
    if kind is not Unavailable:
        assert left == []
    house.expire()


@pytest.mark.parametrize("what", [what for what, case in LASTING.items() if case[0] == MIDDLE])
def test_a_pull_after_it_goes_on(
    hostile: HostileRegistry, connect: Connect, house: House, name: str, what: str
) -> None:
    pattern, make, kind, _ = LASTING[what]
    hostile.fault(pattern, make(), ALWAYS)
    with pytest.raises(kind):
        pull(house, connect, name)
    hostile.forget_faults()
    pull(house, connect, name)
    assert house.store.get(name).id == BUILT.config.digest


def test_layers_that_are_elsewhere_are_followed(
    hostile: HostileRegistry, connect: Connect, house: House, name: str
) -> None:
    with HostileRegistry() as elsewhere:
        serve(elsewhere, BUILT)
        hostile.fault(BLOBS, _to(elsewhere), ALWAYS)
        registries = connect({hostile.host: {"tls": "off"}, elsewhere.host: {"tls": "off"}})
        house.store.pull(registries.repository(Reference.parse(name)), name)
    assert house.store.get(name).id == BUILT.config.digest


def _to(elsewhere: HostileRegistry) -> Action:
    def act(handler: faults.Handler) -> bool:
        return faults.redirect(f"{elsewhere.url}{handler.path}")(handler)

    return act


def test_a_pull_that_is_cancelled_while_the_registry_stalls_ends(
    hostile: HostileRegistry, connect: Connect, house: House, name: str
) -> None:
    cancelled = threading.Event()
    reached = threading.Event()

    def hold(handler: faults.Handler) -> bool:
        reached.set()
        return faults.stall(1000)(handler)

    hostile.fault(MIDDLE, hold, ALWAYS)
    repository = connect({hostile.host: {"tls": "off"}}).repository(Reference.parse(name))
    failures: list[BaseException] = []

    def run() -> None:
        try:
            house.store.pull(repository, name, cancelled=cancelled)
        except MooringError as error:
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert reached.wait(20)
    cancelled.set()
    thread.join(20)
    assert not thread.is_alive()
    assert isinstance(failures[0], Cancelled | Unavailable)
    house.expire()


PUSHES: dict[str, tuple[str, Callable[[], Action], int]] = {
    "429": (r"(POST|HEAD) /v2/app/blobs/", lambda: faults.status(429, Retry_After="0"), 2),
    "503": (r"(POST|HEAD|PUT) /v2/app/", lambda: faults.status(503), 2),
    "an upload is cut off": (r"(PATCH|PUT) /v2/app/blobs/", lambda: faults.break_upload(SIZE // 2), 1),
    "connections end without an answer": (r"(POST|HEAD) /v2/app/blobs/", lambda: faults.hang_up, 1),
}


@pytest.mark.parametrize("what", PUSHES)
def test_a_push_survives_what_passes(
    hostile: HostileRegistry, connect: Connect, house: House, what: str
) -> None:
    name = f"{hostile.host}/app:1"
    repository = Repository()
    repository.add(BUILT, "1")
    house.store.pull(repository, name)
    hostile.fault(*_fault(PUSHES[what]))
    registries = connect({hostile.host: {"tls": "off"}})
    assert house.store.push(registries.repository(Reference.parse(name)), name) == BUILT.manifest.digest
    assert hostile.manifests["1"][1] == BUILT.blobs[BUILT.manifest.digest]
    assert {each.digest for each in BUILT.layers} <= set(hostile.blobs)


@pytest.mark.parametrize(("code", "kind"), [(503, Unavailable), (401, Unauthorized), (413, InvalidSpec)])
def test_a_push_that_is_refused_leaves_no_lease(
    hostile: HostileRegistry, connect: Connect, house: House, code: int, kind: type[MooringError]
) -> None:
    name = f"{hostile.host}/app:1"
    repository = Repository()
    repository.add(BUILT, "1")
    house.store.pull(repository, name)
    hostile.fault(r"(POST|PUT|PATCH) ", faults.status(code), ALWAYS)
    registries = connect({hostile.host: {"tls": "off"}})
    with pytest.raises(kind) as raised:
        house.store.push(registries.repository(Reference.parse(name)), name)
    assert hostile.host in raised.value.message
    assert "1" not in hostile.manifests
    assert _leases(house.store) == frozenset()


def _fault(case: tuple[str, Callable[[], Action], int]) -> tuple[str, Action, int]:
    pattern, make, times = case
    return pattern, make(), times


def _leases(store: ImageStore) -> frozenset[str]:
    return frozenset(store._state.leases.resources())
