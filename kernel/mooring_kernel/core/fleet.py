# SPDX-License-Identifier: Apache-2.0
"""A fleet: the hosts of an inventory, asked all at once; one that does not answer holds up no other."""

from __future__ import annotations

import difflib
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .client import Client
from .errors import HostUnreachable, KernelError, UsageError
from .inventory import DEFAULT_SOCKET, Inventory
from .transport import LocalTransport, transport_to

HOST_DEADLINE = 15.0  # seconds for each host
_PARALLEL = 32

T = TypeVar("T")


@dataclass(frozen=True)
class Answer(Generic[T]):
    """What one host has answered, or the error in the place of it."""

    host: str
    value: T | None
    error: KernelError | None


class Fleet:
    """Hosts by name. Nothing is connected before it is needed."""

    def __init__(
        self, source: str, clients: dict[str, Client | KernelError], warnings: tuple[str, ...] = ()
    ) -> None:
        self.source = source
        self.warnings = warnings
        self._clients = clients

    @classmethod
    def local(cls, socket: str = DEFAULT_SOCKET) -> Fleet:
        """Return the fleet of this machine alone, as the host `local`."""
        return cls(socket, {"local": Client("local", LocalTransport(socket))})

    @classmethod
    def of(cls, inventory: Inventory) -> Fleet:
        """Return the fleet of an inventory. A host whose variables are wrong is there, with its error."""
        clients: dict[str, Client | KernelError] = {}
        for name, host in inventory.hosts.items():
            try:
                clients[name] = Client(name, transport_to(host))
            except KernelError as error:
                clients[name] = error
        wrong = tuple(error.message for error in clients.values() if isinstance(error, KernelError))
        return cls(inventory.source, clients, (*inventory.warnings, *wrong))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the hosts, in the inventory's order."""
        return tuple(self._clients)

    def client(self, host: str) -> Client:
        """Return the client of one host. Raises UsageError if the fleet has no such host, or what is wrong
        with it.
        """
        found = self._clients.get(host)
        if found is None:
            near = difflib.get_close_matches(host, self._clients, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {_some(self.hosts)}"
            raise UsageError(f"the fleet of {self.source} has no host {host!r}: {hint}")
        if isinstance(found, KernelError):
            raise found
        return found

    def ask(
        self,
        question: Callable[[Client], T],
        hosts: Iterable[str] | None = None,
        *,
        deadline: float = HOST_DEADLINE,
    ) -> list[Answer[T]]:
        """Put a question to the hosts at the same time; each has `deadline` seconds. Answers come in order of
        hosts.

        The threads are daemons: one that hangs in spite of every timeout keeps neither the answer nor the
        kernel.
        """
        names = list(self.hosts if hosts is None else hosts)
        answers: dict[str, Answer[T]] = {}
        done: queue.SimpleQueue[Answer[T]] = queue.SimpleQueue()
        slots = threading.BoundedSemaphore(_PARALLEL)

        def ask_one(name: str) -> None:
            answer: Answer[T] = Answer(name, None, KernelError("the question failed, see the kernel's log"))
            with slots:
                try:
                    answer = Answer(name, question(self.client(name)), None)
                except KernelError as error:
                    answer = Answer(name, None, error)
                finally:
                    done.put(answer)

        for name in names:
            threading.Thread(target=ask_one, args=(name,), name=f"ask {name}", daemon=True).start()
        rounds = -(-len(names) // _PARALLEL)
        end = time.monotonic() + deadline * rounds
        while len(answers) < len(names):
            try:
                answer = done.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                break
            answers[answer.host] = answer
        late = HostUnreachable(f"no answer within {deadline:g} s")
        return [answers.get(name, Answer(name, None, late)) for name in names]

    def close(self) -> None:
        """Give up all connections."""
        for client in self._clients.values():
            if isinstance(client, Client):
                client.close()


def _some(names: tuple[str, ...], limit: int = 5) -> str:
    shown = ", ".join(names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
