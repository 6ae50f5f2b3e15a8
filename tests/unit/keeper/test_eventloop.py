# SPDX-License-Identifier: Apache-2.0
"""The keeper's loop: who is called when, whatever callbacks do to each other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest

from harness.waiting import PATIENCE
from mooring_agent.keeper.eventloop import HANGUP, READ, WRITE, EventLoop

LONG = 5.0 * PATIENCE  # seconds until a test that hangs is ended by the loop itself


def no_idle_work() -> bool:
    return False


@pytest.fixture
def loop() -> Iterator[EventLoop]:
    made = EventLoop(no_idle_work)

    def too_late() -> None:
        made.stop()
        pytest.fail("the loop was not stopped in time")

    made.at("watchdog", time.monotonic() + LONG, too_late)
    yield made
    made.close()


@pytest.fixture
def pipes() -> Iterator[Callable[[], tuple[int, int]]]:
    made: list[int] = []

    def make() -> tuple[int, int]:
        pair = os.pipe2(os.O_CLOEXEC)
        made.extend(pair)
        return pair

    yield make
    for descriptor in made:
        try:
            os.close(descriptor)
        except OSError:
            continue


def test_readable_descriptors_are_called(loop: EventLoop, pipes: Callable[[], tuple[int, int]]) -> None:
    reader, writer = pipes()
    seen = []

    def readable(mask: int) -> None:
        seen.append((mask & READ, os.read(reader, 10)))
        loop.stop()

    loop.add(reader, readable)
    os.write(writer, b"x")
    loop.run()
    assert seen == [(READ, b"x")]


def test_a_hang_up_is_told(loop: EventLoop, pipes: Callable[[], tuple[int, int]]) -> None:
    reader, writer = pipes()
    os.close(writer)
    masks = []

    def called(mask: int) -> None:
        masks.append(mask)
        loop.stop()

    loop.add(reader, called)
    loop.run()
    assert masks[0] & HANGUP


def test_what_is_watched_for_can_change(loop: EventLoop, pipes: Callable[[], tuple[int, int]]) -> None:
    _, writer = pipes()
    masks = []

    def called(mask: int) -> None:
        masks.append(mask)
        loop.stop()

    loop.add(writer, called, READ)
    loop.change(writer, WRITE)
    loop.run()
    assert masks == [WRITE]


def test_deadlines_come_in_their_time_and_once(loop: EventLoop) -> None:
    now, called = time.monotonic(), []
    loop.at("b", now + 0.04, lambda: called.append("b"))
    loop.at("a", now + 0.02, lambda: called.append("a"))
    loop.at("end", now + 0.08, loop.stop)
    loop.run()
    assert called == ["a", "b"]
    assert time.monotonic() - now >= 0.08


def test_a_deadline_is_replaced_and_cancelled_by_name(loop: EventLoop) -> None:
    now, called = time.monotonic(), []
    loop.at("one", now + 0.01, lambda: called.append("early"))
    loop.at("one", now + 0.03, lambda: called.append("late"))
    loop.at("two", now + 0.01, lambda: called.append("cancelled"))
    loop.cancel("two")
    loop.cancel("never heard of")
    loop.at("end", now + 0.05, loop.stop)
    loop.run()
    assert called == ["late"]


def test_deadlines_may_touch_each_other(loop: EventLoop) -> None:
    """Both are due in the same moment: the first cancels the second, or puts it off."""
    now, called = time.monotonic(), []

    def later() -> None:
        called.append("third, later")
        loop.at("end", time.monotonic() + 0.03, loop.stop)

    def first() -> None:
        called.append("first")
        loop.cancel("second")
        loop.at("third", time.monotonic() + 0.02, later)

    loop.at("first", now, first)
    loop.at("second", now, lambda: called.append("second"))
    loop.at("third", now, lambda: called.append("third"))
    loop.run()
    assert called == ["first", "third, later"]


def test_a_deadline_may_set_itself_again(loop: EventLoop) -> None:
    called: list[float] = []

    def again() -> None:
        called.append(time.monotonic())
        if len(called) == 3:
            loop.stop()
        else:
            loop.at("again", time.monotonic() + 0.01, again)

    loop.at("again", time.monotonic(), again)
    loop.run()
    assert len(called) == 3


def test_what_was_removed_in_this_round_is_not_called(
    loop: EventLoop, pipes: Callable[[], tuple[int, int]]
) -> None:
    (one, one_writer), (two, two_writer) = pipes(), pipes()
    called = []

    def remove_the_other(mine: int, other: int) -> Callable[[int], None]:
        def readable(_: int) -> None:
            called.append(mine)
            loop.remove(other)
            os.close(other)
            loop.remove(mine)
            loop.at("end", time.monotonic() + 0.02, loop.stop)

        return readable

    loop.add(one, remove_the_other(one, two))
    loop.add(two, remove_the_other(two, one))
    for writer in (one_writer, two_writer):
        os.write(writer, b"x")
    loop.run()
    assert len(called) == 1


def test_a_number_used_again_does_not_get_the_news_of_its_former_owner(
    loop: EventLoop, pipes: Callable[[], tuple[int, int]]
) -> None:
    """Both are readable; the first closes the second, and what is opened next has the same number."""
    (one, one_writer), (two, two_writer) = pipes(), pipes()
    strangers_news: list[int] = []
    opened: list[int] = []

    def replace(mine: int, other: int) -> Callable[[int], None]:
        def readable(_: int) -> None:
            loop.remove(mine)
            loop.remove(other)
            os.close(other)
            reader, writer = os.pipe2(os.O_CLOEXEC)
            opened.extend([reader, writer])
            loop.add(reader, strangers_news.append)
            loop.at("end", time.monotonic() + 0.02, loop.stop)

        return readable

    loop.add(one, replace(one, two))
    loop.add(two, replace(two, one))
    for writer in (one_writer, two_writer):
        os.write(writer, b"x")
    loop.run()
    assert opened[0] in (one, two)  # else this has shown nothing
    assert strangers_news == []
    for descriptor in opened:
        loop.remove(descriptor)
        os.close(descriptor)


def test_idle_work_goes_on_until_there_is_no_more() -> None:
    calls: list[int] = []

    def work() -> bool:
        calls.append(1)
        return len(calls) < 4

    loop = EventLoop(work)
    loop.at("end", time.monotonic() + 0.5, loop.stop)
    started = time.process_time()
    loop.run()
    loop.close()
    assert len(calls) == 5  # four with more to do or the last of it, and one after the deadline
    assert time.process_time() - started < 0.3  # it slept: what this process collects meanwhile is less


def test_idle_work_does_not_keep_deadlines_waiting() -> None:
    loop = EventLoop(lambda: True)
    now = time.monotonic()
    loop.at("end", now + 0.02, loop.stop)
    loop.run()
    loop.close()
    assert time.monotonic() - now < 1
