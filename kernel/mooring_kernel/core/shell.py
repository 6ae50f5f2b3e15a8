# SPDX-License-Identifier: Apache-2.0
"""A persistent shell in a container: cells run one after the other in it and share its variables and
directory.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
import time
from collections.abc import Mapping

from . import script
from .cell import Ask, CellResult, CellRun, Channel, Timing
from .client import Client
from .errors import ApiError, KernelError, ShellEnded, ShellUnusable
from .mailbox import Mailbox, read_into
from .marks import Mark, MarkParser, Text
from .output import CellOutput

LONGEST_CELL = 4 << 20  # bytes
_OPEN_TIMEOUT = 15.0
_EXIT_CODE_WITHIN = 2.0
_KILLED = 128 + signal.SIGKILL
_HUNG_UP = 128 + signal.SIGHUP


class ShellSession:
    """A shell that was opened with `open`. One cell at a time; `interrupt` may be called from any thread."""

    def __init__(
        self, channel: Channel, container: str, shell: str, user: str | None, timing: Timing
    ) -> None:
        self.container = container
        self.shell = shell
        self.user = user
        self._channel = channel
        self._timing = timing
        self._run: CellRun | None = None
        self._ended: ShellEnded | None = None

    @classmethod
    def open(
        cls,
        client: Client,
        container: str,
        *,
        shell: str | None = None,
        user: str | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        rows: int = 40,
        cols: int = 120,
        timeout: float = _OPEN_TIMEOUT,
        timing: Timing | None = None,
    ) -> ShellSession:
        """Open a shell in a container: `shell`, or bash where there is one and else sh.

        Raises ShellUnusable if the container has no shell that can be driven, and what a call of the agent
        raises.
        """
        name = (shell or "").rpartition("/")[2]
        if name in script.FOREIGN_SHELLS:
            raise ShellUnusable(f"{shell} cannot be driven from a notebook: name bash, dash or busybox ash")
        nonce = secrets.token_hex(8)
        try:
            exec_id, stream, first = client.shell(
                container,
                script.launch_argv(nonce, shell),
                env={**script.ENVIRONMENT, **(env or {})},
                rows=rows,
                cols=cols,
                user=user,
                workdir=workdir,
            )
        except ApiError as error:
            if error.status >= 500:
                raise ShellUnusable(
                    f"no shell could be started in {container}: {error.message}; `--shell PATH` names another"
                ) from None
            raise
        mailbox = Mailbox()
        channel = Channel(client, exec_id, stream, mailbox, MarkParser(nonce))
        mailbox.attend(True)
        if first:
            mailbox.put(first)
        threading.Thread(
            target=read_into, args=(mailbox, stream), name=f"shell in {container}", daemon=True
        ).start()
        try:
            chosen = _prepared(channel, container, nonce, timeout)
        except BaseException:
            _close(channel)
            raise
        mailbox.attend(False)
        return cls(channel, container, chosen, user, timing or Timing())

    @property
    def client(self) -> Client:
        """The agent in whose container the shell runs."""
        return self._channel.client

    @property
    def exec_id(self) -> str:
        """The agent's name for the shell."""
        return self._channel.exec_id

    @property
    def directory(self) -> str | None:
        """The working directory after the last cell; None if it cannot be told (a control character in its
        name).
        """
        return self._channel.directory

    @property
    def ended(self) -> ShellEnded | None:
        """How the shell has ended, None while it runs."""
        return self._ended

    @property
    def where(self) -> str:
        """Host and container as `%attach` takes them."""
        return f"{self.client.host}/{self.container}"

    def run(self, code: str, output: CellOutput, ask: Ask | None) -> CellResult:
        """Run a cell. Without `ask` a program that waits for input is stopped.

        Raises ShellEnded if the shell has ended, before or by this cell; ProgramStopped; ShellUnusable.
        """
        if self._ended is not None:
            raise ShellEnded(self._ended.message, exit_code=self._ended.exit_code)
        if "\0" in code:
            raise ShellUnusable("the cell holds a NUL character, which no shell can take")
        if len(code) > LONGEST_CELL:
            raise ShellUnusable(f"the cell has {len(code)} characters, expected {LONGEST_CELL} at most")
        self._run = CellRun(self._channel, output, ask, self._timing)
        try:
            return self._run.run(code)
        except EOFError:
            self._ended = self._how_it_ended()
            _close(self._channel)
            raise self._ended from None
        except ShellUnusable as error:
            self._ended = ShellEnded(f"{error.message}; {self._reattach()}", exit_code=None)
            self._kill()
            raise
        finally:
            self._run = None

    def interrupt(self) -> bool:
        """Interrupt the cell that runs; return whether one does."""
        run = self._run
        if run is not None:
            run.interrupt()
        return run is not None

    def close(self) -> None:
        """End the shell and what runs in its foreground."""
        if self._ended is None:
            self._ended = ShellEnded(
                f"the shell in {self.where} was ended; {self._reattach()}", exit_code=None
            )
            self._kill()

    def _kill(self) -> None:
        with contextlib.suppress(KernelError):  # it may be gone, or its host
            self.client.signal(self.exec_id, "KILL", "leader", timeout=3.0)
        _close(self._channel)

    def _how_it_ended(self) -> ShellEnded:
        """Ask the agent why the stream has ended."""
        try:
            exit_code = _exit_code(self._channel)
            state = self._container_state(killed=exit_code == _KILLED)
        except ApiError as error:
            return ShellEnded(f"the shell in {self.where} is gone: {error.message}", exit_code=None)
        except KernelError as error:
            return ShellEnded(
                f"the connection to the shell in {self.where} is lost: {error.message}; {self._reattach()}",
                exit_code=None,
            )
        if state not in ("running", "paused"):
            return ShellEnded(
                f"the container {self.container} on {self.client.host} is {state} and its shell with it; "
                f"once it runs, {self._reattach()}",
                exit_code=exit_code,
            )
        if exit_code is None:
            return ShellEnded(
                f"the connection to the shell in {self.where} is lost; {self._reattach()}", exit_code=None
            )
        how = "was hung up, since its connection was lost" if exit_code == _HUNG_UP else "ended"
        return ShellEnded(
            f"the shell in {self.where} {how} with exit status {exit_code}; {self._reattach()}",
            exit_code=exit_code,
        )

    def _container_state(self, *, killed: bool) -> str:
        """Return the container's state; that it has ended may be known a moment after its shell's end."""
        end = time.monotonic() + (_EXIT_CODE_WITHIN if killed else 0)
        while True:
            state = self.client.container(self.container).state
            if state != "running" or time.monotonic() >= end:
                return state
            time.sleep(0.05)

    def _reattach(self) -> str:
        return f"`%attach {self.where}` opens a new one"


def _exit_code(channel: Channel) -> int | None:
    """Return the exit code of the shell, None if it still runs: then only its stream has ended."""
    end = time.monotonic() + _EXIT_CODE_WITHIN
    while True:
        state = channel.client.exec_state(channel.exec_id)
        if not state.running or time.monotonic() > end:
            return state.exit_code if not state.running else None
        time.sleep(0.05)


def _prepared(channel: Channel, container: str, nonce: str, timeout: float) -> str:
    """Wait for the launch script, send the bootstrap, wait for the first prompt; return the shell's path."""
    launched, said = _await_mark(channel, "A", timeout)
    if launched is None:
        raise ShellUnusable(f"no shell came up in {container} within {timeout:g} s{said}")
    if launched.value:
        raise ShellUnusable(
            f"{container} has no {launched.value.replace(' ', ' and no ')}, which a notebook's shell needs: "
            "add coreutils or busybox to its image"
        )
    shell = launched.detail
    if shell.rpartition("/")[2] in script.FOREIGN_SHELLS:
        raise ShellUnusable(f"{shell} cannot be driven from a notebook: name bash, dash or busybox ash")
    channel.stream.sendall(script.bootstrap(nonce))
    ready, said = _await_mark(channel, "D", timeout)
    if ready is None:
        raise ShellUnusable(
            f"{shell} in {container} did not get ready within {timeout:g} s{said}; "
            "name bash, dash or busybox ash with `--shell PATH`"
        )
    channel.directory = ready.detail or None
    return shell


def _await_mark(channel: Channel, letter: str, timeout: float) -> tuple[Mark | None, str]:
    """Return the mark, or None with what the terminal said instead. What comes after the mark is no cell's
    output.
    """
    end = time.monotonic() + timeout
    said = b""
    while True:
        delivery = channel.mailbox.take(max(0.0, end - time.monotonic()))
        for event in channel.parser.feed(delivery.data):
            if isinstance(event, Mark) and event.letter == letter:
                return event, ""
            if isinstance(event, Text):
                said += event.data
        if delivery.ended or time.monotonic() >= end:
            text = " ".join(said.decode(errors="replace").split())[-300:]
            return None, f": it said {text!r}" if text else ""


def _close(channel: Channel) -> None:
    channel.mailbox.attend(False)
    channel.stream.close()
