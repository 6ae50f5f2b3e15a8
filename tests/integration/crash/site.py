# SPDX-License-Identifier: Apache-2.0
"""An agent whose processes die at named places, and all that it could leave behind there."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

from harness.agent import AgentUnderTest
from harness.remains import Host
from harness.unix_http import Response
from harness.waiting import eventually
from mooring_agent.engine.logs import LogReader

DOCKER = "/v1.43"
# What the agent and the keeper keep waiting of launchers, each with a cable to a network.
SPARE_CABLES = 6
# Numbered lines, some hundred a second, for ever.
WITNESS = "i=0; while :; do echo $i; i=$((i+1)); usleep 4000; done"
# It ends with 7 when it is asked to, and says so.
SUBJECT = "trap 'echo bye; exit 7' TERM; echo up; while :; do usleep 20000; done"

Operation = Callable[["Site", str], Response]


class Site:
    """The agent, a container that writes all the time, and an exec in it."""

    def __init__(self, agent: AgentUnderTest, switch: Path) -> None:
        self.agent = agent
        self.switch = switch
        self._pool = ThreadPoolExecutor(4)
        self.agent.api("PUT", "/mooring/v1/containers/witness", spec(WITNESS, stop_timeout=0))
        self.witness = self.view("witness")
        created = agent.api(
            "POST", f"{DOCKER}/containers/witness/exec", {"Cmd": ["sleep", "3600"], "AttachStdout": False}
        )
        self.bystander: str = created["Id"]
        agent.api("POST", f"{DOCKER}/exec/{self.bystander}/start", {"Detach": True})
        self.seen = 0
        parent = agent.config.cgroup_parent
        self._group_parents = Host().groups[parent]
        self._table = table_of(agent.config.nft_table)

    def close(self) -> None:
        self._pool.shutdown()

    # What is done

    def arm(self, point: str) -> None:
        """Let the next process die that reaches `point`."""
        self.switch.write_text(point)

    def disarm(self) -> None:
        self.switch.unlink(missing_ok=True)

    def during(self, operation: Operation, name: str) -> Future[Response | None]:
        """Start an operation; its answer, None where the connection broke."""

        def run() -> Response | None:
            try:
                return operation(self, name)
            except (OSError, HTTPException):
                return None

        return self._pool.submit(run)

    def reached(self) -> None:
        """Wait until a process has died at the point."""
        eventually(lambda: not self.switch.exists(), 15, "the fail point")

    def kill_keeper(self) -> None:
        for path in Path("/proc").glob("[0-9]*/comm"):
            with suppress(OSError):
                pid = int(path.parent.name)
                ours = bytes(self.agent.base) in (path.parent / "cmdline").read_bytes()
                if ours and path.read_text() == "mooring-keeper\n" and not is_guardian(pid):
                    os.kill(pid, signal.SIGKILL)

    def revive(self) -> None:
        """Have an agent, and a keeper that answers it."""
        eventually(self._answers, what="an exec")

    def _answers(self) -> bool:
        process = self.agent.process
        if process is not None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.05)
            if process.poll() is not None:
                self.agent.process = None
        if self.agent.process is None:
            self.agent.start()
        try:
            done = self.agent.request("POST", "/mooring/v1/containers/witness/exec", {"argv": ["true"]})
        except ConnectionError:
            return False  # it was about to die
        return done.status == 200

    # What is seen

    def view(self, name: str) -> dict[str, Any]:
        """A container as the API shows it; empty where there is none."""
        found: dict[str, Any] = self.agent.api("GET", f"/mooring/v1/containers/{name}", check=False)
        return found if "state" in found else {}

    def log(self, id: str) -> list[bytes]:
        """The lines of a container's log."""
        reader = LogReader(str(self.agent.config.data_root / "containers" / id / "log"))
        try:
            return b"".join(chunk.data for chunk in reader.read()).splitlines()
        finally:
            reader.close()

    def check_witness(self) -> None:
        """It runs as it did, goes on writing, and not a line of it is lost or doubled."""
        assert self.view("witness")["pid"] == self.witness["pid"]
        eventually(lambda: len(self.log(self.witness["id"])) > self.seen + 5, what="lines of the witness")
        lines = self.log(self.witness["id"])[:-1]
        assert lines == [b"%d" % number for number in range(len(lines))]
        self.seen = len(lines)
        assert self.agent.api("GET", f"/mooring/v1/execs/{self.bystander}")["running"]
        assert "Traceback" not in (self.agent.config.run_root / "keeper/log").read_text()

    def census(self) -> dict[str, Any]:
        """All that containers could leave behind, apart from what is kept ready for the next ones."""
        config = self.agent.config
        keeper = config.run_root / "keeper"
        running = sum(one["state"] == "running" for one in self.agent.api("GET", "/mooring/v1/containers"))
        return {
            "rows": rows(config.data_root / "state.db"),
            "layers": filled(config.data_root / "overlay/l"),
            "work": filled(config.data_root / "overlay/w"),
            "files": sorted(os.listdir(config.data_root / "containers")),
            "volumes": listed(config.data_root / "volumes"),
            "groups": {
                entry.name
                for parent in self._group_parents
                for entry in os.scandir(parent)
                if entry.is_dir() and not entry.name.startswith("slot-")
            },
            "mounts": self.agent.traces.mounts(Host()),
            "elements": elements(self._table),
            "links left": max(0, cables(config.bridge_prefix) - running - SPARE_CABLES),
            "records": records_of_containers(keeper / "records"),
            "pipes": set(os.listdir(keeper / "pipes")),
        }


def spec(script: str, **options: Any) -> dict[str, Any]:
    """A declared container that runs a script."""
    return {"image": "busybox", "command": ["sh", "-c", script], **options}


def is_guardian(pid: int) -> bool:
    """Whether a process is the parent of a keeper."""
    for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        with suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text() == "mooring-keeper\n":
                return True
    return False


def rows(path: Path) -> dict[str, int]:
    """How many rows each table has."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        names = [name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found = {name: database.execute(f"SELECT count(*) FROM {name}").fetchone()[0] for name in names}
    database.close()
    return found


def filled(directory: Path) -> list[str]:
    """The directories in `directory` that have something in them; empty ones are kept ready."""
    found = []
    for entry in os.listdir(directory):
        with suppress(FileNotFoundError):
            if os.listdir(directory / entry):
                found.append(entry)
    return sorted(found)


def records_of_containers(directory: Path) -> set[str]:
    """The ids of the containers in the keeper's journal, where ended execs stay for a while."""
    found = []
    for path in directory.glob("*.json"):
        with suppress(FileNotFoundError):  # that of an exec, forgotten since it was listed
            found.append(json.loads(path.read_text()))
    return {record["id"] for record in found if record["id"] == record["container"]}


def listed(directory: Path) -> list[str]:
    return sorted(os.listdir(directory)) if directory.is_dir() else []


def table_of(name: str) -> list[str]:
    """The family and the name of an nftables table."""
    for item in nft("list", "tables"):
        if item.get("table", {}).get("name") == name:
            return [item["table"]["family"], name]
    raise AssertionError(f"there is no nftables table {name}")


def elements(table: list[str]) -> int:
    """How many elements the maps and sets of an nftables table have."""
    found = nft("list", "table", *table)
    return sum(len(item.get(kind, {}).get("elem", ())) for item in found for kind in ("map", "set"))


def nft(*arguments: str) -> list[dict[str, Any]]:
    """What nft answers."""
    done = subprocess.run(
        ["nft", "--json", *arguments], capture_output=True, text=True, timeout=20, check=True
    )
    answer: list[dict[str, Any]] = json.loads(done.stdout)["nftables"]
    return answer


def cables(bridge_prefix: str) -> int:
    """How many interfaces are plugged into the agent's bridges."""
    return sum(
        len(os.listdir(bridge / "brif")) for bridge in Path("/sys/class/net").glob(f"{bridge_prefix}*")
    )
