# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from mooring_kernel.core.output import CellOutput, Limits, TerminalText
from unit.kernel.recorder import Recorder


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(st.binary(), st.lists(st.integers(min_value=0), max_size=8))
def test_decoding_does_not_depend_on_where_the_bytes_are_cut(data: bytes, places: list[int]) -> None:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    decoder = TerminalText()
    text = "".join(decoder.decode(data[a:b]) for a, b in itertools.pairwise(bounds))
    assert text + decoder.decode(b"", final=True) == TerminalText().decode(data, final=True)


@given(st.text())
def test_what_the_terminal_did_to_line_ends_is_undone(text: str) -> None:
    # ONLCR, termios(3): each LF is sent as CR LF
    sent = text.encode("utf-8", "replace").replace(b"\n", b"\r\n")
    assert TerminalText().decode(sent, final=True) == text.encode("utf-8", "replace").decode()


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert TerminalText().decode(b"a\xff\xc3", final=True) == "a\ufffd\ufffd"


def test_small_pieces_are_gathered_and_shown_in_time() -> None:
    display, clock = Recorder(), Clock()
    output = CellOutput(display, Limits(gather_time=0.05), clock=clock)
    assert output.due() is None
    output.write(b"a")
    output.write(b"b\r\n")
    output.flush_if_due()
    assert display.shown == []
    assert output.due() is not None
    clock.now += 0.06
    output.flush_if_due()
    assert display.shown == [("stdout", "ab\n")]
    assert output.due() is None


def test_much_is_shown_at_once() -> None:
    display = Recorder()
    output = CellOutput(display, Limits(gather_bytes=10), clock=Clock())
    output.write(b"0123456789")
    assert display.shown == [("stdout", "0123456789")]


def test_a_notice_comes_after_the_output_before_it() -> None:
    display = Recorder()
    output = CellOutput(display, clock=Clock())
    output.write(b"a\r\n")
    output.notice("something")
    assert display.shown == [("stdout", "a\n"), ("stderr", "mooring: something\n")]


def test_clearing_forgets_what_was_not_shown_yet_and_waits_for_what_follows() -> None:
    display = Recorder()
    output = CellOutput(display, clock=Clock())
    output.write(b"old")
    output.clear()
    output.clear()
    output.write(b"new")
    output.finish()
    assert display.shown == [("clear", "wait"), ("stdout", "new")]


def test_clearing_at_the_end_happens_at_once() -> None:
    display = Recorder()
    output = CellOutput(display, clock=Clock())
    output.clear()
    output.finish()
    assert display.shown == [("clear", "now")]


def test_what_goes_beyond_the_allowance_is_in_a_file_and_its_end_is_shown(tmp_path: Path) -> None:
    display = Recorder()
    output = CellOutput(display, Limits(shown_bytes=100, tail_bytes=15), directory=tmp_path, clock=Clock())
    lines = "".join(f"line {number}\n" for number in range(1000))
    output.write(lines.replace("\n", "\r\n").encode())
    output.finish()
    (file,) = tmp_path.iterdir()
    assert lines[:100] + file.read_text() == lines
    assert display.stdout() == lines[:100] + "…\nline 999\n"
    assert str(file) in display.stderr()


def test_a_little_too_much_is_shown_whole_at_the_end(tmp_path: Path) -> None:
    display = Recorder()
    output = CellOutput(display, Limits(shown_bytes=4, tail_bytes=20), directory=tmp_path, clock=Clock())
    output.write(b"01234567")
    output.finish()
    assert display.stdout() == "01234567"


def test_what_the_file_may_not_hold_is_counted(tmp_path: Path) -> None:
    display = Recorder()
    limits = Limits(shown_bytes=10, file_bytes=50, tail_bytes=5)
    output = CellOutput(display, limits, directory=tmp_path, clock=Clock())
    output.write(b"x" * 100)
    output.finish()
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size == 50
    assert "40 B are lost: the file may hold 50 B at most" in display.stderr()


def test_without_a_place_for_the_file_the_loss_is_told(tmp_path: Path) -> None:
    display = Recorder()
    output = CellOutput(display, Limits(shown_bytes=10), directory=tmp_path / "missing", clock=Clock())
    output.write(b"x" * 100)
    output.finish()
    assert "no file could be made for it (No such file or directory)" in display.stderr()
