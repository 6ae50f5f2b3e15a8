# SPDX-License-Identifier: Apache-2.0
"""One cell on its way through a shell: from the bytes that carry it there to the mark that ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from . import script
from .client import Client, Foreground
from .errors import ApiError, KernelError, ProgramStopped, ShellUnusable
from .http import Stream
from .mailbox import Mailbox
from .marks import Clear, Event, FullScreen, Mark, MarkParser, Text
from .output import CellOutput
from .stopping import Stopping

# A terminal takes a line of 4095 bytes and its end (N_TTY_BUF_SIZE); the rest of a longer one would be lost.
_LONGEST_INPUT = 4095
_END_OF_FILE = b"\x04"
_KEPT_BEFORE_CELL = 65536
_STOPPED = "; it was stopped"


@dataclass(frozen=True)
class Timing:
    """Seconds. `first_look` after the last output the agent is asked whether a program waits for input, then
    ever less often.
    """

    begin: float = 30.0
    first_look: float = 0.15
    longest_look: float = 1.0
    interrupt_patience: float = 3.0
    stop_patience: float = 1.5


class Ask(Protocol):
    """Asks the user for a line of input."""

    def __call__(self, *, password: bool, still_wanted: Callable[[], bool]) -> str | None:
        """Return the line without its end, None once `still_wanted` says no. Raises EOFError for the end of
        the input.
        """


@dataclass(frozen=True)
class CellResult:
    """How a cell ended: its exit status, and whether the user has interrupted it."""

    status: int
    interrupted: bool


class _Over(Exception):
    """The stream of the shell has ended."""


@dataclass
class Channel:
    """What a shell session and its cells share."""

    client: Client
    exec_id: str
    stream: Stream
    mailbox: Mailbox
    parser: MarkParser
    leftover: bytes = b""  # what the terminal said after the last cell
    directory: str | None = None  # the shell's working directory; None if it cannot be told


class CellRun:
    """Runs one cell. `interrupt` may be called from any thread, all else from one."""

    def __init__(self, channel: Channel, output: CellOutput, ask: Ask | None, timing: Timing) -> None:
        self._channel = channel
        self._output = output
        self._ask = ask
        self._timing = timing
        self._began = False
        self._before = b""
        self._end: Mark | None = None
        self._stray_end: Mark | None = None
        self._started = time.monotonic()
        self._interrupts = 0
        self._interrupts_seen = 0
        self._stopping: Stopping | None = None
        self._stop_reason: ProgramStopped | None = None
        self._looking = True
        self._muted = False  # what a full-screen program draws is of no use
        self._echo = b""
        self._look_after = timing.first_look
        self._look_at: float | None = None
        self._waits_seen = 0

    def interrupt(self) -> None:
        """Ask for the foreground program to be interrupted; asking again sends something stronger."""
        self._interrupts += 1
        self._channel.mailbox.wake()

    def run(self, code: str) -> CellResult:
        """Run the cell and return how it ended.

        Raises ProgramStopped if a program was stopped that a cell cannot serve, ShellUnusable if the shell
        does not take the cell, EOFError if the stream of the shell has ended.
        """
        mailbox = self._channel.mailbox
        mailbox.attend(True)
        try:
            self._show_background()
            self._send(script.cell(code))
            while self._end is None:
                self._wait()
        except _Over:
            raise EOFError from None
        finally:
            mailbox.attend(False)
            self._output.finish()
        if self._stop_reason is not None:
            raise self._stop_reason
        interrupted = self._stopping is not None and self._stopping.sent
        return CellResult(_status(self._end), interrupted)

    # --- what comes

    def _show_background(self) -> None:
        """Show what programs in the background have said since the last cell."""
        delivery = self._channel.mailbox.take(0)
        if delivery.lost:
            self._output.notice(f"{delivery.lost} bytes that came between the cells are lost")
        texts = [event.data for event in self._channel.parser.feed(delivery.data) if isinstance(event, Text)]
        said = script.without_own_words(self._channel.leftover + b"".join(texts))
        self._channel.leftover = b""
        if said:
            self._output.write(said)
        if delivery.ended:
            raise _Over

    def _pump(self, timeout: float) -> None:
        """Take in what comes within `timeout` seconds. Raises _Over at the end of the stream."""
        delivery = self._channel.mailbox.take(timeout)
        if delivery.data:
            self._look_after = self._timing.first_look
            self._look_at = None
            self._waits_seen = 0
        for event in self._channel.parser.feed(delivery.data):
            self._handle(event)
        if delivery.ended and self._end is None:
            for event in self._channel.parser.flush():
                self._handle(event)
            raise _Over

    def _handle(self, event: Event) -> None:
        if self._end is not None:
            if isinstance(event, Text):
                self._channel.leftover += event.data
        elif isinstance(event, Mark):
            self._handle_mark(event)
        elif not self._began:
            if isinstance(event, Text):
                self._before = (self._before + event.data)[-_KEPT_BEFORE_CELL:]
        elif self._muted:
            return
        elif isinstance(event, Text):
            self._output.write(self._without_echo(event.data))
        elif isinstance(event, Clear):
            self._output.clear()
        elif isinstance(event, FullScreen):
            self._muted = True
            self._stop_program(
                "uses the whole screen, which a cell does not have: use its plain mode, or a terminal"
            )

    def _handle_mark(self, mark: Mark) -> None:
        if mark.letter == "C" and not self._began:
            self._began = True
            if script.OWN_PREFIX.encode() not in self._before:
                self._output.write(self._before)
        elif mark.letter == "D":
            self._channel.directory = mark.detail or None
            if self._began:
                self._end = mark
            else:
                self._stray_end = mark

    def _without_echo(self, data: bytes) -> bytes:
        """Take out the echo of what the user has typed: the notebook shows that itself."""
        if not self._echo:
            return data
        common = min(len(self._echo), len(data))
        if data[:common] != self._echo[:common]:
            self._echo = b""
            return data
        self._echo = self._echo[common:]
        return data[common:]

    # --- what is done

    def _wait(self) -> None:
        """Wait for the next thing to do, and do it."""
        waits = [self._timing.longest_look]
        for due in (self._output.due(), self._stopping.due() if self._stopping else None, self._look_due()):
            if due is not None:
                waits.append(due)
        self._pump(min(waits))
        if self._end is not None:
            return
        self._output.flush_if_due()
        if not self._began:
            self._check_beginning()
            return
        self._check_interrupt()
        if self._stopping is not None:
            self._stopping.step()
            if self._stop_reason is not None and self._stopping.exhausted:
                raise ShellUnusable(
                    f"{self._stop_reason.message.removesuffix(_STOPPED)}; its shell was ended"
                )
        if self._look_due() == 0.0:
            self._look()

    def _check_beginning(self) -> None:
        waited = time.monotonic() - self._started
        if waited > self._timing.begin or (self._stray_end is not None and waited > 2.0):
            said = self._before.decode(errors="replace").strip()
            raise ShellUnusable(
                f"the shell has not begun the cell within {waited:.0f} s"
                + (f" and says: {said[-300:]}" if said else "")
                + "; it was ended"
            )

    def _check_interrupt(self) -> None:
        if self._interrupts == self._interrupts_seen:
            return
        self._interrupts_seen = self._interrupts
        if self._stopping is None:
            self._stopping = self._new_stopping(("INT", "TERM", "KILL"), self._timing.interrupt_patience)
        else:
            self._stopping.hurry()

    def _new_stopping(self, signals: tuple[str, ...], patience: float) -> Stopping:
        channel = self._channel
        return Stopping(
            channel.client, channel.exec_id, self._output.notice, signals=signals, patience=patience
        )

    def _stop_program(self, problem: str, command: str | None = None, *, gently: bool = False) -> None:
        if self._stop_reason is not None:
            return
        if command is None:
            command = self._foreground_command()
        self._stop_reason = ProgramStopped(f"{command} {problem}{_STOPPED}")
        signals = ("INT", "TERM", "KILL") if gently else ("TERM", "KILL")
        self._stopping = self._new_stopping(signals, self._timing.stop_patience)

    def _foreground_command(self) -> str:
        try:
            return self._channel.client.foreground(self._channel.exec_id).label
        except KernelError:
            return "the program"  # its name only makes the message nicer

    # --- programs that wait for input

    def _look_due(self) -> float | None:
        if not self._began or not self._looking:
            return None
        if self._look_at is None:
            self._look_at = time.monotonic() + self._look_after
        return max(0.0, self._look_at - time.monotonic())

    def _look(self) -> None:
        """Ask the agent whether somebody waits for input. Seen twice in a row, something is done about it."""
        self._look_after = min(2 * self._look_after, self._timing.longest_look)
        self._look_at = None
        try:
            foreground = self._channel.client.foreground(self._channel.exec_id)
        except ApiError:
            return  # the shell has just ended, as its stream is about to tell
        except KernelError as error:
            self._looking = False
            self._output.notice(f"it cannot be seen whether a program waits for input: {error.message}")
            return
        if not foreground.waiting_for_input:
            self._waits_seen = 0
            return
        self._waits_seen += 1
        if self._waits_seen < 2:
            self._look_at = time.monotonic() + self._timing.first_look
            return
        self._serve(foreground)

    def _serve(self, foreground: Foreground) -> None:
        if self._stopping is not None:
            return
        if foreground.canonical:
            self._waits_seen = 0
            self._give_input(foreground)
            return
        # The shell itself: a builtin such as `read -n 1`; or another shell, which edits its lines, has
        # replaced it.
        self._stop_program(
            "reads single keys from the terminal, which a cell does not have: give it its input another way",
            foreground.label,
            gently=foreground.is_shell,
        )

    def _give_input(self, foreground: Foreground) -> None:
        if self._ask is None:
            self._stop_program(
                "waits for input, which this run of the notebook does not allow: give it some by a pipe, "
                "or none by `</dev/null`",
                foreground.label,
                gently=True,
            )
            return
        self._output.flush()
        try:
            line = self._ask(password=not foreground.echo, still_wanted=self._input_still_wanted)
        except EOFError:
            self._channel.stream.sendall(_END_OF_FILE)
            return
        if line is None:
            return
        data = line.encode("utf-8", "surrogateescape")
        if len(data) > _LONGEST_INPUT or b"\n" in data:
            self._stop_program(
                f"was given {len(data)} bytes as a line of input, and a terminal takes {_LONGEST_INPUT}",
                foreground.label,
                gently=True,
            )
            return
        printable = not any(byte < 32 or byte == 127 for byte in data)
        self._echo = data + b"\r\n" if foreground.echo and printable else b""
        self._channel.stream.sendall(data + b"\n")

    def _input_still_wanted(self) -> bool:
        self._pump(0)
        self._output.flush_if_due()
        return self._end is None and self._interrupts == self._interrupts_seen

    # --- the way there

    def _send(self, data: bytes) -> None:
        """Write the cell while its terminal is read: a shell that echoes or a busy program must not hold up
        both sides.
        """
        if len(data) <= 4096:
            self._write(data)
        else:
            threading.Thread(target=self._write, args=(data,), name="send a cell", daemon=True).start()

    def _write(self, data: bytes) -> None:
        try:
            self._channel.stream.sendall(data)
        except (OSError, EOFError):
            self._channel.mailbox.end()


def _status(mark: Mark) -> int:
    return int(mark.value) if mark.value.isdigit() else 1
