# SPDX-License-Identifier: Apache-2.0
"""Network devices that move into a container, between network namespaces of the test's own."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from harness.forked import fork, in_child
from harness.waiting import PATIENCE
from mooring_agent.linux import syscalls
from mooring_agent.linux.rtnetlink import socket_inside
from mooring_agent.runtime.netdevices import move_devices

pytestmark = pytest.mark.root


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10 * PATIENCE)


def between_namespaces(work: Callable[[int], Any]) -> Any:
    """What `work(pid)` returns, with a pair of devices here and another network namespace around `pid`."""

    def child() -> Any:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        ip("link", "add", "mine", "type", "veth", "peer", "name", "other")
        ready, said = os.pipe()
        pid = fork()
        if pid == 0:
            syscalls.unshare(syscalls.CLONE_NEWNET)
            os.write(said, b".")
            signal.pause()
        try:
            os.read(ready, 1)
            return work(pid)
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    return in_child(child)


@pytest.mark.parametrize(("wanted", "found"), [("mine", "mine"), ("inner0", "inner0"), ("in%d", "in0")])
def test_a_device_comes_with_its_addresses_and_is_up(wanted: str, found: str) -> None:
    def work(pid: int) -> list[Any]:
        ip("address", "add", "10.1.2.3/24", "brd", "10.1.2.254", "dev", "mine")
        ip("address", "add", "fd00::5/64", "dev", "mine", "nodad")
        move_devices((("mine", wanted),), pid)
        with socket_inside(pid) as inside:
            link = inside.link(found)
            assert link is not None
            addresses = [
                f"{one.address}/{one.prefix_length}"
                for family in (socket.AF_INET, socket.AF_INET6)
                for one in inside.addresses(family)
                if one.ifindex == link.ifindex and not one.address.startswith("fe80")
            ]
            return [addresses, link.up]

    assert between_namespaces(work) == [["10.1.2.3/24", "fd00::5/64"], True]


@pytest.mark.parametrize(
    ("device", "number"), [(("missing", "x"), errno.ENODEV), (("mine", "lo"), errno.EEXIST)]
)
def test_what_cannot_be_moved_is_named(device: tuple[str, str], number: int) -> None:
    def work(pid: int) -> list[Any]:
        try:
            move_devices((device,), pid)
        except OSError as error:
            return [error.errno, error.strerror]
        return []

    found = between_namespaces(work)
    assert found[0] == number
    assert device[0] in found[1]
