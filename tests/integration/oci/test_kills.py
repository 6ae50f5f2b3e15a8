# SPDX-License-Identifier: Apache-2.0
"""kill -9 of a command at any moment: what it leaves is removed by `delete --force`, all of it."""

from __future__ import annotations

import subprocess
import time

import pytest

from harness.forked import in_child
from harness.waiting import PATIENCE, eventually
from mooring_agent.linux import syscalls

from .conftest import Oci

pytestmark = pytest.mark.root


@pytest.mark.parametrize("step", range(12))
def test_a_creation_that_is_killed_leaves_nothing(oci: Oci, step: int) -> None:
    id = oci.id()
    creation = subprocess.Popen(
        oci.command("create", "--bundle", oci.bundle("sleep", "100"), id),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    # The steps lie where a creation makes things, the first ones after python has begun.
    directory = oci.root / id
    end = time.monotonic() + 20
    while not directory.exists() and creation.poll() is None and time.monotonic() < end:
        pass
    time.sleep(step * 0.004)
    creation.kill()
    creation.wait()
    oci.ok("delete", "--force", id)
    eventually(lambda: oci.remains() == [], 10)


def test_a_foreground_run_that_is_killed_leaves_a_container_that_can_be_removed(oci: Oci) -> None:
    id = oci.id()
    run = subprocess.Popen(
        oci.command("run", "--bundle", oci.bundle("sleep", "100"), id),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    eventually(lambda: oci("state", id).returncode == 0 and oci.state(id)["status"] == "running", 20)
    run.kill()
    run.wait()
    assert oci.state(id)["status"] == "running"
    oci.ok("delete", "--force", id)
    assert oci.remains() == []


def test_a_foreground_run_hands_signals_on(oci: Oci) -> None:
    id = oci.id()
    script = "trap 'exit 9' TERM; echo set; while :; do sleep 0.05; done"
    with subprocess.Popen(
        oci.command("run", "--bundle", oci.bundle("sh", "-c", script), id),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == b"set\n"
        run.terminate()
        assert run.wait(20 * PATIENCE) == 9


def test_a_detached_process_that_nobody_reaps_does_not_hold_up_the_end(oci: Oci) -> None:
    # Without a reaper the container's first process cannot end: it waits for the other's parent to look.
    bundle = oci.bundle("sleep", "100")

    def child() -> bool:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        oci.quiet("run", "-d", "-b", bundle, oci.id())
        oci.quiet("exec", "--detach", oci.id(), "sleep", "100")
        started = time.monotonic()
        oci.ok("delete", "--force", oci.id())
        return time.monotonic() - started < 9

    assert in_child(child)
