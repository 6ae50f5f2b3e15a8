# SPDX-License-Identifier: Apache-2.0
"""What one cell shows and asks, as messages of Jupyter's protocol."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq

if TYPE_CHECKING:
    from .kernel import MooringKernel

_RED = "\x1b[31m"
_PLAIN = "\x1b[0m"
_POLL = 50  # milliseconds


class Notebook:
    """The place of one cell's output. `last` is set while the cell's last magic runs: its result is the
    cell's.
    """

    def __init__(self, kernel: MooringKernel, *, silent: bool, allow_stdin: bool) -> None:
        self._kernel = kernel
        self._silent = silent
        self.allow_stdin = allow_stdin
        self.last = False
        self.result_text: str | None = None
        self.payload: list[dict[str, Any]] = []
        self.abandoned = threading.Event()

    def text(self, stream: str, text: str) -> None:
        """Show text on `stdout` or `stderr`."""
        self._send("stream", {"name": stream, "text": text})

    def clear(self, *, wait: bool) -> None:
        """Clear what the cell has shown."""
        self._send("clear_output", {"wait": wait})

    def result(self, bundle: dict[str, Any]) -> None:
        """Show a MIME bundle: as the cell's result if nothing follows, else among its output."""
        content = {"data": bundle, "metadata": {}}
        if not self.last:
            self._send("display_data", content)
            return
        self.result_text = str(bundle.get("text/plain", ""))
        self._send("execute_result", {**content, "execution_count": self._kernel.execution_count})

    def live(self) -> Callable[[dict[str, Any]], None]:
        """Return a function that shows a MIME bundle, each time in the place of the one before.

        It is display_data once, and then update_display_data (Jupyter's messaging protocol).
        """
        transient = {"display_id": uuid.uuid4().hex}
        kinds = iter(("display_data",))

        def show(bundle: dict[str, Any]) -> None:
            kind = next(kinds, "update_display_data")
            self._send(kind, {"data": bundle, "metadata": {}, "transient": transient})

        return show

    def page(self, bundle: dict[str, Any]) -> None:
        """Show a MIME bundle in the pager."""
        self.payload.append({"source": "page", "data": bundle, "start": 0})

    def error(self, name: str, message: str) -> dict[str, Any]:
        """Show an error and return the reply that says the same."""
        content = {"ename": name, "evalue": message, "traceback": [f"{_RED}{name}{_PLAIN}: {message}"]}
        self._send("error", content)
        return {"status": "error", "execution_count": self._kernel.execution_count, **content}

    def ask(self, *, password: bool, still_wanted: Callable[[], bool]) -> str | None:
        """Ask the user for a line of input; None once it is not wanted any more. Raises EOFError.

        ipykernel's own function waits until there is an answer, even if the program that asked has long
        ended.
        """
        kernel = self._kernel
        stdin, session = kernel.stdin_socket, kernel.session
        if session is None:
            return None
        while stdin.poll(0):  # answers to questions that nobody asks any more
            stdin.recv_multipart()
        parent = kernel.get_parent("shell")  # type: ignore[no-untyped-call]
        session.send(
            stdin,
            "input_request",
            {"prompt": "", "password": password},
            parent=parent,
            ident=kernel._parent_ident["shell"],
        )
        while still_wanted():
            if not stdin.poll(_POLL, zmq.POLLIN):
                continue
            _ident, reply = session.recv(stdin)
            if reply is None:
                continue
            value = str(reply["content"].get("value", ""))
            if value == "\x04":
                raise EOFError
            return value.rstrip("\n")
        return None

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        if not self._silent:
            send = self._kernel.send_response
            send(self._kernel.iopub_socket, kind, content, channel="shell")  # type: ignore[no-untyped-call]
