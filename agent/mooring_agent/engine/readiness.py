# SPDX-License-Identifier: Apache-2.0
"""Whether a container answers on its ports yet: its network namespace's sockets, proc_pid_net(5).

Looking there, and not connecting, troubles nobody: a program that has not said listen(2) refuses, one that
has queues what comes, and none sees a connection that was only a question.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..linux.sockettables import lines, receiving

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
            listening = _listening(proc / str(pid) / "net", protocol)
        except ProcessLookupError:
            return frozenset()
        found |= {(protocol, port) for one, port in ports if one == protocol and port in listening}
    return frozenset(found)


def _listening(net: Path, protocol: str) -> set[int]:
    if protocol == "sctp":
        return {int(fields[5]) for fields in lines(net / "sctp/eps")}  # LPORT
    return {port for address, port, _ in receiving(net, protocol) if not address.is_loopback}
