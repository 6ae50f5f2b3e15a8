# SPDX-License-Identifier: Apache-2.0
"""The default filter in force: a child installs it and reports what the kernel answers."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mooring_agent.linux import seccomp
from mooring_agent.runtime.capabilities import CAPABILITIES, DEFAULT
from mooring_agent.runtime.seccomp_profile import SeccompCache

pytestmark = pytest.mark.kernel("seccomp")

# Installs the program of argv[1] (none if empty), makes the calls of argv[2], a list of [number,
# argument...], and prints the errno of each, 0 for success.
_CHILD = """
import ctypes, json, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
if sys.argv[1]:
    code = ctypes.create_string_buffer(open(sys.argv[1], "rb").read())
    count = (len(code) - 1) // 8
    program = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", count, ctypes.addressof(code)))
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    if libc.prctl(22, 2, program, 0, 0) != 0:
        sys.exit(f"the kernel refuses the filter: {os.strerror(ctypes.get_errno())}")
answers = []
for number, *arguments in json.loads(sys.argv[2]):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *(ctypes.c_ulong(each) for each in arguments))
    answers.append(ctypes.get_errno() if result == -1 else 0)
print(json.dumps(answers))
"""


def answers(path: Path | None, *calls: tuple[str, *tuple[int, ...]]) -> list[int]:
    numbered = [
        [seccomp.syscall(name), *arguments, *[0] * (6 - len(arguments))] for name, *arguments in calls
    ]
    done = subprocess.run(
        [sys.executable, "-S", "-c", _CHILD, str(path or ""), json.dumps(numbered)],
        check=True,
        capture_output=True,
        timeout=30,
    )
    result: list[int] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SeccompCache(tmp_path_factory.mktemp("seccomp")).path_for(None, DEFAULT)


REFUSED: list[tuple[str, *tuple[int, ...]]] = [
    ("mount",),
    ("umount2",),
    ("unshare", 0x10000000),  # CLONE_NEWUSER
    ("setns",),
    ("keyctl",),
    ("add_key",),
    ("request_key",),
    ("socket", 38, 5),  # AF_ALG
    ("socket", 40, 1),  # AF_VSOCK
    ("io_uring_setup", 1),
    ("userfaultfd",),
    ("bpf",),
    ("perf_event_open",),
    ("personality", 0x0040000),
    ("clone", 0x10000000 | 17),
]


def test_what_leads_out_of_a_container_is_refused(default: Path) -> None:
    assert answers(default, *REFUSED) == [errno.EPERM] * len(REFUSED)


def test_clone3_is_as_if_it_did_not_exist(default: Path) -> None:
    assert answers(default, ("clone3",)) == [errno.ENOSYS]
    assert answers(default, ("clone3",)) != answers(None, ("clone3",))


def test_ordinary_calls_work(default: Path) -> None:
    calls: list[tuple[str, *tuple[int, ...]]] = [
        ("getpid",),
        ("socket", 2, 1),
        ("socket", 1, 1),
        ("personality", 0xFFFFFFFF),
        ("eventfd2", 0, 0),
        ("umask", 0o22),
        ("sched_yield",),
    ]

    assert answers(default, *calls) == [0] * len(calls)


def test_programs_run_under_it(default: Path) -> None:
    script = f"""
import ctypes, os, struct, subprocess, threading
code = ctypes.create_string_buffer(open({str(default)!r}, "rb").read())
program = ctypes.create_string_buffer(struct.pack("=HxxxxxxQ", (len(code) - 1) // 8, ctypes.addressof(code)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program, 0, 0) == 0
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
done = subprocess.run(["sh", "-c", "ls / >/dev/null && echo fine | cat"], capture_output=True, check=True)
assert done.stdout == b"fine\\n"
os.chmod({str(default)!r}, 0o600, follow_symlinks=True)
assert os.fork() or os._exit(0) is None
os.wait()
"""
    subprocess.run([sys.executable, "-S", "-c", script], check=True, timeout=30)


@pytest.mark.root
def test_with_sys_admin_the_kernel_itself_decides(tmp_path: Path) -> None:
    everything = SeccompCache(tmp_path).path_for(None, CAPABILITIES)
    calls: list[tuple[str, *tuple[int, ...]]] = [("mount",), ("setns", 999), ("clone3",)]

    assert answers(everything, *calls) == answers(None, *calls)
    assert errno.EPERM not in answers(everything, *calls)
