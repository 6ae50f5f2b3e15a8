# SPDX-License-Identifier: Apache-2.0
"""How long a playbook takes to bring up containers: one document, a loop of tasks, and community.docker's
loop.

Each figure is a whole `ansible-playbook` run on the local connection. The peer's loop may be shorter, since
it takes seconds a container; its time is then scaled up.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import peers
from bench.engine_api import EngineApi
from bench.report import Row, print_table
from harness.rootfs import write_busybox_rootfs

_COLLECTIONS = Path(sys.executable).parent.parent / "collections"
_RUN_TIMEOUT = 1800


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="script/bench converge", description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="containers (100)")
    parser.add_argument("--docker-count", type=int, default=30, help="containers of the peer's loop (30)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mrgb-") as directory:
        base = Path(directory)
        archive = write_busybox_rootfs(base / "busybox.tar")
        with peers.mooring() as agent:
            EngineApi(agent.socket).import_image(archive, "bench")
            apply = _twice(base, _apply(agent.socket, options.count), "mooring, one document")
            for container in agent.api("GET", "/mooring/v1/containers"):
                agent.api("DELETE", f"/mooring/v1/containers/{container['name']}")
            loop = _twice(base, _loop(agent.socket, options.count), "mooring, a loop")
        with peers.dockerd(base / "docker") as engine:
            socket = engine.socket
            EngineApi(socket).import_image(archive, "bench")
            scale = options.count / options.docker_count
            docker = _twice(base, _docker_loop(socket, options.docker_count), "community.docker, a loop")
            theirs = tuple(seconds * scale for seconds in docker)
            api = EngineApi(socket)
            for container in api.call("GET", "/containers/json?all=true"):
                api.remove(container["Id"])
    peer = f"docker x{options.count}"
    print_table(
        f"converge: {options.count} containers, whole playbook runs",
        [
            Row("apply, create", apply[0], peer, theirs[0], "s", target=20),
            Row("apply, nothing to do", apply[1], peer, theirs[1], "s"),
            Row("loop of container, create", loop[0], peer, theirs[0], "s", target=4),
            Row("loop of container, nothing to do", loop[1], peer, theirs[1], "s"),
        ],
    )


def _twice(base: Path, task: dict[str, Any], title: str) -> tuple[float, float]:
    """Run the play twice; the seconds of each. Raises SystemExit when the second one changes anything."""
    print(f"measuring {title}", flush=True)
    first, _ = _play(base, task)
    second, recap = _play(base, task)
    if "changed=0" not in recap:
        raise SystemExit(f"{title}: the second run was to change nothing, but:\n{recap}")
    return first, second


def _play(base: Path, task: dict[str, Any]) -> tuple[float, str]:
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "tasks": [task]}]
    book = base / "play.yml"
    book.write_text(json.dumps(play))
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": str(_COLLECTIONS),
        "ANSIBLE_LOCALHOST_WARNING": "false",
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
        "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
        "ANSIBLE_NOCOLOR": "1",
    }
    began = time.perf_counter()
    done = subprocess.run(
        [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(book)],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=environment,
        timeout=_RUN_TIMEOUT,
    )
    seconds = time.perf_counter() - began
    if done.returncode != 0:
        raise SystemExit(f"the playbook failed:\n{done.stdout[-3000:]}{done.stderr[-2000:]}")
    return seconds, done.stdout.rpartition("PLAY RECAP")[2]


def _names(count: int) -> list[str]:
    return [f"bench{number:03}" for number in range(count)]


def _spec() -> dict[str, Any]:
    return {"image": "bench", "command": ["sleep", "600"], "stop_timeout": 0}


def _apply(socket: Path, count: int) -> dict[str, Any]:
    containers = {name: _spec() for name in _names(count)}
    return {"mooring.fleet.apply": {"socket": str(socket), "containers": containers}}


def _loop(socket: Path, count: int) -> dict[str, Any]:
    task = {"name": "{{ item }}", "socket": str(socket), **_spec()}
    return {"mooring.fleet.container": task, "loop": _names(count)}


def _docker_loop(socket: Path, count: int) -> dict[str, Any]:
    task = {
        "name": "{{ item }}",
        "docker_host": f"unix://{socket}",
        "image": "bench",
        "command": ["sleep", "600"],
        "network_mode": "none",
        "pull": "never",
    }
    return {"community.docker.docker_container": task, "loop": _names(count)}


if __name__ == "__main__":
    main()
