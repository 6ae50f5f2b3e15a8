# SPDX-License-Identifier: Apache-2.0
"""What the keeper has to say to whoever looks after it: lines in `keeper/log` below the run root."""

from __future__ import annotations

import os

_STDERR = 2


def complain(text: str) -> None:
    """Write a line. A disk that does not take it must not end the keeper, so that failure is passed over."""
    try:
        os.write(_STDERR, f"{text}\n".encode(errors="replace"))
    except OSError:
        pass
