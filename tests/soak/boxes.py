# SPDX-License-Identifier: Apache-2.0
"""Containers as clients of docker use them, compared with what each should be."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from harness.archives import packed
from harness.waiting import NotInTime, eventually
from soak.site import DOCKER, TAR, Site

# It writes numbered lines, and ends with 7 when it is asked to.
_TALKS = "trap 'exit 7' TERM; echo up; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.2 & wait $!; done"
_NETWORKS = ("net0", "net1", "net2")
_KILLED = 137
# A container with a terminal gets SIGHUP when everybody is killed who has the other end of it.
_HUNG_UP = 129


class Box:
    """A container, or the place for one; `step` does something with it."""

    def __init__(self, site: Site, worker: int, number: int) -> None:
        self._site = site
        self._chance = random.Random(f"{site.seed}-{worker}-{number}")
        self._name = f"w{worker}c{number}"
        self._kind = ""
        self._restarts = False
        self._network = ""
        self._code = 0
        self._there = False
        self._state = ""
        self._cut_off = False

    def step(self) -> None:
        """One thing, or what it takes to make it."""
        if not self._there:
            self._create()
            return
        work = self._chance.choice(
            [
                *(self._start, self._start, self._stop, self._kill, self._restart, self._pause, self._remove),
                *(self._exec, self._exec, self._logs, self._copy, self._look, self._rename, self._update),
                *(self._commit, self._connect, self._networks),
            ]
        )
        work()

    def catch_up(self) -> None:
        """See what has become of it after a call that was cut off."""
        self._cut_off = True
        status, found = self._ask("GET", "/json")
        self._there = status == 200
        if self._there:
            self._take(found)

    def _ask(self, method: str, path: str = "", body: object = None) -> tuple[int, Any]:
        return self._site.ask(method, f"{DOCKER}/containers/{self._name}{path}", body)

    def _expect(self, allowed: set[int], method: str, path: str = "", body: object = None) -> int:
        return self._site.expect(allowed, method, f"{DOCKER}/containers/{self._name}{path}", body)[0]

    def _take(self, found: dict[str, Any]) -> str:
        state = found["State"]
        self._state = "paused" if state["Paused"] else state["Status"]
        self._restarts = found["HostConfig"]["RestartPolicy"]["Name"] not in ("", "no")
        self._network = found["HostConfig"]["NetworkMode"]
        command = found["Config"]["Cmd"][-1]
        self._kind = "short" if "bye" in command else "terminal" if found["Config"]["Tty"] else "talks"
        if self._kind == "short":
            self._code = int(command.rpartition(" ")[2])
        return self._state

    def _is(self, *allowed: str, codes: Collection[int] = ()) -> None:
        """Look at it: it is to be in one of these states, and have ended with one of these codes."""
        before = self._site.moment
        status, found = self._ask("GET", "/json")
        if status != 200:
            self._there = False
            self._site.fault(self._name, "is gone", found)
            return
        state, told = self._take(found), found["State"]
        if state not in allowed and self._site.moment == before:
            self._site.fault(self._name, self._kind, "is", state, "and not", allowed, told)
        unknown = told["ExitCode"] == 255 and self._site.may_be_blind
        if codes and state == "exited" and told["ExitCode"] not in codes and not unknown:
            self._site.fault(self._name, self._kind, "ended with", told["ExitCode"], "and not", codes, told)
        if state == "running" and self._kind != "short" and not Path(f"/proc/{told['Pid']}").exists():
            self._ends_soon(told["Pid"])

    def _ends_soon(self, pid: int) -> None:
        """Its process has ended, and the news are on their way."""
        before = self._site.moment

        def is_told() -> bool:
            status, found = self._ask("GET", "/json")
            return status != 200 or found["State"]["Pid"] != pid or self._site.moment != before

        try:
            eventually(is_told, 2.0, f"the end of process {pid}")
        except NotInTime as error:
            self._site.fault(self._name, "runs without a process:", error)

    @property
    def _running(self) -> tuple[str, ...]:
        """What it may be when it has been started."""
        if self._kind != "short" and not self._restarts:
            return ("running",)
        return ("running",) if self._kind != "short" else ("running", "exited", "restarting")

    @property
    def _ends(self) -> set[int]:
        """What it may end with when it is asked to: before its trap is set it heeds no signal, and with an
        init it ends by that.
        """
        return {self._code, _KILLED, 143} if self._kind == "short" else {7, _KILLED, 143, _HUNG_UP}

    def _create(self) -> None:
        chance = self._chance
        self._kind = chance.choice(["talks", "talks", "short", "terminal"])
        self._network = chance.choice(["bridge", "bridge", "none", "host", *_NETWORKS])
        self._code = chance.randrange(1, 120)
        policy = chance.choice(["no", "no", "always", "on-failure"])
        self._restarts = policy != "no"
        host: dict[str, Any] = {
            "NetworkMode": self._network,
            "RestartPolicy": {"Name": policy, "MaximumRetryCount": 2 if policy == "on-failure" else 0},
            "Memory": chance.choice([0, 64 << 20]),
            "Init": chance.random() < 0.2,
            "ReadonlyRootfs": chance.random() < 0.2,
        }
        if chance.random() < 0.3:
            host["Binds"] = [f"data{chance.randrange(3)}:/data"]
        if chance.random() < 0.2:
            memory = {"type": "tmpfs", "device": "tmpfs", "o": "size=1m"}
            driver = {"DriverConfig": {"Name": "local", "Options": memory}}
            name = f"memory{chance.randrange(2)}"
            host["Mounts"] = [
                {"Type": "volume", "Source": name, "Target": "/memory", "VolumeOptions": driver}
            ]
        if chance.random() < 0.2 and self._network not in ("none", "host"):
            host["PortBindings"] = {"80/tcp": [{"HostPort": ""}]}
        command = f"echo bye; exit {self._code}" if self._kind == "short" else _TALKS
        body: dict[str, Any] = {
            "Image": "busybox",
            "Cmd": ["sh", "-c", command],
            "Tty": self._kind == "terminal",
            "HostConfig": host,
        }
        if chance.random() < 0.2:
            body["Healthcheck"] = {"Test": ["CMD", "true"], "Interval": 10**9}
        status, found = self._site.ask("POST", f"{DOCKER}/containers/create?name={self._name}", body)
        self._there = status == 201
        if status not in (201, 400, 409) or (status == 400 and "network" not in found["message"]):
            self._site.fault(self._name, "is not created:", status, found)
        if status == 409:
            self.catch_up()
        self._state = "created"

    def _start(self) -> None:
        status, found = self._ask("POST", "/start")
        if status in (204, 304):
            self._is(*self._running, *(("paused",) if self._state == "paused" else ()), codes={self._code})
            self._cut_off = self._cut_off and status == 304
        elif status < 500 and not (status == 409 and self._state == "paused") and "network" not in str(found):
            self._site.fault(self._name, "does not start:", status, found)

    def _stop(self) -> None:
        patience = self._chance.choice([0, 3, 10])
        if self._expect({204, 304}, "POST", f"/stop?t={patience}") < 300:
            self._is("exited", codes=self._ends)
        else:
            self._is("exited", "created")

    def _kill(self) -> None:
        status = self._expect(
            {204, 409}, "POST", f"/kill?signal={self._chance.choice(['KILL', 'TERM', 'USR2'])}"
        )
        if status == 204:
            self._is("running", "exited", "restarting", "paused")

    def _restart(self) -> None:
        status, found = self._ask("POST", "/restart?t=1")
        if status == 204:
            self._is(*self._running)
        elif status < 500 and "network" not in str(found):
            self._site.fault(self._name, "is not restarted:", status, found)

    def _pause(self) -> None:
        if self._kind == "short" or self._expect({204, 409}, "POST", "/pause") != 204:
            return
        self._is("paused", "exited", "restarting")
        self._expect({204, 409}, "POST", "/unpause")
        self._is("running", "exited", "restarting")

    def _remove(self) -> None:
        if self._expect({204, 409}, "DELETE", f"?force={self._chance.choice([1, 1, 0])}&v=1") == 204:
            self._there = False
            self._expect({404}, "GET", "/json")

    def _exec(self) -> None:
        if self._state != "running" or self._kind == "short":
            return
        code = self._chance.randrange(100)
        command = {"Cmd": ["sh", "-c", f"echo hello; exit {code}"], "AttachStdout": True}
        status, made = self._ask("POST", "/exec", command)
        if status != 201:
            self._is("exited", "restarting", "running", "paused")
            return
        before = self._site.moment
        status, said = self._site.call("POST", f"{DOCKER}/exec/{made['Id']}/start", {})
        _, told = self._site.ask("GET", f"{DOCKER}/exec/{made['Id']}/json")
        done = status in (101, 200) and b"hello" in said
        if told.get("ExitCode") == 0 and not done:
            self._site.fault(self._name, "exec is told to have succeeded, and said", said)
        if done and told.get("ExitCode") not in (code, _KILLED, 255) and self._site.moment == before:
            self._site.fault(self._name, "exec ended with", told.get("ExitCode"), "and not", code)

    def _logs(self) -> None:
        status, text = self._site.call(
            "GET", f"{DOCKER}/containers/{self._name}/logs?stdout=1&stderr=1&tail=60"
        )
        if status != 200:
            self._site.fault(self._name, "has no log:", status, text)
        elif self._kind == "talks":
            numbers = [int(number) for number in re.findall(rb"line (\d+)\n", text)]
            for one, next_one in itertools.pairwise(numbers):
                if next_one not in (one + 1, 1):
                    self._site.fault(self._name, "lost lines between", one, "and", next_one)

    def _copy(self) -> None:
        path = f"{DOCKER}/containers/{self._name}/archive?path=/tmp"
        status, said = self._site.call("PUT", path, packed({"soak": b"12345"}), headers=TAR)
        if status == 200:
            status, said = self._site.call("GET", f"{path}/soak")
        if status not in (200, 403, 404) or (status == 200 and b"12345" not in said):
            self._site.fault(self._name, "is not copied to and from:", status, said[:200])

    def _look(self) -> None:
        what = self._chance.choice(
            ["/top", "/stats?stream=0&one-shot=1", "/changes", "/export", "list", "wait"]
        )
        if what == "list":
            status, found = self._site.expect({200}, "GET", f"{DOCKER}/containers/json?all=1&size=1")
            if status == 200 and sum(one["Names"] == [f"/{self._name}"] for one in found) != 1:
                self._site.fault(self._name, "is not in the list once")
        elif what == "wait":
            if self._state in ("exited", "created"):
                self._expect({200}, "POST", "/wait?condition=not-running")
        else:
            status, said = self._site.call("GET", f"{DOCKER}/containers/{self._name}{what}")
            if status not in (200, 409):
                self._site.fault(self._name, what, status, said[:200])

    def _rename(self) -> None:
        name = self._name.removesuffix("r") if self._name.endswith("r") else f"{self._name}r"
        if self._expect({204}, "POST", f"/rename?name={name}") == 204:
            self._name = name

    def _update(self) -> None:
        limits = {"Memory": self._chance.choice([32, 64, 128]) << 20, "MemorySwap": -1}
        self._expect({200}, "POST", "/update", limits)

    def _commit(self) -> None:
        image = f"soak/{self._name}"
        self._site.expect({201}, "POST", f"{DOCKER}/commit?container={self._name}&repo={image}")
        self._site.expect({200, 404, 409}, "DELETE", f"{DOCKER}/images/{image}")

    def _connect(self) -> None:
        network = self._chance.choice(_NETWORKS)
        for change in ("connect", "disconnect"):
            path = f"{DOCKER}/networks/{network}/{change}"
            self._site.expect({200, 400, 403, 404, 409}, "POST", path, {"Container": self._name})

    def _networks(self) -> None:
        network = self._chance.choice(_NETWORKS)
        if self._chance.random() < 0.6:
            body = {"Name": network, "EnableIPv6": self._chance.random() < 0.3}
            self._site.expect({201, 409}, "POST", f"{DOCKER}/networks/create", body)
        else:
            self._site.expect({204, 403, 404, 409}, "DELETE", f"{DOCKER}/networks/{network}")
