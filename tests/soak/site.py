# SPDX-License-Identifier: Apache-2.0
"""The agent, who calls it, and who kills its processes."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from harness.agent import AgentUnderTest

DOCKER = "/v1.43"
MOORING = "/mooring/v1"
TAR = {"Content-Type": "application/x-tar"}
_TIMEOUT = 60.0
_SLOW = 20.0
_REMEMBERED = 12
# How long an exit code may be unknown after all who could have told it were killed.
_BLIND = 30.0
# Which of the agent's processes are killed; "restart" is an orderly end and a start.
_KILLS = {
    "agent": {"agent"},
    "keeper": {"keeper"},
    "guardian": {"guardian"},
    "both": {"agent", "keeper"},
    "all": {"agent", "keeper", "guardian"},
    "restart": set[str](),
}
_WEIGHTS = (3, 1, 1, 1, 1, 1)


class CutOff(Exception):
    """The connection broke since a process was killed: nobody knows what has become of the call."""


class Site:
    """One agent for all; `faults` is what has gone wrong, and must not have, whatever is killed."""

    def __init__(self, seed: str, seconds: float) -> None:
        self.agent = AgentUnderTest(user="script/soak", pool=None).start()
        self.agent.add_busybox_image()
        self.seed = seed
        self.faults: list[str] = []
        self.counts: Counter[str] = Counter()
        self.until = time.monotonic() + seconds
        self._lock = threading.Lock()
        self._alive = threading.Event()
        self._alive.set()
        self._kills = 0
        self._blind_since = -_BLIND
        self._traces: dict[int, deque[str]] = {}

    @property
    def over(self) -> bool:
        """Whether it has been long enough."""
        return time.monotonic() >= self.until

    @property
    def moment(self) -> int:
        """It is another one after each kill: what was true before it may be so no more."""
        return self._kills

    @property
    def may_be_blind(self) -> bool:
        """Whether guardian and keeper have been killed just now, so that exit codes may be unknown."""
        return time.monotonic() < self._blind_since + _BLIND

    def fault(self, *what: object) -> None:
        """Note what must not be, with the last calls of this thread."""
        calls = "".join(f"\n    {call}" for call in self._trace())
        text = f"{time.strftime('%H:%M:%S')} {' '.join(map(str, what))}{calls}"
        with self._lock:
            self.faults.append(text)
        print(f"FAULT {text}", flush=True)

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        headers: Mapping[str, str] | None = None,
        server_errors: bytes = b"",
    ) -> tuple[int, bytes]:
        """Status and body of an answer; those from 500 on are faults but with `server_errors` in them. Raises
        CutOff.
        """
        self._alive.wait(_TIMEOUT)
        before, began = self.moment, time.monotonic()
        try:
            answer = self.agent.request(method, path, body, headers=headers, timeout=_TIMEOUT)
        except (OSError, HTTPException, ValueError) as error:
            self._note(method, path, "cut off", began)
            self._alive.wait(_TIMEOUT)  # after a kill it is another moment by then
            if self.moment == before or isinstance(error, TimeoutError):
                self.fault(method, path, "broke without a kill:", repr(error))
            raise CutOff from None
        took = self._note(method, path, answer.status, began)
        tolerated = server_errors and server_errors in answer.body
        if answer.status >= 500 and self.moment == before and not tolerated:
            self.fault(method, path, answer.status, answer.body[:400])
        if took > _SLOW:
            self.fault(method, path, f"took {took:.1f} s")
        return answer.status, answer.body

    def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The same for answers in JSON."""
        status, answered = self.call(method, path, body)
        return status, json.loads(answered) if answered.strip() else None

    def expect(self, allowed: set[int], method: str, path: str, body: object = None) -> tuple[int, Any]:
        """The same, where other statuses are faults; from 500 on they are those of `call`."""
        status, answer = self.ask(method, path, body)
        if status not in allowed and status < 500:
            self.fault(method, path, status, answer)
        return status, answer

    def kill_now_and_then(self, pause: float) -> None:
        """Kill, and start again what does not come back by itself, until it is over."""
        chance = random.Random(f"{self.seed}-kills")
        while not self.over:
            time.sleep(chance.uniform(0.3, 2.0) * pause)
            [name] = chance.choices(list(_KILLS), _WEIGHTS)
            pids = dict(zip(("keeper", "guardian"), self.agent.keeper_pids(), strict=False))
            self.counts[f"kill of {name}" if name != "restart" else name] += 1
            self._alive.clear()
            self._kills += 1
            if "guardian" in _KILLS[name]:
                self._blind_since = time.monotonic()
            if "agent" in _KILLS[name]:
                self.agent.kill9()
            for victim in _KILLS[name] & pids.keys():
                self._kill(pids[victim])
            if self.agent.process is None:
                self.agent.start()
            elif name == "restart":
                self.agent.restart()
            self._kills += 1
            self._alive.set()

    def _kill(self, pid: int) -> None:
        """Kill a process of the agent; one that has gone may have left its number to somebody else."""
        with suppress(OSError):
            descriptor = os.pidfd_open(pid)
            try:
                if bytes(self.agent.base) in Path(f"/proc/{pid}/cmdline").read_bytes():
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)

    def _note(self, method: str, path: str, outcome: object, began: float) -> float:
        took = time.monotonic() - began
        self._trace().append(f"{method} {path} {outcome} {took:.2f} s")
        with self._lock:
            self.counts["calls"] += 1
        return took

    def _trace(self) -> deque[str]:
        return self._traces.setdefault(threading.get_ident(), deque(maxlen=_REMEMBERED))
