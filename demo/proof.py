# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 (executed, not imported)
"""Prove that the demo did what it says: `python demo/proof.py PROOF ARGUMENT…` ends with 1 if it did not.

announced CHECK RUN        the journal of the run has, item for item, what that of its check mode announced
unchanged JOURNAL          no host reports a change
serving ADDRESS…           the web servers at each address answer with their own page, and with the news
snapshot FILE SOCKET…      write down which processes the web servers are
live FILE JOURNAL BYTES    they are the same processes, the journal tells of updates alone, and the kernel has
                           the new limit
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

PORTS = {8081: "web1", 8082: "web2"}
SERVING_WITHIN = 15.0  # seconds
REQUEST_TIMEOUT = 5.0
# Of cgroup v1 and v2: Documentation/admin-guide/cgroup-v1/memory.rst and cgroup-v2.rst.
LIMIT_FILES = ("memory.limit_in_bytes", "memory.max")


class Item(NamedTuple):
    """One action on one resource of one host."""

    host: str
    kind: str
    name: str
    action: str


def main(arguments: list[str]) -> int:
    """Print what is wrong; returns the exit status."""
    proofs: dict[str, Callable[..., list[str]]] = {
        "announced": announced,
        "unchanged": unchanged,
        "serving": serving,
        "snapshot": snapshot,
        "live": live,
    }
    if not arguments or arguments[0] not in proofs:
        print(__doc__, file=sys.stderr)
        return 2
    wrong = proofs[arguments[0]](*arguments[1:])
    for line in wrong:
        print(f"proof {arguments[0]}: {line}", file=sys.stderr)
    return 1 if wrong else 0


def announced(check: str, run: str) -> list[str]:
    """Compare what check mode said with what was done: every action, and every resource before and after."""
    expected, done = list(actions(check)), list(actions(run))
    wrong = [f"announced, and not done: {item}" for item in expected if item not in done]
    wrong += [f"done, and not announced: {item}" for item in done if item not in expected]
    if not wrong and sorted(expected) != sorted(done):
        wrong.append("some action was done more or less often than it was announced")
    before, after = states(check), states(run)
    wrong += [
        f"{host}, task {task!r}: before or after is not what check mode has shown"
        for host, task in sorted(before.keys() | after.keys())
        if before.get((host, task)) != after.get((host, task))
    ]
    print(f"{len(expected)} actions were announced, and {len(done)} done")
    return wrong


def unchanged(journal: str) -> list[str]:
    """Look at the totals of each host."""
    totals = {line["host"]: line["totals"] for line in lines(journal) if "totals" in line}
    wrong = [
        f"{item.host}: {item.action} of {item.kind} {item.name}, expected no change"
        for item in actions(journal)
    ]
    for host, counts in totals.items():
        if counts["changed"] or counts["failures"] or counts["unreachable"]:
            wrong.append(f"{host}: {counts}, expected changed=0 and no failure")
    return wrong if totals else [*wrong, f"{journal} has the totals of no host"]


def serving(*addresses: str) -> list[str]:
    """Ask every web server for its page, and for the news."""
    wrong = []
    for address in addresses:
        for port, name in PORTS.items():
            for path, expected in (("/", name), ("/news/", "UTC")):
                url = f"http://{address}:{port}{path}"
                answer = fetch(url)
                print(f"{url}  {answer.strip()}")
                if expected not in answer:
                    wrong.append(f"{url} answered {answer!r}, expected a page with {expected!r} in it")
    return wrong


def snapshot(file: str, *sockets: str) -> list[str]:
    """Write id, process and start of each web server to a file."""
    Path(file).write_text(json.dumps({path: servers(path) for path in sockets}), encoding="utf-8")
    return []


def live(file: str, journal: str, limit: str) -> list[str]:
    """Compare the web servers with the snapshot, and look at their limit in the kernel."""
    wrong = []
    for path, before in json.loads(Path(file).read_text(encoding="utf-8")).items():
        after = servers(path)
        if after != before:
            wrong.append(f"{path}: the containers {before} are {after} now, expected the same processes")
        for name in PORTS.values():
            found = kernel_limit(view(path, name)["cgroup"])
            print(f"{path} {name}: process {after[name][1]} has run on, the kernel's limit is {found}")
            if found != int(limit):
                wrong.append(f"{name} of {path} has the limit {found}, expected {limit}")
    done = [item for item in actions(journal) if item.kind == "container"]
    if {item.action for item in done} != {"update"}:
        wrong.append(f"the playbook did {done}, expected updates of containers only")
    return wrong


def lines(journal: str) -> Iterator[dict[str, Any]]:
    """Yield what the callback `journal` wrote."""
    for line in Path(journal).read_text(encoding="utf-8").splitlines():
        yield json.loads(line)


def actions(journal: str) -> Iterator[Item]:
    """Yield every action that the modules of mooring.fleet told of."""
    for line in lines(journal):
        result = line.get("result", {})
        done = result.get("actions", [])
        for resource in result.get("resources", []):
            done = [*done, *resource["actions"]]
        for action in done:
            yield Item(line["host"], action["kind"], action["name"], action["action"])


def states(journal: str) -> dict[tuple[str, str], Any]:
    """Return the diffs by host and task."""
    return {
        (line["host"], line["task"]): line["result"]["diff"]
        for line in lines(journal)
        if "diff" in line.get("result", {})
    }


def fetch(url: str) -> str:
    """Return a page; a server that has just been started has some time to answer."""
    end = time.monotonic() + SERVING_WITHIN
    while True:
        try:
            with urllib.request.urlopen(url, timeout=REQUEST_TIMEOUT) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, OSError) as error:
            if time.monotonic() > end:
                return f"nothing: {error}"
            time.sleep(0.2)


def servers(path: str) -> dict[str, list[Any]]:
    """Return id, process and start of each web server of an agent."""
    views = {name: view(path, name) for name in PORTS.values()}
    return {name: [each["id"], each["pid"], each["started_at"]] for name, each in views.items()}


def view(path: str, container: str) -> dict[str, Any]:
    """Ask the agent on a socket for a container."""
    connection = http.client.HTTPConnection("localhost", timeout=REQUEST_TIMEOUT)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(REQUEST_TIMEOUT)
    connection.sock.connect(path)
    connection.request("GET", f"/mooring/v1/containers/{container}")
    answer: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return answer


def kernel_limit(group: str) -> int:
    """Return the memory limit of a control group, in bytes, as the kernel has it."""
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            for name in LIMIT_FILES:
                file = Path(mount, group, name)
                if file.exists():
                    return int(file.read_text(encoding="ascii"))
    raise FileNotFoundError(f"no hierarchy has the group {group} with a memory limit")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
