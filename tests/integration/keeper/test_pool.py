# SPDX-License-Identifier: Apache-2.0
"""The pool of launchers: kept ready, given out once, given back, and not filled where that cannot be."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from contextlib import suppress
from dataclasses import replace

import pytest

from harness.waiting import PATIENCE
from mooring_agent.errors import Unavailable
from mooring_agent.keeper import messages
from mooring_agent.keeper.client import KeeperClient, KeeperRefused
from mooring_agent.runtime.plan import Shape

from .keepers import KeeperUnderTest, Session, descriptors, launchers, slots, until

pytestmark = pytest.mark.root


def test_launchers_are_kept_ready_and_used_up_again(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        await session.client.request(messages.Configure(vars(shared.shape), 3))
        keeper = session.client.identity.pid
        await until(lambda: len(launchers(keeper)) == 3)
        slot = await session.acquire()
        await until(lambda: len(launchers(keeper)) == 4)
        await session.client.request(messages.Release(slot.slot))
        await until(lambda: len(launchers(keeper)) == 3)
        await session.client.request(messages.Configure(vars(shared.shape), 1))
        await until(lambda: len(launchers(keeper)) == 1 and len(slots(shared)) == 1)
        await session.client.request(messages.Configure(vars(shared.shape), 0))
        await until(lambda: launchers(keeper) == [] and slots(shared) == set())

    shared.run(work)


def test_a_pool_of_another_shape_takes_the_place_of_the_former(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        await session.client.request(messages.Configure(vars(shared.shape), 2))
        await until(lambda: len(launchers(keeper)) == 2)
        before = set(launchers(keeper))
        other = replace(shared.shape, shm_size=1 << 20)
        await session.client.request(messages.Configure(vars(other), 2))
        await until(lambda: len(set(launchers(keeper)) - before) == 2 and len(launchers(keeper)) == 2)
        await session.client.request(messages.Configure(vars(shared.shape), 0))
        await until(lambda: launchers(keeper) == [])

    shared.run(work)


def test_what_a_connection_had_acquired_goes_with_it(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        other = KeeperClient(shared.run_root)
        await other.connect()
        for _ in range(3):
            await other.request(messages.Acquire(vars(shared.shape)))
        # A group of the test before may be about to go.
        await until(lambda: len(launchers(keeper)) == len(slots(shared)) == 3)
        other.close()
        await until(lambda: launchers(keeper) == [] and slots(shared) == set())

    shared.run(work)


def test_a_connection_that_ends_while_its_launcher_is_prepared_leaves_none(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        for _ in range(5):
            other = KeeperClient(shared.run_root)
            await other.connect()
            request = asyncio.ensure_future(other.request(messages.Acquire(vars(shared.shape))))
            await asyncio.sleep(0)
            other.close()
            await asyncio.gather(request, return_exceptions=True)
        await until(lambda: launchers(keeper) == [] and slots(shared) == set())

    shared.run(work)


def test_nobody_gets_another_one_s_launcher(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        slot = await session.acquire()
        other = KeeperClient(shared.run_root)
        await other.connect()
        request = messages.Launch(slot.slot, "a" * 64, False, False, shared.log_directory("a"), 0, 1)
        with pytest.raises(Unavailable, match=f"{slot.slot} is not there"):
            await other.launch(request, b"{}")
        other.close()
        await session.client.request(messages.Release(slot.slot))

    shared.run(work)


@pytest.mark.parametrize(
    "shape",
    [
        Shape(("mnt", "pid"), groups=("/sys/fs/cgroup/no-such-hierarchy/x",)),
        Shape(("mnt", "pid"), groups=("/proc/self/no-such-directory",)),
        Shape(("mnt", "pid"), groups=("/proc/self/no-such-directory",), unified=True),
        Shape(("mnt", "no-such-namespace")),
    ],
    ids=["hierarchy", "directory", "unified", "namespace"],
)
def test_a_launcher_that_cannot_be_prepared_is_refused_with_the_reason(
    shared: KeeperUnderTest, shape: Shape
) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        await session.warm_up()
        open_before = descriptors(keeper)
        with pytest.raises(KeeperRefused, match="no-such-"):
            await session.acquire(shape)
        await until(lambda: launchers(keeper) == [])
        await until(lambda: not Counter(descriptors(keeper)) - Counter(open_before))
        assert session.client.identity.pid == keeper

    shared.run(work)


@pytest.mark.parametrize("unified", [False, True])
def test_a_pool_that_cannot_be_prepared_does_not_spin(keeper: KeeperUnderTest, unified: bool) -> None:
    """Each launcher of it would fail as the first one has: the next is tried after a pause."""

    async def work(session: Session) -> None:
        bad = Shape(("mnt", "pid"), groups=(f"/proc/self/no-such-{unified}",), unified=unified)
        with suppress(KeeperRefused):  # what is said at once need not be found out
            await session.client.request(messages.Configure(vars(bad), 4))
        pid = session.client.identity.pid
        before = seconds_of_processor(pid)
        # A slow machine needs more for the few attempts, too.
        await asyncio.sleep(1.5 * PATIENCE)
        assert seconds_of_processor(pid) - before < 0.3 * PATIENCE
        assert keeper.log().count("failed") <= 4
        # What it can do it still does.
        id = await session.launch("true")
        assert (await session.ended(id)).exit_code == 0

    keeper.run(work)


def test_a_pool_recovers_when_its_groups_are_there_again(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        pid = session.client.identity.pid
        await session.client.request(messages.Configure(vars(keeper.shape), 1))
        await until(lambda: len(launchers(pid)) == 1)
        os.kill(launchers(pid)[0], signal.SIGKILL)
        await until(lambda: len(launchers(pid)) == 1, 15)

    keeper.run(work)


def seconds_of_processor(pid: int) -> float:
    """What a process has used, with its children that are gone."""
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
