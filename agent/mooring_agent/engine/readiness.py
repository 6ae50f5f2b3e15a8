# SPDX-License-Identifier: Apache-2.0
"""Whether a container answers on its ports yet: its network namespace's sockets, proc_pid_net(5).

Looking there, and not connecting, troubles nobody: a program that has not said listen(2) refuses, one that
has queues what comes, and none sees a connection that was only a question.
"""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Collection, Iterator
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN of <net/tcp_states.h>
_PROC = Path("/proc")

Port = tuple[str, int]
"""Protocol, port of the container."""


def answering(pid: int, ports: Collection[Port], proc: Path = _PROC) -> frozenset[Port]:
    """Those of `ports` that a program in the network namespace of process `pid` listens on, for others than
    itself; none if the process has ended.
    """
    found: set[Port] = set()
    for protocol in {protocol for protocol, _ in ports}:
        try:
            listening = set(_listening(proc / str(pid) / "net", protocol))
        except ProcessLookupError:
            return frozenset()
        found |= {(protocol, port) for one, port in ports if one == protocol and port in listening}
    return frozenset(found)


def _listening(net: Path, protocol: str) -> Iterator[int]:
    if protocol == "sctp":
        for fields in _lines(net / "sctp/eps"):
            yield int(fields[5])  # LPORT
        return
    for table in (protocol, f"{protocol}6"):
        for fields in _lines(net / table):
            address, _, port = fields[1].partition(":")
            if (protocol != "tcp" or fields[3] == _LISTEN) and not _address(address).is_loopback:
                yield int(port, 16)


def _lines(path: Path) -> list[list[str]]:
    try:
        text = path.read_text()
    except FileNotFoundError:  # a kernel without IPv6 or SCTP, or the process is gone
        return []
    return [line.split() for line in text.splitlines()[1:]]


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    if len(words) == 1:
        return ipaddress.IPv4Address(words[0])
    address = ipaddress.IPv6Address(b"".join(words))
    return address.ipv4_mapped or address
