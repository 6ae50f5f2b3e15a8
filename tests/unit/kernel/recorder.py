# SPDX-License-Identifier: Apache-2.0
"""A display that keeps what it is shown."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any


class Recorder:
    """Both a cell's display and a magic's screen."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, str]] = []
        self.results: list[dict[str, Any]] = []
        self.pages: list[dict[str, Any]] = []
        self.live_shown: list[dict[str, Any]] = []
        self.abandoned = threading.Event()

    def text(self, stream: str, text: str) -> None:
        self.shown.append((stream, text))

    def clear(self, *, wait: bool) -> None:
        self.shown.append(("clear", "wait" if wait else "now"))

    def result(self, bundle: dict[str, Any]) -> None:
        self.results.append(bundle)

    def live(self) -> Callable[[dict[str, Any]], None]:
        return self.live_shown.append

    def page(self, bundle: dict[str, Any]) -> None:
        self.pages.append(bundle)

    def stdout(self) -> str:
        return "".join(text for stream, text in self.shown if stream == "stdout")

    def stderr(self) -> str:
        return "".join(text for stream, text in self.shown if stream == "stderr")

    def plain(self) -> str:
        """The last result as text."""
        return str(self.results[-1]["text/plain"])
