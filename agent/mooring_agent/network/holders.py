# SPDX-License-Identifier: Apache-2.0
"""Which process of the host has a port, for the sentence of an error: proc(5), /proc/net/tcp and its like."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ..linux.sockettables import receiving

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
    for local, number, fields in receiving(proc / "net", protocol, ipv4=wanted.version == 4):
        if number == port and (local.is_unspecified or wanted.is_unspecified or local == wanted):
            yield fields[9]


def _sockets(process: Path) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # it ended, or is not ours to look at
        for entry in os.scandir(process / "fd"):
            with contextlib.suppress(OSError):
                match = _SOCKET.fullmatch(os.readlink(entry.path))
                if match:
                    found.add(match[1])
    return found
