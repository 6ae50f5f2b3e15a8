# SPDX-License-Identifier: Apache-2.0
"""What names stand for is looked up beside the event loop: once at a time, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import os
import pwd
import threading
from collections.abc import Iterator

import pytest

from mooring_agent.api.access.accounts import Accounts
from mooring_agent.api.access.peers import Peer
from mooring_agent.api.access.policy import Policy, Rule
from mooring_agent.api.router import Need
from mooring_agent.errors import Unavailable


def test_a_user_who_comes_later_is_known_after_a_while() -> None:
    users: dict[str, int] = {}
    now = [0.0]
    known = Accounts(users.__getitem__, users.__getitem__, clock=lambda: now[0])

    async def look() -> None:
        assert await known.uid("carol") is None
        users["carol"] = 1009
        assert await known.uid("carol") is None
        now[0] = 60.0
        assert await known.uid("carol") == 1009

    asyncio.run(look())


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "mooring-nobody-at-all"])
def test_what_can_be_no_name_is_nobody(name: str) -> None:
    async def look() -> tuple[int | None, int | None]:
        return await Accounts().uid(name), await Accounts().gid(name)

    assert asyncio.run(look()) == (None, None)


def test_the_host_is_asked() -> None:
    async def look() -> tuple[int | None, str | None]:
        me = pwd.getpwuid(os.geteuid()).pw_name
        return await Accounts().uid(me), await Accounts().name(os.geteuid())

    assert asyncio.run(look()) == (os.geteuid(), pwd.getpwuid(os.geteuid()).pw_name)


class Directory:
    """Answers when it is told to, as one on the network that is slow."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answers = threading.Event()

    def __call__(self, name: str) -> int:
        self.asked.append(name)
        self.answers.wait(30)
        return 1001


@pytest.fixture
def directory() -> Iterator[Directory]:
    made = Directory()
    yield made
    made.answers.set()


def test_the_loop_goes_on_meanwhile_and_all_wait_for_one_answer(directory: Directory) -> None:
    known = Accounts(directory, directory)

    async def look() -> None:
        asking = [asyncio.ensure_future(known.uid("carol")) for _ in range(20)]
        for _ in range(100):
            await asyncio.sleep(0)
        asking[0].cancel()  # a client who goes away takes the answer from nobody
        assert not any(one.done() for one in asking[1:])
        directory.answers.set()
        assert await asyncio.gather(*asking[1:]) == [1001] * 19
        assert await known.uid("carol") == 1001

    asyncio.run(look())
    assert directory.asked == ["carol"]


def test_who_cannot_be_told_may_do_nothing_until_it_is_known(directory: Directory) -> None:
    known = Accounts(directory, directory, name=lambda uid: str(directory(str(uid))), patience=0.05)
    rules = [{"users": ["carol"], "allow": "all"}, {"users": ["1002"], "allow": "read"}]
    policy = Policy([Rule.parse(rule, 1 + i) for i, rule in enumerate(rules)], known, own_uid=500)

    async def look() -> None:
        for uid in (1001, 1002):  # the second rule is not asked before the first one is known
            with pytest.raises(Unavailable, match="which user carol is"):
                await policy.decide(Peer(uid))
        assert await policy.decide(Peer(0)) == (0, Need.ALL), "who may always do everything waits for nobody"
        assert await known.name(1001) is None, "a message goes without the name"
        directory.answers.set()
        assert await known.uid("carol") == 1001
        assert await policy.decide(Peer(1002)) == (2, Need.READ)

    asyncio.run(look())
    assert directory.asked.count("carol") == 1


def test_who_has_many_uids_gets_not_as_many_threads(directory: Directory) -> None:
    known = Accounts(directory, directory, name=lambda uid: str(directory(str(uid))), patience=0.05)

    async def look() -> None:
        assert await asyncio.gather(*(known.name(uid) for uid in range(200))) == [None] * 200
        assert len(directory.asked) <= 32
        with pytest.raises(Unavailable):  # what a rule names is asked for all the same
            await known.uid("carol")
        assert "carol" in directory.asked

    asyncio.run(look())


def test_where_no_thread_can_be_had_the_next_one_asks_again(
    directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = Accounts(directory, directory)
    directory.answers.set()

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def look() -> None:
        with monkeypatch.context() as full:
            full.setattr(threading.Thread, "start", start)
            with pytest.raises(Unavailable, match=r"which user carol is.*can't start new thread"):
                await known.uid("carol")
        assert await known.uid("carol") == 1001

    asyncio.run(look())
