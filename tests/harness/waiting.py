# SPDX-License-Identifier: Apache-2.0
"""Waiting for something to become true, always with a deadline."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

# How many times longer than usual a wait may take: an emulated machine is slow.
PATIENCE = float(os.environ.get("MOORING_TEST_PATIENCE", "1"))

_INTERVAL = 0.02  # seconds


class NotInTime(AssertionError):
    """What was waited for has not come true within its deadline."""


def eventually(check: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Call `check` until it returns something true, and return that. Raises NotInTime after `timeout` s.

    An AssertionError of `check` counts as "not yet" and is the reason given at the end.
    """
    deadline = time.monotonic() + timeout * PATIENCE
    while True:
        reason = ""
        try:
            value = check()
        except AssertionError as error:
            reason = f": {error}"
        else:
            if value:
                return value
            reason = f": it was {value!r}"
        if time.monotonic() >= deadline:
            name = what or getattr(check, "__name__", "the check")
            raise NotInTime(f"{name} did not come true within {timeout:g} s{reason}")
        time.sleep(_INTERVAL)


def has_died(pid: int) -> bool:
    """Whether a process has ended, reaped or not: some time after the kill(2) that ends it."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
