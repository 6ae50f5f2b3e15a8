# SPDX-License-Identifier: Apache-2.0
"""More containers on one network than a bridge has ports."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration.network.conftest import Serve
from integration.network.topology import PROGRAM_TIMEOUT, Host, Namespace

pytestmark = pytest.mark.root

MANY = 1_100
BRIDGE_PORTS = 1_023  # BR_MAX_PORTS of net/bridge/br_private.h, without number 0

# Makes network namespaces, each held by a child that does nothing, and tells their process ids.
_NAMESPACES = """
import ctypes, os, signal, sys
unshare = ctypes.CDLL(None).unshare
CLONE_NEWNET = 0x40000000
pids = []
for _ in range(int(sys.argv[1])):
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        if unshare(CLONE_NEWNET) != 0:
            os._exit(1)
        os.write(told, b".")
        signal.pause()
    os.read(ready, 1)
    os.close(ready)
    os.close(told)
    pids.append(pid)
print(*pids, flush=True)
sys.stdin.read()
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


@contextmanager
def namespaces(number: int) -> Iterator[list[int]]:
    """Process ids of so many network namespaces."""
    holder = subprocess.Popen(
        [sys.executable, "-c", _NAMESPACES, str(number)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout is not None
        yield [int(pid) for pid in holder.stdout.readline().split()]
    finally:
        holder.communicate(timeout=6 * PROGRAM_TIMEOUT)


def links(host: Host) -> list[dict[str, str]]:
    found = json.loads(host.run("ip", "-json", "link"))
    assert isinstance(found, list)
    return found


def inside(pid: int) -> Namespace:
    return Namespace(Path(f"/proc/{pid}/ns/net"))


def test_more_containers_than_a_bridge_has_ports(host: Host, serve: Serve) -> None:
    network = host.call("create", "large", {"subnet": "10.60.0.0/16", "subnet6": "fd00:60::/64"})
    bridge = network["bridge"]
    with namespaces(MANY) as pids:
        for number, pid in enumerate(pids):
            host.call("allocate", "large", f"c{number}")
            host.call("connect", f"c{number}", "large", pid)

        masters = [link["master"] for link in links(host) if link["ifname"].startswith("mv")]
        assert len(masters) == MANY
        assert set(masters) == {bridge, f"{bridge}x1"}
        assert max(masters.count(name) for name in set(masters)) <= BRIDGE_PORTS
        assert host.call("check") == []

        first, last = ({**host.call("endpoints", f"c{number}")[0]} for number in (0, MANY - 1))
        serve(inside(pids[-1]), 80, "last")
        serve(inside(pids[-1]), 81, "last", address="::")
        assert inside(pids[0]).ask(last["ipv4"], 80) == ["last", first["ipv4"]]
        assert inside(pids[0]).ask(last["ipv6"], 81) == ["last", first["ipv6"]]
        assert host.ask(last["ipv4"], 80)[0] == "last"

        host.kill_agent()
        host.run("ip", "link", "delete", f"{bridge}x1u")
        assert host.start_agent() == [f"bridge {bridge} of network large has lost its trunk to {bridge}x1"]
        assert host.call("check") == []
        assert inside(pids[0]).ask(last["ipv4"], 80) == ["last", first["ipv4"]]

        host.run("ip", "link", "delete", f"{bridge}x1")
        found = host.call("repair")
        assert len(found) == masters.count(f"{bridge}x1")
        assert host.call("check") == []
        assert inside(pids[0]).ask(last["ipv4"], 80) == ["last", first["ipv4"]]
        for number in range(MANY):
            host.call("release", f"c{number}")
        host.call("remove", "large")
        assert [name for name in host.links() if name.startswith("mr")] == []
