# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import threading

from mooring_kernel.core.mailbox import Delivery, Mailbox


def test_what_was_put_in_is_taken_out_in_one_piece() -> None:
    mailbox = Mailbox()
    mailbox.put(b"a")
    mailbox.put(b"b")
    assert mailbox.take(0) == Delivery(b"ab", False, 0)
    assert mailbox.take(0) == Delivery(b"", False, 0)


def test_between_cells_the_oldest_is_dropped_and_counted() -> None:
    mailbox = Mailbox(idle_limit=10)
    for number in range(5):
        mailbox.put(str(number).encode() * 4)
    assert mailbox.take(0) == Delivery(b"33334444", False, 12)


def test_while_a_cell_runs_the_reader_waits_and_nothing_is_lost() -> None:
    mailbox = Mailbox(attended_limit=10)
    mailbox.attend(True)
    reader = threading.Thread(target=lambda: [mailbox.put(b"x" * 8) for _ in range(50)])
    reader.start()
    taken = 0
    while taken < 400:
        delivery = mailbox.take(5)
        assert 0 < len(delivery.data) <= 16 + 8
        assert delivery.lost == 0
        taken += len(delivery.data)
    reader.join(5)
    assert not reader.is_alive()


def test_a_reader_that_waits_is_let_go_at_the_end_of_the_cell() -> None:
    mailbox = Mailbox(attended_limit=10, idle_limit=10)
    mailbox.attend(True)
    reader = threading.Thread(target=lambda: [mailbox.put(b"x" * 8) for _ in range(50)])
    reader.start()
    mailbox.attend(False)
    reader.join(5)
    assert not reader.is_alive()


def test_waking_and_ending_bring_a_waiting_one_back() -> None:
    mailbox = Mailbox()
    mailbox.wake()
    assert mailbox.take(60) == Delivery(b"", False, 0)
    threading.Timer(0.05, mailbox.end).start()
    assert mailbox.take(60) == Delivery(b"", True, 0)
