# SPDX-License-Identifier: Apache-2.0
"""Ending the program in the foreground of a shell, and never the shell itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from .client import Client
from .errors import ApiError, KernelError


class Stopping:
    """Signals to the foreground group, each stronger than the one before, until the cell is over.

    Whoever runs the cell calls `step` again and again. `patience` is how many seconds each signal has to take
    effect.
    """

    def __init__(
        self,
        client: Client,
        exec_id: str,
        notice: Callable[[str], None],
        *,
        signals: Sequence[str],
        patience: float,
    ) -> None:
        self._client = client
        self._exec_id = exec_id
        self._notice = notice
        self._signals = list(signals)
        self._patience = patience
        self._last: str | None = None
        self._next_at = 0.0
        self.sent = False
        self.exhausted = False

    def hurry(self) -> None:
        """Go on to the next signal at once: the user has asked again."""
        self._next_at = 0.0

    def due(self) -> float | None:
        """Return in how many seconds `step` has something to do, None if never again."""
        return None if self.exhausted else max(0.0, self._next_at - time.monotonic())

    def step(self) -> None:
        """Send the next signal if it is time for it."""
        if self.due() != 0.0:
            return
        self._next_at = time.monotonic() + self._patience
        try:
            self._send_next()
        except ApiError:
            return  # it has just ended, as the stream of the shell is about to tell
        except KernelError as error:
            self.exhausted = True
            self._notice(f"the program could not be stopped: {error.message}")

    def _send_next(self) -> None:
        # A builtin of the shell, or a command whose output it collects, shares the shell's group: that group
        # gets an interrupt, which an interactive shell survives, and nothing stronger.
        foreground = self._client.foreground(self._exec_id)
        if not self._signals or (foreground.is_shell and self._last is not None):
            self.exhausted = True
            if foreground.is_shell:
                self._notice("the shell itself goes on in spite of the interrupt; `%detach` ends it")
            else:
                self._notice(
                    f"`{foreground.command}` goes on in spite of {self._last}; `%detach` ends its shell"
                )
            return
        signal = "INT" if foreground.is_shell else self._signals.pop(0)
        if self._last is not None:
            self._notice(f"`{foreground.command}` has ignored {self._last}: sending {signal}")
        self._client.signal(self._exec_id, signal, "foreground")
        self._last = signal
        self.sent = True
