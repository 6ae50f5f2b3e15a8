# SPDX-License-Identifier: Apache-2.0
"""What a newcomer does first: script/demo, then script/demo --down, which leaves nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from harness.host import cgroup_mounts
from harness.waiting import PATIENCE

pytestmark = [
    pytest.mark.root,
    pytest.mark.kernel("nftables", "overlay"),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

HOSTS = ("mooring-demo-1", "mooring-demo-2", "mooring-demo-3")
MADE = (*HOSTS, "mooring-demo-net", "mooring-demo")
UP_WITHIN = 600  # seconds
DOWN_WITHIN = 60 * PATIENCE


def demo(root: Path, *arguments: str, within: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [root / "script/demo", *arguments],
        check=False,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=within,
    )


def remains(state: Path) -> Iterator[str]:
    """Yield what there still is of a fleet, found without the script."""
    for name in MADE:
        for path in (Path("/run/netns", name), Path("/sys/class/net", name)):
            if path.exists():
                yield str(path)
        yield from (str(mount / name) for mount in cgroup_mounts() if (mount / name).exists())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if str(state) in line:
            yield f"mount {line}"
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path("/proc", entry, "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if bytes(state) in command:
            yield f"process {entry}: {command!r}"


def processes_of(host: str) -> list[int]:
    listed = subprocess.run(
        ["ip", "netns", "pids", host], check=True, capture_output=True, text=True, timeout=10 * PATIENCE
    )
    return [int(pid) for pid in listed.stdout.split()]


@pytest.fixture
def state(project_root: Path) -> Iterator[Path]:
    """Return the directory of the fleet; afterwards there is none."""
    if Path("/run/netns/mooring-demo-net").exists():
        # There is one on a machine, and this one is somebody's: the test would take it down.
        pytest.skip("a fleet of the demo is up: take it down with script/demo --down")
    yield project_root / "demo/.state"
    demo(project_root, "--down", within=DOWN_WITHIN)


def test_a_fleet_comes_up_and_goes_without_a_trace(project_root: Path, state: Path) -> None:
    up = demo(project_root, within=UP_WITHIN)

    assert up.returncode == 0, up.stdout
    for number, _host in enumerate(HOSTS, start=1):
        for port in (8081, 8082):
            url = f"http://10.209.210.{10 + number}:{port}/"
            with urllib.request.urlopen(url, timeout=5 * PATIENCE) as page:
                assert f"mooring-demo-{number}" in page.read().decode()
    notebook = json.loads((state / "tour.executed.ipynb").read_text())
    assert any(cell.get("outputs") for cell in notebook["cells"])

    # Whatever state it is in: here one host has lost its agent, its keeper and their parents.
    for pid in processes_of(HOSTS[0]):
        with suppress(FileNotFoundError, ProcessLookupError):  # it went with another one
            if Path("/proc", str(pid), "cmdline").read_bytes().startswith(bytes(state / "python")):
                os.kill(pid, signal.SIGKILL)
    down = demo(project_root, "--down", within=DOWN_WITHIN)

    assert down.returncode == 0, down.stdout
    assert list(remains(state)) == []
    assert demo(project_root, "--down", within=DOWN_WITHIN).returncode == 0
