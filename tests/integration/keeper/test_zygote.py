# SPDX-License-Identifier: Apache-2.0
"""The process that forks launchers and joiners for the keeper: they are the keeper's; it can be killed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from mooring_agent.keeper import messages
from mooring_agent.keeper.client import KeeperRefused

from .keepers import (
    KeeperUnderTest,
    Session,
    children,
    has_ended,
    kill_and_wait,
    launchers,
    slots,
    until,
)

pytestmark = pytest.mark.root


def zygotes(keeper: int) -> list[int]:
    """Those of the keeper's children that fork."""
    found = []
    for pid in children(keeper):
        try:
            if Path(f"/proc/{pid}/comm").read_text() == "mooring-zygote\n":
                found.append(pid)
        except OSError:
            continue
    return found


def test_there_is_one_and_what_it_forks_is_the_keepers(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        await session.client.request(messages.Configure(vars(shared.shape), 2))
        await until(lambda: len(launchers(keeper)) == 2)
        (zygote,) = zygotes(keeper)
        assert children(zygote) == []
        id = await session.launch("sleep", "60")
        assert (await session.records())[id]["pid"] in children(keeper)
        await session.client.request(messages.Configure(vars(shared.shape), 0))

    shared.run(work)


def test_one_that_was_killed_is_followed_by_another(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        keeper = session.client.identity.pid
        id = await session.launch("sleep", "60")
        (zygote,) = zygotes(keeper)
        kill_and_wait(zygote)

        again = await session.launch("sh", "-c", "exit 3")
        _, _, descriptors = await session.execute(id, "true")

        assert (await session.ended(again)).exit_code == 3
        (next_one,) = zygotes(keeper)
        assert next_one != zygote
        for descriptor in descriptors:
            os.close(descriptor)

    shared.run(work)


def test_one_that_does_not_answer_is_given_up_in_time(shared: KeeperUnderTest) -> None:
    async def work(session: Session) -> None:
        await session.launch("sleep", "60")
        (zygote,) = zygotes(session.client.identity.pid)
        os.kill(zygote, signal.SIGSTOP)

        with pytest.raises(KeeperRefused, match="no launcher was forked within"):
            await session.acquire()

        id = await session.launch("sh", "-c", "exit 4")
        assert (await session.ended(id)).exit_code == 4
        await until(lambda: has_ended(zygote) and slots(shared) == set())

    shared.run(work)


def test_it_ends_with_the_keeper(keeper: KeeperUnderTest) -> None:
    async def work(session: Session) -> list[int]:
        await session.launch("true")
        found = zygotes(session.client.identity.pid)
        kill_and_wait(session.client.identity.pid)
        return found

    (zygote,) = keeper.run(work, clear=False)

    async def after(session: Session) -> None:
        await until(lambda: has_ended(zygote))

    keeper.run(after)
