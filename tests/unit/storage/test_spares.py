# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
import threading

import pytest

from harness.waiting import eventually
from mooring_agent.storage.spares import Spares


def test_after_the_first_one_others_are_made_before_they_are_asked_for() -> None:
    makers: list[threading.Thread] = []

    def make() -> int:
        makers.append(threading.current_thread())
        return len(makers)

    spares = Spares(make)
    try:
        spares.take()
        assert makers == [threading.current_thread()]
        made = eventually(lambda: len(makers) if len(makers) > 100 else 0, what="more of them")
        for _ in range(50):
            spares.take()
        assert makers[:made].count(threading.current_thread()) == 1
    finally:
        spares.close()


def test_nobody_gets_one_twice() -> None:
    numbers = itertools.count()
    spares = Spares(lambda: next(numbers))
    try:
        taken = [spares.take() for _ in range(500)]
    finally:
        spares.close()
    assert len(set(taken)) == 500


def test_who_takes_is_told_why_there_is_none() -> None:
    def make() -> int:
        raise OSError(28, "No space left on device")

    spares = Spares(make)
    try:
        for _ in range(2):
            with pytest.raises(OSError, match="No space left"):
                spares.take()
    finally:
        spares.close()


def test_nothing_is_made_after_the_end() -> None:
    made: list[int] = []
    spares = Spares(lambda: made.append(1))
    spares.take()
    spares.close()
    assert not any(thread.name == "mooring-spares" for thread in threading.enumerate())
