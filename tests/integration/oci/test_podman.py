# SPDX-License-Identifier: Apache-2.0
"""podman with this runtime in the place of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.host import need_programs

pytestmark = pytest.mark.root

Podman = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def podman() -> Iterator[Podman]:
    runtime = Path(sys.executable).parent / "mooring-oci"
    need_programs("podman", str(runtime))

    # podman wants a short path for its sockets.
    place = tempfile.TemporaryDirectory(prefix="mp.", dir="/tmp")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        options = {
            "--runtime": str(runtime),
            "--root": f"{place.name}/storage",
            "--runroot": f"{place.name}/run",
            "--tmpdir": f"{place.name}/tmp",
            "--storage-driver": "vfs",
            "--cgroup-manager": "cgroupfs",
            "--events-backend": "none",
        }
        command = ["podman", *(word for pair in options.items() for word in pair), *words]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=100)

    yield run
    run("rm", "--all", "--force", "--time", "0")
    place.cleanup()


# podman's own are above what a machine may allow.
_LIMITS = ("--ulimit", "nofile=1000:1000", "--ulimit", "nproc=5000:5000")


def test_a_container_runs_and_its_status_comes_back(podman: Podman, busybox_root: Path) -> None:
    words = ("--rm", *_LIMITS, "--network", "none", "--rootfs", str(busybox_root))
    answer = podman("run", *words, "sh", "-c", "cat /etc/motd; id -u; exit 7")
    assert (answer.returncode, answer.stdout) == (7, "a root file system of Mooring's tests\n0\n"), (
        answer.stderr
    )


def test_a_container_is_entered_paused_stopped_and_removed(podman: Podman, busybox_root: Path) -> None:
    words = ("--name", "one", *_LIMITS, "--network", "none", "--rootfs", str(busybox_root))
    started = podman("run", "-d", *words, "sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.05; done")
    assert started.returncode == 0, started.stderr
    assert podman("exec", "one", "sh", "-c", "echo inside; exit 3").stdout == "inside\n"
    assert podman("exec", "-t", "one", "tty").stdout.strip() == "/dev/pts/0"
    assert podman("pause", "one").returncode == 0
    assert podman("unpause", "one").returncode == 0
    assert podman("stop", "--time", "60", "one").returncode == 0
    assert podman("inspect", "one", "--format", "{{.State.ExitCode}}").stdout == "5\n"
    removed = podman("rm", "one")
    assert removed.returncode == 0, removed.stderr
