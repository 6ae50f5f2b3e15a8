# SPDX-License-Identifier: Apache-2.0
"""A web server on the loopback, in a thread of the tests; and what other servers answer."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from harness.waiting import eventually


class Silent(BaseHTTPRequestHandler):
    """Says nothing of what it is asked for."""

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class _Files(Silent, SimpleHTTPRequestHandler):
    """Gives what a directory has."""


@contextmanager
def served(handler: Callable[..., BaseHTTPRequestHandler]) -> Iterator[str]:
    """Answer with these handlers; the server's URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def served_directory(directory: Path) -> Iterator[str]:
    """Give what a directory has; the server's URL."""
    with served(partial(_Files, directory=str(directory))) as url:
        yield url


def fetched(url: str) -> str:
    """What a server answers, as soon as it listens. Raises urllib's errors for any other than a refusal."""

    def got() -> str:
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError as error:
            if isinstance(error.reason, ConnectionRefusedError):
                return ""
            raise

    return eventually(got, what=f"an answer of {url}")
