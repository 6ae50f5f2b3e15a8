# SPDX-License-Identifier: Apache-2.0
"""Waiting for changes in directories."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mooring_agent.linux.inotify import DirectoryWatch

WAIT = 5.0


def nothing() -> None:
    return


def watched(work: Callable[[DirectoryWatch], Awaitable[None]]) -> None:
    async def run() -> None:
        before = len(os.listdir("/proc/self/fd"))
        watch = DirectoryWatch()
        try:
            await work(watch)
        finally:
            watch.close()
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())


async def soon(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), WAIT)
    event.clear()


async def silent(event: asyncio.Event) -> bool:
    await asyncio.sleep(0.05)
    return not event.is_set()


def test_a_write_and_a_new_file_are_noticed(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        _, event = watch.add(str(tmp_path), nothing)
        (tmp_path / "new").touch()
        await soon(event)
        with (tmp_path / "new").open("a") as file:
            file.write("x")
        await soon(event)
        assert await silent(event)

    watched(work)


def test_only_the_waiters_of_a_directory_are_woken(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        events = {}
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            _, events[name] = watch.add(str(tmp_path / name), nothing)
        (tmp_path / "a/file").touch()
        await soon(events["a"])
        assert not events["b"].is_set()

    watched(work)


def test_all_waiters_of_a_directory_are_woken_until_they_leave(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        entries = [watch.add(str(tmp_path), nothing) for _ in range(3)]
        (tmp_path / "one").touch()
        for _, event in entries:
            await soon(event)
        number, left = entries.pop()
        watch.remove(number, left)
        watch.remove(number, left)
        (tmp_path / "two").touch()
        for _, event in entries:
            await soon(event)
        assert not left.is_set()
        for number, event in entries:
            watch.remove(number, event)
        (tmp_path / "three").touch()
        assert await silent(entries[0][1])
        _, again = watch.add(str(tmp_path), nothing)
        (tmp_path / "four").touch()
        await soon(again)

    watched(work)


def test_a_directory_that_vanishes_wakes_and_may_come_again(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        place = tmp_path / "log"
        place.mkdir()
        number, event = watch.add(str(place), nothing)
        shutil.rmtree(place)
        await soon(event)
        place.mkdir()
        other, again = watch.add(str(place), nothing)
        watch.remove(number, event)
        (place / "file").touch()
        await soon(again)
        watch.remove(other, again)

    watched(work)


def test_many_changes_at_once_are_taken(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        _, event = watch.add(str(tmp_path), nothing)
        for number in range(5000):
            (tmp_path / f"{number:0200}").touch()
        await soon(event)
        await asyncio.sleep(0.1)
        event.clear()
        (tmp_path / "last").touch()
        await soon(event)

    watched(work)


def test_a_missing_directory_is_named(tmp_path: Path) -> None:
    async def work(watch: DirectoryWatch) -> None:
        with pytest.raises(OSError, match=str(tmp_path / "missing")):
            watch.add(str(tmp_path / "missing"), nothing)

    watched(work)
