# SPDX-License-Identifier: Apache-2.0
"""Images on their way between registries and hosts, on several hosts at the same time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from .bars import Bar, Movement
from .client import Client
from .errors import Interrupted, KernelError
from .http import Stream

_PARALLEL = 32
# The agent's own waits for a registry end within minutes; it says nothing meanwhile.
_SILENCE = 600.0
_REDRAW = 0.2  # seconds


@dataclass(frozen=True)
class Journey:
    """What is done on a host: a call of its agent about an image, and what one calls it afterwards."""

    image: str
    call: str  # pull or push
    done: str  # pulled or pushed
    body: Mapping[str, Any] = field(default_factory=dict)


class _Traveller:
    """One host: a thread, and what is known of it."""

    def __init__(self, host: str, open_client: Callable[[], Client], journey: Journey) -> None:
        self.host = host
        self._movement = Movement(host, unpacks=journey.call == "pull")
        self._open_client = open_client
        self._journey = journey
        self._stream: Stream | None = None
        self._given_up = False
        self._lock = threading.Lock()

    def run(self) -> None:
        """Do it, to its end. This is the work of a thread of its own."""
        reason = "it failed, see the kernel's log"
        try:
            self._go()
        except KernelError as error:
            reason = error.message.removeprefix("host ").removeprefix(f"{self.host}: ")
        finally:
            with self._lock:
                if not self._movement.ended:
                    self._movement.fail(reason)

    def bar(self) -> Bar:
        """How far it is now."""
        with self._lock:
            return self._movement.bar(time.monotonic())

    def give_up(self) -> None:
        """End the call; the agent gives up what nobody waits for."""
        with self._lock:
            self._given_up = True
            if self._stream is not None:
                self._stream.close()

    def _go(self) -> None:
        journey = self._journey
        path = f"/images/{quote(journey.image, safe='/:@')}/{journey.call}"
        answer = self._open_client().follow(
            "POST", path, dict(journey.body), silence=_SILENCE, opened=self._opened
        )
        for message in answer:
            self._take(message)
        if not self._movement.ended:
            raise KernelError("its agent ended the answer without an outcome; see its log, and try again")

    def _take(self, message: Mapping[str, Any]) -> None:
        if "error" in message:
            raise KernelError(str(message["error"]["message"]))
        with self._lock:
            if "progress" in message:
                self._movement.take(message["progress"], time.monotonic())
                return
            outcome = message["outcome"]
            digest = outcome.get("digest") or (outcome.get("result") or {}).get("digest") or ""
            self._movement.succeed(bool(outcome["changed"]), self._journey.done, str(digest))

    def _opened(self, stream: Stream) -> None:
        with self._lock:
            self._stream = stream
            if self._given_up:
                stream.close()


def travel(
    hosts: Mapping[str, Callable[[], Client]],
    journey: Journey,
    draw: Callable[[Sequence[Bar]], None],
    abandoned: threading.Event,
) -> tuple[str, ...]:
    """Do the same on all hosts at once, and `draw` how far they are whenever that changes; return who failed.

    `hosts` gives for each how its client is had, which may raise. Raises Interrupted, with all calls ended,
    when it is `abandoned`.
    """
    travellers = [_Traveller(host, client, journey) for host, client in hosts.items()]
    slots = threading.BoundedSemaphore(_PARALLEL)

    def go(traveller: _Traveller) -> None:
        with slots:
            if not abandoned.is_set():
                traveller.run()

    for traveller in travellers:
        name = f"{journey.call} {traveller.host}"
        threading.Thread(target=go, args=(traveller,), name=name, daemon=True).start()
    drawn: list[Bar] = []
    while not drawn or not all(bar.end for bar in drawn):
        if drawn and abandoned.wait(_REDRAW):
            for traveller in travellers:
                traveller.give_up()
            raise Interrupted(f"the {journey.call} was interrupted")
        bars = [traveller.bar() for traveller in travellers]
        if bars != drawn:
            draw(bars)
        drawn = bars
    return tuple(bar.host for bar in drawn if bar.end == "failed")
