# SPDX-License-Identifier: Apache-2.0
"""Kernel parameters of a container, sysctl(8): those alone that a namespace of its own has."""

from __future__ import annotations

import re
from collections.abc import Mapping

from mooring_agent.engine.resources.options import Pairs, refusal

_NAME = re.compile(r"[a-z0-9_-]+(?:[./][a-zA-Z0-9_-]+)+")
# Documentation/admin-guide/sysctl/kernel.rst: what ipc/ipc_sysctl.c keeps for each IPC namespace.
_IPC = (
    "kernel.auto_msgmni", "kernel.msg_next_id", "kernel.msgmax", "kernel.msgmnb", "kernel.msgmni",
    "kernel.sem", "kernel.sem_next_id", "kernel.shm_next_id", "kernel.shm_rmid_forced", "kernel.shmall",
    "kernel.shmmax", "kernel.shmmni",
)  # fmt: skip
_IPC_TREE = "fs.mqueue."
_NETWORK_TREE = "net."


class Sysctls(Pairs):
    """Parameters by their names with dots; a slash is taken for one."""

    def __init__(self) -> None:
        super().__init__("kernel parameters")

    def parse(self, value: object, where: str) -> Mapping[str, str] | None:
        """See `Type.parse`."""
        given = super().parse(value, where) or {}
        normal: dict[str, str] = {}
        for name, setting in given.items():
            dotted = name.replace("/", ".") if "." not in name else name
            if not _NAME.fullmatch(dotted) or namespace_of(dotted) is None:
                raise refusal(
                    f"a name in {where}",
                    name,
                    "a parameter that containers have for themselves: net.…, fs.mqueue.…, kernel.msg…, "
                    "kernel.sem or kernel.shm…; what holds for the whole host is set on the host",
                )
            normal[dotted] = setting.strip()
        return dict(sorted(normal.items()))


def namespace_of(name: str) -> str | None:
    """The namespace that has the parameter `name`, "net" or "ipc"; None where it is the host's."""
    if name.startswith(_NETWORK_TREE):
        return "net"
    if name in _IPC or name.startswith(_IPC_TREE):
        return "ipc"
    return None
