# SPDX-License-Identifier: Apache-2.0
"""The Jupyter kernel: cells go to the attached shell, their head's magics to the fleet."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from concurrent.futures import Future, InvalidStateError
from typing import Any

from ipykernel._version import kernel_protocol_version
from ipykernel.kernelbase import Kernel

from . import __version__, magic_complete
from .core.errors import ExitStatus, Interrupted, KernelError, ShellEnded, UsageError
from .core.output import CellOutput
from .core.words import next_indent
from .core.workspace import Workspace
from .history import History
from .magic_line import CellParts, MagicCall, split_cell
from .magics import run_magic
from .notebook import Notebook

# Of ipykernel's own features these belong to Python: a debugger, and threads that run cells at the same time.
_NOT_OURS = {"debug_request", "create_subshell_request", "delete_subshell_request", "list_subshell_request"}
# A message that has arrived needs this many turns of the loop, at most, until it has joined the row.
_TURNS_TO_JOIN = 4


class MooringKernel(Kernel):
    """One notebook's kernel. Cells run in a worker thread, so that the loop stays free for the control
    channel.
    """

    implementation = "mooring"
    implementation_version = __version__
    language_info = {  # noqa: RUF012 - ipykernel declares it so
        "name": "bash",
        "version": "5",
        "mimetype": "text/x-sh",
        "file_extension": ".sh",
        "codemirror_mode": "shell",
        "pygments_lexer": "bash",
    }
    banner = f"Mooring {__version__}: shells in the containers of a fleet. %help tells what the magics do."
    control_msg_types = [  # noqa: RUF012
        name for name in Kernel.control_msg_types if name not in _NOT_OURS
    ]

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # type: ignore[no-untyped-call]
        self.workspace = Workspace()
        self._history: History | None = None
        self._magic: Future[None] | None = None
        self._received = 0
        self._numbers: dict[int, int] = {}
        self._aborted_up_to = 0

    @property
    def history(self) -> History:
        """The history, opened when it is first needed."""
        if self._history is None:
            self._history = History()
        return self._history

    @property
    def kernel_info(self) -> dict[str, Any]:
        """What the kernel says about itself. ipykernel's own answer imports its debugger, and promises it."""
        return {
            "protocol_version": kernel_protocol_version,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": self.help_links,
            "supported_features": [],
            "debugger": False,
        }

    # --- cells

    async def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: dict[str, str] | None = None,
        allow_stdin: bool = False,
        **_: Any,
    ) -> dict[str, Any]:
        """Run a cell, and answer as the messaging protocol asks for it (execute_reply)."""
        notebook = Notebook(self, silent=silent, allow_stdin=allow_stdin)
        error: KernelError | None = None
        try:
            await asyncio.to_thread(self._run_cell, split_cell(code), notebook)
        except KernelError as caught:
            error = caught
        if store_history and not silent and code.strip():
            self.history.add(self.execution_count, code, notebook.result_text)
        if error is not None:
            await self._let_row_form()
            return notebook.error(error.name, error.message)
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": notebook.payload,
            "user_expressions": {},
        }

    def _run_cell(self, parts: CellParts, notebook: Notebook) -> None:
        for number, call in enumerate(parts.magics):
            notebook.last = number == len(parts.magics) - 1 and not parts.body
            self._run_magic(call, notebook)
        if parts.body:
            self._run_in_shell(parts.body, notebook)

    def _run_magic(self, call: MagicCall, notebook: Notebook) -> None:
        """Run a magic in a thread of its own: after an interrupt that is left to its deadlines."""
        outcome: Future[None] = Future()

        def work() -> None:
            error = KernelError(f"%{call.name} failed, see the kernel's log")
            try:
                run_magic(call, self.workspace, notebook)
            except KernelError as caught:
                error = caught
            else:
                with contextlib.suppress(InvalidStateError):  # it was interrupted
                    outcome.set_result(None)
            finally:
                with contextlib.suppress(InvalidStateError):
                    outcome.set_exception(error)

        self._magic = outcome
        threading.Thread(target=work, name=f"%{call.name}", daemon=True).start()
        try:
            outcome.result()
        except Interrupted:
            notebook.abandoned.set()
            raise
        finally:
            self._magic = None

    def _run_in_shell(self, code: str, notebook: Notebook) -> None:
        session = self.workspace.attached
        if session is None:
            raise UsageError(
                "no container is attached: `%attach host/container` opens a shell in one, `%ps` lists them"
            )
        try:
            result = session.run(code, CellOutput(notebook), notebook.ask if notebook.allow_stdin else None)
        except ShellEnded:
            self.workspace.forget_ended()
            raise
        self.workspace.assistant.learn(code)
        if result.interrupted:
            raise Interrupted(f"the cell was interrupted (exit status {result.status})")
        if result.status != 0:
            raise ExitStatus(result.status)

    def interrupt(self) -> None:
        """Interrupt what the cell does now. May be called from any thread and from a signal handler."""
        magic = self._magic
        if magic is not None:
            with contextlib.suppress(InvalidStateError):  # it has just ended
                magic.set_exception(Interrupted("the magic was interrupted"))
            return
        session = self.workspace.attached
        if session is not None:
            session.interrupt()

    async def interrupt_request(self, stream: Any, ident: Any, parent: Any) -> None:
        """Answer the control channel's interrupt: the kernelspec asks for messages instead of signals."""
        self.interrupt()
        if self.session is not None:
            self.session.send(stream, "interrupt_reply", {"status": "ok"}, parent, ident=ident)

    def pre_handler_hook(self) -> None:
        """Leave SIGINT as `install_signal_handlers` has set it: no KeyboardInterrupt tears the loop."""

    def post_handler_hook(self) -> None:
        """See `pre_handler_hook`."""

    def install_signal_handlers(self) -> None:
        """Make SIGINT mean the same as an interrupt message, and SIGTERM end the shells too."""
        signal.signal(signal.SIGINT, lambda _signal, _frame: self.interrupt())
        signal.signal(signal.SIGTERM, lambda _signal, _frame: self._terminate())

    def _terminate(self) -> None:
        """End the shells, then the process; called in a signal handler."""
        self.interrupt()
        self.workspace.close()
        os._exit(128 + signal.SIGTERM)

    # --- the row of waiting cells, which a failed one ends

    async def shell_main(self, subshell_id: str | None, msg: Any) -> None:
        """Number a message of the shell channel as it joins the row (ipykernel 7)."""
        self._join_row(msg)
        await super().shell_main(subshell_id, msg)

    def schedule_dispatch(self, dispatch: Any, *arguments: Any) -> None:
        """Number a message of the shell channel as it joins the row (ipykernel 6)."""
        if arguments:
            self._join_row(arguments[0])
        super().schedule_dispatch(dispatch, *arguments)  # type: ignore[misc]

    async def dispatch_shell(self, msg: Any, /, *arguments: Any, **options: Any) -> None:
        """Handle a message, or abort it if it was in the row already when a cell failed."""
        number = self._numbers.pop(id(msg), None)
        if number is not None:
            self._aborting = number <= self._aborted_up_to
        await super().dispatch_shell(msg, *arguments, **options)

    def _abort_queues(self, *_: Any) -> None:
        """Abort the cells that wait behind one that has failed, and none that comes later.

        ipykernel aborts what arrives while a flag is set; without its thread for subshells, version 7 takes
        the flag away before the waiting cells have had their turn.
        """
        self._aborted_up_to = self._received

    def _join_row(self, message: Any) -> None:
        self._received += 1
        self._numbers[id(message)] = self._received

    async def _let_row_form(self) -> None:
        """Let every message that has arrived join the row: those of later are told from them."""
        if self.shell_stream is not None:
            self.shell_stream.flush()
        for _ in range(_TURNS_TO_JOIN):
            await asyncio.sleep(0)

    # --- the editor's questions

    async def do_complete(self, code: str, cursor_pos: int) -> dict[str, Any]:
        """Complete magics, hosts and containers; the container is asked for the rest, beside the shell."""
        found = await asyncio.to_thread(magic_complete.complete, self.workspace, code, cursor_pos)
        return {
            "status": "ok",
            "matches": list(found.matches),
            "cursor_start": found.start,
            "cursor_end": found.end,
            "metadata": {},
        }

    async def do_inspect(
        self, code: str, cursor_pos: int, detail_level: int = 0, omit_sections: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        """Tell what a magic does, or what the container says about a command."""
        text = await asyncio.to_thread(magic_complete.inspect, self.workspace, code, cursor_pos)
        data = {} if text is None else {"text/plain": text}
        return {"status": "ok", "found": text is not None, "data": data, "metadata": {}}

    async def do_is_complete(self, code: str) -> dict[str, Any]:
        """Tell whether a console should run what was typed, or wait for more."""
        status = await asyncio.to_thread(magic_complete.check, self.workspace, code)
        return (
            {"status": status, "indent": next_indent(code)} if status == "incomplete" else {"status": status}
        )

    async def do_history(
        self,
        hist_access_type: str,
        output: bool,
        raw: bool,
        session: int | None = None,
        start: int | None = None,
        stop: int | None = None,
        n: int | None = None,
        pattern: str | None = None,
        unique: bool = False,
    ) -> dict[str, Any]:
        """Answer a history_request."""
        if hist_access_type == "tail":
            rows = self.history.tail(n or 1000)
        elif hist_access_type == "range":
            rows = self.history.range(session or 0, start or 1, stop)
        else:
            rows = self.history.search(pattern or "*", n, unique)
        return {
            "status": "ok",
            "history": [
                (number, line, (source, result) if output else source)
                for number, line, source, result in rows
            ],
        }

    async def do_shutdown(self, restart: bool) -> dict[str, Any]:
        """End the shells before the kernel ends."""
        self.interrupt()
        await asyncio.to_thread(self.workspace.close)
        if self._history is not None:
            self._history.close()
        return {"status": "ok", "restart": restart}
