# SPDX-License-Identifier: Apache-2.0
"""Structured logs: one line an event on stderr, `key=value` pairs that both people and programs read.

A record's message is `event key=value …`, written with %r for what may hold spaces.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime


class LineFormatter(logging.Formatter):
    """`time=… level=… logger=… event=…`, and a traceback folded into one quoted value."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        name = record.name.removeprefix("mooring_agent.")
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        line = f"time={moment[:-6]}Z level={record.levelname.lower()} logger={name} event={message}"
        if record.exc_info:
            line += f" traceback={self.formatException(record.exc_info)!r}"
        return line


def configure(level: str) -> None:
    """Send the logs of this process to stderr."""
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Its debug line about the selector says nothing.
    logging.getLogger("asyncio").setLevel(logging.WARNING)
