# SPDX-License-Identifier: Apache-2.0
"""Log lines that somebody else can cause at will: some in a minute, and how many were left out."""

from __future__ import annotations

import logging
import time

LINES = 10
SECONDS = 60.0


class SparingLog:
    """Warnings of one kind, of which at most LINES are written in SECONDS."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._until = 0.0
        self._written = 0
        self._left_out = 0

    def warning(self, message: str, *values: object) -> None:
        """Write a line unless there were enough of them; the next one tells how many were left out."""
        now = time.monotonic()
        if now >= self._until:
            self._until, self._written = now + SECONDS, 0
        if self._written >= LINES:
            self._left_out += 1
            return
        self._written += 1
        if self._left_out:
            message += " left_out_before=%d"
            values = (*values, self._left_out)
            self._left_out = 0
        self._log.warning(message, *values)
