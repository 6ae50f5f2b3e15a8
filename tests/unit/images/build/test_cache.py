# SPDX-License-Identifier: Apache-2.0
"""Records of the build cache, and the directories of cache mounts."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.cache import BuildCache, Record, cache_key
from mooring_agent.images.build.cachemounts import CacheMounts
from mooring_agent.images.build.mounting import Mounting
from mooring_agent.images.build.running import RunBind
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.content import MEDIA_LAYER, Descriptor
from mooring_agent.images.dockerfile.mounts import Mount, MountKind, Sharing
from mooring_agent.images.turns import Cancelled, Stop

DIGEST = "sha256:" + "1" * 64
_VALUES = st.recursive(st.text(max_size=5), lambda inner: st.lists(inner, max_size=3), max_leaves=5)


def record(key: str, *, empty: bool = False) -> Record:
    layer = None if empty else Descriptor(MEDIA_LAYER, DIGEST, 3)
    return Record(key, "", layer, "" if empty else DIGEST, "" if empty else DIGEST, "2026-01-01", 4, "RUN x")


@given(one=st.lists(_VALUES, max_size=3), other=st.lists(_VALUES, max_size=3))
def test_a_key_is_that_of_its_parts(one: list[object], other: list[object]) -> None:
    assert (cache_key("p", *one) == cache_key("p", *other)) == (one == other)
    assert cache_key("p", *one) != cache_key("q", *one)


def test_records_outlive_the_process(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path / "cache")
    cache.put(record("a"))
    cache.put(record("b", empty=True))
    os.utime(tmp_path / "cache" / "a", (5, 5))
    (tmp_path / "cache" / "c.new").write_text("{")
    (tmp_path / "cache" / "d").write_text("{}")

    again = BuildCache(tmp_path / "cache")
    assert next((one.key, used_at) for one, used_at in again.list()) == ("a", 5.0)
    assert again.resources() == {DIGEST}
    assert again.find("b") == record("b", empty=True)
    assert again.find("a") == record("a")
    assert sorted(os.listdir(tmp_path / "cache")) == ["a", "b"]
    assert again.list()[0][1] > 5
    again.remove(["a", "absent"])
    assert again.find("a") is None
    assert BuildCache(tmp_path / "cache").find("a") is None


def test_cache_mounts_are_shared_private_or_locked(tmp_path: Path) -> None:
    mounts = CacheMounts(tmp_path / "mounts")
    stop = Stop("the build")
    filled: list[Path] = []

    def fill(path: Path) -> None:
        filled.append(path)
        (path / "first").touch()

    with ExitStack() as held:
        one = held.enter_context(mounts.use("id", Sharing.SHARED, fill, stop))
        assert held.enter_context(mounts.use("id", Sharing.SHARED, fill, stop)) == one
        private = held.enter_context(mounts.use("id", Sharing.PRIVATE, fill, stop))
        assert private != one
        assert (private / "first").exists()
        assert held.enter_context(mounts.use("other", Sharing.SHARED, fill, stop)) != one
        assert [mounts.remove(mount) for mount in mounts.list()] == [False] * 3
    assert len(filled) == 3

    def fail(path: Path) -> None:
        (path / "first").touch()
        raise InvalidSpec("no")

    names = set(os.listdir(tmp_path / "mounts"))
    with pytest.raises(InvalidSpec), mounts.use("failed", Sharing.SHARED, fail, stop):
        pass
    assert set(os.listdir(tmp_path / "mounts")) == names
    with mounts.use("id", Sharing.LOCKED, fill, stop):
        cancelled = threading.Event()
        cancelled.set()
        with (
            pytest.raises(Cancelled),
            mounts.use("id", Sharing.LOCKED, fill, Stop("another", cancelled)),
        ):
            pass
    (tmp_path / "mounts" / "new-left").mkdir()
    again = CacheMounts(tmp_path / "mounts")
    assert all(again.remove(mount) for mount in again.list())
    assert os.listdir(tmp_path / "mounts") == []


def test_a_cache_that_is_being_filled_is_in_the_way_of_no_other(tmp_path: Path) -> None:
    mounts, stop = CacheMounts(tmp_path / "mounts"), Stop("the build")
    begun, done = threading.Event(), threading.Event()
    filled: list[str] = []

    def slowly(path: Path) -> None:
        begun.set()
        assert done.wait(30)
        filled.append("slow")

    def use(name: str, fill: Callable[[Path], None]) -> None:
        with mounts.use(name, Sharing.SHARED, fill, stop):
            pass

    with ThreadPoolExecutor() as pool:
        first = pool.submit(use, "slow", slowly)
        try:
            assert begun.wait(30)
            use("other", lambda path: filled.append("other"))
            second = pool.submit(use, "slow", slowly)
            assert filled == ["other"]
        finally:
            done.set()
        first.result(30)
        second.result(30)
    assert filled == ["other", "slow"], "it is filled once"


def test_a_cache_that_is_mounted_twice_is_locked_once(tmp_path: Path) -> None:
    kept = {"kind": MountKind.CACHE, "id": "one", "sharing": Sharing.LOCKED, "read_only": False}
    mounting = Mounting(
        (Mount(target="/a", **kept), Mount(target="b/c", **kept)),  # type: ignore[arg-type]
        "/w",
        lambda name: (Tree(()), "nothing"),
        {},
        CacheMounts(tmp_path / "mounts"),
        tmp_path,
    )
    with ExitStack() as held:
        first, second = mounting.ready(held, Stop("the build"))
        assert isinstance(first, RunBind)
        assert isinstance(second, RunBind)
        assert (first.target, second.target) == ("/a", "/w/b/c")
        assert first.sources == second.sources
