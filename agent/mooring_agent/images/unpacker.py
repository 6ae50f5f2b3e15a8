# SPDX-License-Identifier: Apache-2.0
"""The process in which layers are unpacked, one after the other; images/unpacking.py starts it.

It is apart because the system calls of ten thousand small files, and the Python between them, would otherwise
share the agent's one interpreter lock with its event loop. It lives as long as the socket to the agent, and
imports nothing beyond the standard library and what it needs to unpack.

The socket is SOCK_SEQPACKET, with a JSON object a packet. A request comes with the reading end of a pipe with
the archive and, where the implied parents are to be written down, with a file for them. It is answered by
`{"ready": true}`, then `{"position": bytes}` now and then, at last by `{"applied": …}` or `{"error": …}`;
after an error the process ends.
"""

from __future__ import annotations

import errno
import gc
import json
import os
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mooring_agent import __version__
from mooring_agent.errors import MooringError
from mooring_agent.images.layers import Limits, apply_layer
from mooring_agent.images.pipeline import Inflater
from mooring_agent.images.stream import Compression
from mooring_agent.linux.syscalls import sched_setattr
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle

_REQUEST_MAX = 1 << 18  # bytes; one names the directories of up to some hundred layers
_NICE = 15  # containers that start meanwhile come first
# Nanoseconds, the least there is. A start is a chain of short works of several processes, and each would wait
# for the end of a slice, which are 1.4 ms and more (kernel/sched/fair.c, RUN_TO_PARITY). Since Linux 6.12.
_SLICE = 100_000
_INTERVAL = 1.0  # seconds between two words of how far it is


def main(descriptor: int) -> int:
    """Serve the agent at the other end of the socket `descriptor`; returns when that is closed."""
    _step_back()
    os.umask(0)
    gc.freeze()
    gc.disable()  # nothing here makes cycles, and ten thousand members make many objects
    with closing(Inflater(descriptor)) as inflater:
        control = socket.socket(fileno=descriptor)
        threading.Thread(
            target=_leave_with_agent, args=(descriptor,), name="mooring-watch", daemon=True
        ).start()
        while True:
            packet, descriptors, _, _ = socket.recv_fds(control, _REQUEST_MAX, 2)
            if not packet:
                return 0
            if not _serve(control, inflater, json.loads(packet), *descriptors):
                return 1


def _step_back() -> None:
    """Have all others come first, at no cost where there are none; what is begun later inherits it."""
    try:
        sched_setattr(os.SCHED_BATCH, 0, _NICE, 0, _SLICE, 0, 0)
    except OSError:  # in a sandbox that does not know the call
        os.nice(_NICE)


def _leave_with_agent(descriptor: int) -> None:
    """End this process when the agent has: nobody would take its answer, or remove what it made."""
    poller = select.poll()
    poller.register(descriptor, select.POLLRDHUP)
    poller.poll()
    os._exit(1)


def _serve(
    control: socket.socket, inflater: Inflater, request: dict[str, Any], source: int, note: int | None = None
) -> bool:
    with ExitStack() as stack:
        stack.callback(os.close, source)
        implied = stack.enter_context(open(note, "wb")) if note is not None else None
        if request["version"] != __version__:
            return False  # the file that this process was started from has been replaced
        _tell(control, {"ready": True})
        target = UnpackTarget(
            Path(request["directory"]),
            WhiteoutStyle(request["whiteouts"]),
            tuple(map(Path, request["parents"])),
        )
        try:
            with closing(inflater.read(source, Compression(request["compression"]))) as plain:
                applied = apply_layer(
                    _telling(plain, control),
                    target,
                    Limits(**request["limits"]),
                    digest=inflater,
                    exact_modes=True,
                    implied=implied,
                )
        except MooringError as error:
            kind = type(error).__name__
            _tell(control, {"error": {"kind": kind, "message": error.message, "code": error.code}})
            return False
        except OSError as error:
            number = error.errno or errno.EIO
            _tell(control, {"error": {"errno": number, "message": error.strerror or str(error)}})
            return False
        _tell(control, {"applied": asdict(applied)})
        return True


def _telling(chunks: Iterator[memoryview], control: socket.socket) -> Iterator[memoryview]:
    """Pass chunks on, and tell the agent how far they are: silence means that it is stuck."""
    position, told = 0, time.monotonic()
    for chunk in chunks:
        position += len(chunk)
        now = time.monotonic()
        if now - told >= _INTERVAL:
            told = now
            _tell(control, {"position": position})
        yield chunk


def _tell(control: socket.socket, message: dict[str, Any]) -> None:
    control.send(json.dumps(message).encode())
