# SPDX-License-Identifier: Apache-2.0
"""System calls: what they do where that needs no root, and that each failure names its call."""

from __future__ import annotations

import errno
import os
import signal
import time
from pathlib import Path

import pytest

from harness.forked import fork, in_child
from mooring_agent.linux import syscalls


@pytest.mark.parametrize(
    ("number", "words", "call"),
    [
        (errno.EBADF, "setns", lambda: syscalls.setns(-1, 0)),
        (errno.EINVAL, "unshare", lambda: syscalls.unshare(0x1)),
        (errno.ENOENT, "umount /no/such/place", lambda: syscalls.umount("/no/such/place")),
        (errno.ENOENT, "open_tree /no/such", lambda: syscalls.open_tree(-100, "/no/such", 0)),
        (errno.ENOENT, "openat2 /no/such", lambda: syscalls.openat2(-100, "/no/such", os.O_PATH)),
        (errno.ESRCH, "pidfd_open 4194300", lambda: syscalls.pidfd_open(4194300)),
        (errno.EBADF, "pidfd_send_signal 0", lambda: syscalls.pidfd_send_signal(-1, 0)),
        (errno.EINVAL, "prctl", lambda: syscalls.prctl(-1)),
        (errno.EINVAL, "close_range", lambda: syscalls.close_range(5, 4)),
        (errno.EINVAL, "sethostname", lambda: syscalls.sethostname("x" * 100)),
    ],
)
def test_a_failure_names_its_call(number: int, words: str, call: object) -> None:
    with pytest.raises(OSError, match=words) as failed:
        call()  # type: ignore[operator]
    # Where it takes a capability the kernel may ask for that first.
    assert failed.value.errno in (number, errno.EPERM)


def test_a_mount_that_fails_names_what_was_to_be_mounted_where() -> None:
    with pytest.raises(OSError, match="mount nofs src on /no/such/place"):
        syscalls.mount("src", "/no/such/place", "nofs", 0)


def test_openat2_stays_in_its_root_and_closes_on_exec(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("inside")
    (tmp_path / "way").symlink_to("/file")
    root = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    try:
        for path in ("/file", "../file", "/way", "way"):
            found = syscalls.openat2(root, path, os.O_RDONLY, resolve=syscalls.RESOLVE_IN_ROOT)
            assert os.read(found, 10) == b"inside"
            assert not os.get_inheritable(found)
            os.close(found)
        with pytest.raises(OSError, match="way") as refused:
            syscalls.openat2(root, "way", os.O_RDONLY, resolve=syscalls.RESOLVE_NO_SYMLINKS)
        assert refused.value.errno == errno.ELOOP
    finally:
        os.close(root)


def test_close_range_closes_just_that() -> None:
    def work() -> list[bool]:
        found = [os.dup(0) for _ in range(4)]
        syscalls.close_range(found[1], found[2])
        return [os.path.exists(f"/proc/self/fd/{one}") for one in found]

    assert in_child(work) == [True, False, False, True]


def test_a_clone_is_a_child_with_its_own_exit() -> None:
    def work() -> int:
        pid = syscalls.clone(signal.SIGCHLD)
        if pid == 0:
            os._exit(7)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert in_child(work) == 7


def test_a_pidfd_signals_its_process_and_tells_how_it_ended() -> None:
    pid = fork()
    if pid == 0:
        time.sleep(30)
        os._exit(0)
    pidfd = syscalls.pidfd_open(pid)
    try:
        assert not os.get_inheritable(pidfd)
        assert syscalls.pidfd_wait_status(pidfd) is None
        syscalls.pidfd_send_signal(pidfd, signal.SIGTERM)
        _, status = os.waitpid(pid, 0)
        assert os.WTERMSIG(status) == signal.SIGTERM
        # Linux 6.15 and later tell it although it is reaped.
        assert syscalls.pidfd_wait_status(pidfd) in (status, None)
        with pytest.raises(ProcessLookupError):
            syscalls.pidfd_send_signal(pidfd, signal.SIGTERM)
    finally:
        os.close(pidfd)


def test_a_filter_is_installed_and_cannot_be_taken_back() -> None:
    # linux/bpf_common.h: BPF_RET | BPF_K with SECCOMP_RET_ALLOW.
    allow = bytes.fromhex("06000000") + (0x7FFF0000).to_bytes(4, "little")

    def work() -> str:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.install_seccomp_filter(allow)()
        with open("/proc/self/status", encoding="ascii") as file:
            return next(line.split()[1] for line in file if line.startswith("Seccomp:"))

    assert in_child(work) == "2"


def test_a_broken_filter_is_refused() -> None:
    def work() -> str:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        try:
            syscalls.install_seccomp_filter(b"\xff" * 8)()
        except OSError as error:
            return str(error)
        return "installed"

    assert "prctl(PR_SET_SECCOMP)" in in_child(work)
