# SPDX-License-Identifier: Apache-2.0
"""The harness sees what an agent leaves; a blind one would pass every test."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from harness.host import cgroup_mounts
from harness.remains import Traces
from harness.waiting import eventually


@pytest.fixture
def traces(tmp_path: Path) -> Traces:
    name = f"mrgt_{secrets.token_hex(4)}"
    return Traces(tmp_path, name, name, f"mr{secrets.token_hex(2)}-")


def test_a_clean_host_has_no_remains(traces: Traces) -> None:
    assert traces.remains() == []


def test_a_process_that_names_the_base_is_found_and_swept(traces: Traces) -> None:
    sleeper = [sys.executable, "-c", "import time; time.sleep(60)", str(traces.base)]
    with subprocess.Popen(sleeper) as child:
        # execve(2) is over a moment before the kernel knows the new command line.
        found = eventually(traces.remains)
        traces.sweep()
        child.wait(10)
    assert [line.split(":")[0] for line in found] == [f"process {child.pid}"]
    assert traces.wait_until_gone(5) == []


@pytest.mark.root
def test_a_mount_below_the_base_is_found_and_swept(traces: Traces) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(traces.base)], check=True)
    found = traces.remains()
    traces.sweep()
    assert found == [f"mount {traces.base}"]
    assert traces.remains() == []


@pytest.mark.root
def test_a_group_with_a_process_is_found_in_any_hierarchy_and_swept(traces: Traces) -> None:
    group = next(iter(cgroup_mounts())) / traces.cgroup_parent / "inner"
    group.mkdir(parents=True)
    with subprocess.Popen(["sleep", "60"]) as child:
        (group / "cgroup.procs").write_text(str(child.pid))
        found = traces.remains()
        traces.sweep()
        child.wait(10)
    assert found == [f"cgroup {group} with processes [{child.pid}]"]
    assert traces.remains() == []
    assert not group.parent.exists()


@pytest.mark.root
@pytest.mark.kernel("nftables")
def test_a_table_and_a_link_are_found_and_swept(traces: Traces) -> None:
    link = f"{traces.bridge_prefix}0"
    subprocess.run(["nft", "add", "table", "ip", traces.nft_table], check=True)
    subprocess.run(["ip", "link", "add", link, "type", "bridge"], check=True)
    found = traces.remains()
    traces.sweep()
    assert found == [f"nftables table ip {traces.nft_table}", f"link {link}"]
    assert traces.remains() == []


def test_the_tests_own_process_is_no_remain(tmp_path: Path) -> None:
    own = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0]
    traces = Traces(Path(os.fsdecode(own)), "none", "none", "none")
    assert not any(line.startswith(f"process {os.getpid()}:") for line in traces.remains())
