# SPDX-License-Identifier: Apache-2.0
"""Numbers of this host that one test has for itself, whatever tests in other processes take meanwhile."""

from __future__ import annotations

import random
import socket

# Below the ports that the kernel gives to whoever connects, ip_local_port_range: none is taken in between.
_PORTS = range(20000, 32000)

_claims: list[socket.socket] = []


def claim(name: str) -> bool:
    """Take `name` for the life of this process; False if a process of tests on this host has it already."""
    holder = socket.socket(socket.AF_UNIX)
    try:
        holder.bind(f"\0mooring-tests/{name}")  # abstract: the kernel gives it free with the process
    except OSError:
        holder.close()
        return False
    _claims.append(holder)
    return True


def free_port() -> int:
    """Return a TCP port of loopback on which nobody listens, and which no other test is given."""
    for port in random.SystemRandom().sample(_PORTS, 200):
        if not claim(f"port/{port}"):
            continue
        try:
            with socket.create_server(("127.0.0.1", port), reuse_port=False):
                return port
        except OSError:
            continue
    raise AssertionError(f"none of 200 ports of {_PORTS} is free on 127.0.0.1")
