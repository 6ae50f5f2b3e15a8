# SPDX-License-Identifier: Apache-2.0
"""The sockets of a network namespace as proc_pid_net(5) lists them."""

from __future__ import annotations

import ipaddress
import sys
from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN of <net/tcp_states.h>

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def receiving(net: Path, protocol: str, *, ipv4: bool = True) -> Iterator[tuple[Address, int, list[str]]]:
    """The sockets of TCP that listen, or all of UDP: address, port and the line's fields. What IPv6 sockets
    have of IPv4 is IPv4. `net` is a /proc/PID/net.
    """
    for table in (protocol, f"{protocol}6") if ipv4 else (f"{protocol}6",):
        for fields in lines(net / table):
            if protocol != "tcp" or fields[3] == _LISTEN:
                address, _, port = fields[1].partition(":")
                yield _address(address), int(port, 16), fields


def lines(path: Path) -> list[list[str]]:
    """The fields of each line of a table; none of a protocol that the kernel has not, or of no process."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return []
    return [line.split() for line in text.splitlines()[1:]]


def _address(text: str) -> Address:
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    if len(words) == 1:
        return ipaddress.IPv4Address(words[0])
    address = ipaddress.IPv6Address(b"".join(words))
    return address.ipv4_mapped or address
