# SPDX-License-Identifier: Apache-2.0
"""Layers unpacked side by side, in whatever order they come, are what they are one after the other."""

from __future__ import annotations

import gzip
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from integration.storage.mounts import mounted
from mooring_agent.errors import InvalidSpec
from mooring_agent.images import stacking
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.content import MEDIA_LAYER, Descriptor, digest_of
from mooring_agent.images.image import ProgressEvent, no_progress
from mooring_agent.images.layers import apply_layer
from mooring_agent.images.stacking import LayerStack, wanted_layers
from mooring_agent.images.turns import Stop
from mooring_agent.storage.snapshotter import Snapshotter, UnpackTarget, WhiteoutStyle
from unit.images.archives import archive, directory, hard_link, in_pieces, link, member
from unit.images.houses import House

pytestmark = pytest.mark.root

EPOCH = 10**9  # seconds; whatever is younger was made by the test, at a time that no layer tells
# In a directory that it need not merge, overlay lists whiteouts, which nobody can look up.
LOOK = """
exec 2> /dev/null
find . -printf '%y %m %U %G %l %T@ %P\\n' || true
find . -type f -exec sha256sum {} + || true
"""

names = st.lists(st.sampled_from("abc"), min_size=1, max_size=4).map("/".join)
owners = st.sampled_from([0, 0, 7])
modes = st.sampled_from([0o755, 0o700, 0o1777, 0o2775, 0o6711])
times = st.integers(1, EPOCH).map(lambda seconds: seconds * 10**9)
texts = st.sampled_from([b"1", b"other"])


def whiteout(path: str) -> bytes:
    parent, _, name = path.rpartition("/")
    return member(f"{parent}/.wh.{name}")


entries = st.one_of(
    st.builds(directory, names, uid=owners, gid=owners, mode=modes, mtime_ns=times),
    st.builds(directory, st.just("."), uid=owners, gid=owners, mode=modes, mtime_ns=times),
    st.builds(
        lambda path, data, **fields: member(path, data=data, **fields),
        names, texts, uid=owners, gid=owners, mode=modes, mtime_ns=times,
    ),
)  # fmt: skip
removals = st.one_of(
    st.builds(whiteout, names), st.builds(lambda path: member(f"{path}/.wh..wh..opq"), names)
)
members = st.one_of(
    entries,
    removals,
    st.builds(link, names, names.map(lambda path: f"/{path}"), uid=owners, mtime_ns=times),
    st.builds(hard_link, names, names),
)
# One directory has no directories that a layer has for the sake of removals alone, if it empties them later.
plain_members = st.one_of(
    entries,
    st.builds(lambda path: directory(path) + member(f"{path}/.wh..wh..opq"), names),
    st.builds(lambda path, name: directory(path) + whiteout(f"{path}/{name}"), names, st.sampled_from("abc")),
)


def stacks(of: st.SearchStrategy[bytes]) -> st.SearchStrategy[list[bytes]]:
    layer = st.lists(of, min_size=1, max_size=8).map(lambda found: archive(*found))
    return st.lists(layer, min_size=1, max_size=4)


@contextmanager
def house() -> Iterator[House]:
    """One for each example."""
    with tempfile.TemporaryDirectory() as place:
        found = House(Path(place))
        try:
            yield found
        finally:
            found.snapshots.close()


def one_after_the_other(snapshots: Snapshotter, layers: list[bytes]) -> None:
    for number, data in enumerate(layers):
        snapshots.prepare("extract", f"serial-{number - 1}" if number else None, temporary=True)
        apply_layer(in_pieces(data), snapshots.unpack_target("extract"))
        snapshots.commit("extract", f"serial-{number}")
    snapshots.prepare("serial", f"serial-{len(layers) - 1}")


def side_by_side(house: House, layers: list[bytes], order: list[int]) -> None:
    """Build the stack with blobs that arrive in the order given."""
    packed = [gzip.compress(data, 1, mtime=0) for data in layers]
    blobs = [Descriptor(f"{MEDIA_LAYER}+gzip", digest_of(data), len(data)) for data in packed]
    state = house.store.state
    arrivals: dict[str, Future[None]] = {blob.digest: Future() for blob in blobs}

    def arrive() -> None:
        for index in order:
            state.content.add_bytes(blobs[index].media_type, packed[index])
            if not arrivals[blobs[index].digest].done():
                arrivals[blobs[index].digest].set_result(None)

    wanted = wanted_layers(blobs, [digest_of(data) for data in layers])
    arriving = threading.Thread(target=arrive)
    with state.leases.hold("test") as lease:
        stack = LayerStack(state, lease, Stop("test"), no_progress, wanted, arrivals=arrivals)
        arriving.start()
        try:
            stack.build()
        finally:
            arriving.join()
        house.snapshots.prepare("parallel", wanted[-1].chain)


def look(snapshots: Snapshotter, key: str) -> list[str]:
    """The whole tree as a container sees it; what was made just now has no time to compare."""
    return timeless(mounted(snapshots.rootfs(key), LOOK))


def timeless(listing: str) -> list[str]:
    found = []
    for line in listing.splitlines():
        fields = line.split(" ")
        if len(fields) == 7 and float(fields[5]) > EPOCH:
            fields[5] = "now"
        found.append(" ".join(fields))
    return sorted(found)


@settings(max_examples=25, deadline=None)
@given(stacks(members), st.randoms(use_true_random=False))
def test_any_stack_is_the_same_in_any_order(layers: list[bytes], random: object) -> None:
    order = list(range(len(layers)))
    random.shuffle(order)  # type: ignore[attr-defined]
    with house() as serial, house() as parallel:
        try:
            one_after_the_other(serial.snapshots, layers)
        except InvalidSpec:
            with pytest.raises(InvalidSpec):
                side_by_side(parallel, layers, order)
            return
        side_by_side(parallel, layers, order)
        assert look(parallel.snapshots, "parallel") == look(serial.snapshots, "serial")


@settings(max_examples=25, deadline=None)
@given(stacks(plain_members))
def test_overlaid_it_is_what_it_is_in_one_directory(layers: list[bytes]) -> None:
    """As on btrfs, where every layer is written into what is below it."""
    with house() as overlay, tempfile.TemporaryDirectory() as place:
        whole = Path(place) / "tree"
        whole.mkdir(mode=0o755)
        try:
            for data in layers:
                apply_layer(in_pieces(data), UnpackTarget(whole, WhiteoutStyle.DELETE, ()))
        except InvalidSpec:
            return
        side_by_side(overlay, layers, list(reversed(range(len(layers)))))
        found = sorted(map(without_time, look(overlay.snapshots, "parallel")))
        overlay.snapshots.prepare("plain", None)
        expected = mounted(overlay.snapshots.rootfs("plain"), f"cd {whole}; {LOOK}")
        assert found == sorted(map(without_time, timeless(expected)))


def without_time(line: str) -> str:
    """A line but for its time, which a directory on btrfs has from what was written into it last."""
    fields = line.split(" ")
    return " ".join(fields[:5] + fields[6:]) if len(fields) == 7 else line


def test_a_late_parent_has_the_last_word_on_what_a_layer_does_not_list() -> None:
    layers = [
        archive(
            directory(".", mode=0o1711, uid=5, mtime_ns=10**15),
            directory("home", uid=1, gid=2, mode=0o700, mtime_ns=10**18),
            directory("home/me", uid=1000, gid=1000, mode=0o1770, mtime_ns=10**17),
            directory("hidden", mode=0o700, uid=3), directory("hidden/deep", mode=0o700, uid=3),
        ),
        archive(directory("hidden", mode=0o711, uid=4), member("hidden/.wh..wh..opq")),
        archive(
            member("home/me/deep/file", data=b"x"),
            member("hidden/deep/file", data=b"x"),
            link("way", "home"), member("way/listed-by-its-link/file", data=b"y"),
            member("way/me/more", data=b"z"),
        ),
    ]  # fmt: skip
    with house() as parallel:
        side_by_side(parallel, layers, [2, 1, 0])
        owners = "stat -c '%a %u %g %n' . home home/me hidden hidden/deep home/me/deep"
        times = "stat -c '%Y %n' home home/me"
        assert mounted(parallel.snapshots.rootfs("parallel"), f"{owners}; {times}").splitlines() == [
            "1711 5 0 .",
            "700 1 2 home",
            "1770 1000 1000 home/me",
            "711 4 0 hidden",
            "755 0 0 hidden/deep",
            "755 0 0 home/me/deep",
            "1000000000 home",
            "100000000 home/me",
        ]


def test_a_layer_that_comes_first_is_unpacked_before_the_one_below() -> None:
    layers = [archive(member("below", data=b"1")), archive(member("above", data=b"2"))]
    packed = [gzip.compress(data, 1, mtime=0) for data in layers]
    blobs = [Descriptor(f"{MEDIA_LAYER}+gzip", digest_of(data), len(data)) for data in packed]
    with house() as found:
        state = found.store.state
        below: Future[None] = Future()
        above: Future[None] = Future()
        above.set_result(None)
        for blob, data in zip(blobs, packed, strict=True):
            state.content.add_bytes(blob.media_type, data)
        read: list[str] = []
        chunks = state.content.chunks

        def told(descriptor: Descriptor) -> Iterator[bytes]:
            yield from chunks(descriptor)
            read.append(descriptor.digest)
            if not below.done():
                below.set_result(None)  # only now, so that the other one cannot have waited for it

        state.content.chunks = told  # type: ignore[method-assign, assignment]
        events: list[ProgressEvent] = []
        wanted = wanted_layers(blobs, [digest_of(data) for data in layers])
        with state.leases.hold("test") as lease:
            arrivals = {blobs[0].digest: below, blobs[1].digest: above}
            LayerStack(state, lease, Stop("test"), events.append, wanted, arrivals=arrivals).build()
            assert read == [blobs[1].digest, blobs[0].digest]
            ends = [event.detail for event in events if event.current == event.total]
            assert ends[-2:] == [blobs[0].short, blobs[1].short]
            assert [(each.key, each.parent) for each in found.snapshots.list()] == [
                (wanted[1].chain, wanted[0].chain),
                (wanted[0].chain, None),
            ]


def test_what_has_ended_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """While an unpacked layer has to stay for those below it, nothing is asked again and again."""
    layers = [archive(member("below", data=b"1")), archive(member("above", data=b"2"))]
    blobs = [Descriptor(MEDIA_LAYER, digest_of(data), len(data)) for data in layers]
    arrivals: list[Future[None]] = [Future(), Future()]
    arrivals[1].set_result(None)
    ended: set[Future[None]] = set()

    def watched(futures: set[Future[None]], *, return_when: str) -> Any:
        assert not ended & futures
        found = wait(futures, timeout=20, return_when=return_when)
        ended.update(found.done)
        if ended - set(arrivals) and not arrivals[0].done():
            arrivals[0].set_result(None)  # the one above is unpacked by now
        return found

    monkeypatch.setattr(stacking, "wait", watched)
    with house() as found:
        state = found.store.state
        for data in layers:
            state.content.add_bytes(MEDIA_LAYER, data)
        wanted = wanted_layers(blobs, [digest_of(data) for data in layers])
        by_digest = {blob.digest: arrival for blob, arrival in zip(blobs, arrivals, strict=True)}
        with state.leases.hold("test") as lease:
            LayerStack(state, lease, Stop("test"), no_progress, wanted, arrivals=by_digest).build()
        assert state.has_layer(wanted[1].chain)
    assert len(ended) == 4


def test_what_is_unpacked_goes_when_the_layer_below_fails() -> None:
    layers = [archive(hard_link("a", "nowhere")), archive(member("above", data=b"2"))]
    with house() as found:
        with pytest.raises(InvalidSpec, match="nowhere"):
            side_by_side(found, layers, [1, 0])
        assert found.snapshots.list() == ()
        assert found.snapshots.wait_idle(20)


def test_devices_are_not_taken_for_what_hides() -> None:
    """A character device 0/0 is a whiteout for overlay; another one is a file, and hides as one."""
    layers = [
        archive(directory("dev", mode=0o700), directory("dev/a", mode=0o700)),
        archive(member("dev/a", tar.CHARACTER, device=(1, 3))),
        archive(member("dev/b", data=b"1")),
    ]
    with house() as serial, house() as parallel:
        one_after_the_other(serial.snapshots, layers)
        side_by_side(parallel, layers, [2, 1, 0])
        assert look(parallel.snapshots, "parallel") == look(serial.snapshots, "serial")
