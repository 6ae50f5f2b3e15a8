# SPDX-License-Identifier: Apache-2.0
"""Signals whose dispositions no program may inherit that is started here."""

from __future__ import annotations

import signal

RESET = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGCHLD,
)
"""What Python or the keeper ignores or handles, and what a shell ignores that starts them in the background:
they go back to their defaults before execve.
"""
