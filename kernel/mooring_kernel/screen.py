# SPDX-License-Identifier: Apache-2.0
"""Where a magic shows what it has found, whatever is behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol


class Screen(Protocol):
    """Where a magic shows what it has found."""

    abandoned: threading.Event
    """Set when the user has interrupted the magic: nobody waits for it any more."""

    def result(self, bundle: dict[str, Any]) -> None:
        """Show a MIME bundle as what the magic amounts to."""

    def text(self, stream: str, text: str) -> None:
        """Show text on `stdout` or `stderr`."""

    def page(self, bundle: dict[str, Any]) -> None:
        """Show a MIME bundle in the pager."""

    def live(self) -> Callable[[dict[str, Any]], None]:
        """Return a function that shows a MIME bundle, each time in the place of the one before."""
