# SPDX-License-Identifier: Apache-2.0
"""Calls that a file system may keep waiting: other threads go on meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness.waiting import PATIENCE

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not os.path.exists("/dev/fuse"), reason="this kernel has no FUSE"),
]

# On a file system whose server never answers.
_PROGRAM = """
import os, sys, threading
from mooring_agent.linux import syscalls

place, call = sys.argv[1:]
syscalls.unshare(syscalls.CLONE_NEWNS)
syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
server = os.open("/dev/fuse", os.O_RDWR)
syscalls.mount("slow", place, "fuse", 0, f"fd={server},rootmode=40000,user_id=0,group_id=0")
begun = threading.Event()

def wait():
    begun.set()
    if call == "mount":
        syscalls.mount(f"{place}/name", "/", None, syscalls.MS_BIND)
    else:
        syscalls.openat2(syscalls.AT_FDCWD, f"{place}/name", os.O_PATH)

thread = threading.Thread(target=wait, daemon=True)
thread.start()
begun.wait()
thread.join(0.3)
print("waits" if thread.is_alive() else "has ended", flush=True)
os._exit(0)
"""


@pytest.mark.parametrize("call", ["mount", "openat2"])
def test_other_threads_go_on_while_a_server_does_not_answer(tmp_path: Path, call: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(tmp_path), call],
        capture_output=True,
        text=True,
        timeout=20 * PATIENCE,
    )
    assert ran.stdout == "waits\n", ran.stderr
