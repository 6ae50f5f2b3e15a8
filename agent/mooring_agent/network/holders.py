# SPDX-License-Identifier: Apache-2.0
"""Which process of the host has a port, for the sentence of an error: proc(5), /proc/net/tcp and its like."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

_LISTEN = "0A"  # TCP_LISTEN of <net/tcp_states.h>
_SOCKET = re.compile(r"socket:\[(\d+)\]")


def port_holder(protocol: str, host_ip: str, port: int, proc: Path = Path("/proc")) -> str:
    """Who has a port of the host, such as "nginx (process 812)", or "another program of the host"."""
    inodes = set(_inodes(protocol, host_ip, port, proc))
    if inodes:
        for process in proc.glob("[0-9]*"):
            if inodes & _sockets(process):
                with contextlib.suppress(OSError):
                    return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return "another program of the host"


def _inodes(protocol: str, host_ip: str, port: int, proc: Path) -> Iterator[str]:
    wanted = ipaddress.ip_address(host_ip or "0.0.0.0")
    for table in (f"{protocol}6",) if wanted.version == 6 else (protocol, f"{protocol}6"):
        try:
            lines = (proc / "net" / table).read_text().splitlines()[1:]
        except FileNotFoundError:  # a kernel without IPv6, or a protocol that has no such table
            continue
        for line in lines:
            fields = line.split()
            address, _, number = fields[1].partition(":")
            if int(number, 16) != port or (protocol == "tcp" and fields[3] != _LISTEN):
                continue
            local = _address(address)
            if local is None or local.is_unspecified or wanted.is_unspecified or local == wanted:
                yield fields[9]


def _address(text: str) -> ipaddress.IPv4Address | None:
    """The IPv4 address of a line; None for an IPv6 one that is not unspecified, whose port still counts."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    if len(words) == 1:
        return ipaddress.IPv4Address(words[0])
    mapped = ipaddress.IPv6Address(b"".join(words))
    return ipaddress.IPv4Address(0) if mapped.is_unspecified else mapped.ipv4_mapped


def _sockets(process: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # it ended, or is not ours to look at
        for entry in os.scandir(process / "fd"):
            with contextlib.suppress(OSError):
                match = _SOCKET.fullmatch(os.readlink(entry.path))
                if match:
                    found.add(match[1])
    return found
