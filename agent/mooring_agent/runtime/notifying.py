# SPDX-License-Identifier: Apache-2.0
"""A seccomp filter that asks somebody else: SCMP_ACT_NOTIFY and its listener.

runtime-spec 1.2, config-linux.md Seccomp, `listenerPath` and The Container Process State.
"""

from __future__ import annotations

import json
import os
import socket

from ..linux import syscalls
from .plan import Process

_VERSION = "1.2.0"


class Notifying:
    """A filter to install, and a connection to its listener: made while the host's paths can still be
    reached, used when the filter is there. A call of it installs the filter.
    """

    def __init__(self, program: bytes, process: Process, state: str) -> None:
        self._install = syscalls.seccomp_filter_with(
            program, process.seccomp_flags | syscalls.SECCOMP_FILTER_FLAG_NEW_LISTENER
        )
        self._metadata = process.listener_metadata
        self._state = json.loads(state) if state else {}
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._socket.connect(process.listener)
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, f"seccomp listener {process.listener}: {error.strerror}") from None
        self._message = b""
        self.for_process(int(os.readlink("/proc/self")))

    @property
    def connection(self) -> int:
        """The descriptor that must stay open until the filter is installed."""
        return self._socket.fileno()

    def for_process(self, pid: int) -> None:
        """Say that the process to become is `pid`, in the host's numbers."""
        state = {"ociVersion": _VERSION, "status": "creating", **self._state, "pid": pid}
        message = {
            "ociVersion": state["ociVersion"],
            "fds": ["seccompFd"],
            "pid": pid,
            "metadata": self._metadata,
            "state": state,
        }
        self._message = json.dumps(message).encode()

    def __call__(self) -> None:
        """Install the filter and hand its descriptor over. Makes one system call more, sendmsg(2)."""
        listener = self._install()
        socket.send_fds(self._socket, [self._message], [listener])
