# SPDX-License-Identifier: Apache-2.0
"""Inflating and hashing in a process of their own, which hands over what comes out in memory that both have.

Who writes ten thousand small files holds the interpreter lock most of the time, and threads beside it would
wait for that lock at every piece. The process is forked once, by images/unpacker.py before that has threads,
and serves one stream after the other. It ends with the one that forked it, and after an error.

Between the two is a SOCK_SEQPACKET socket. A stream begins with a packet that names its compression and
brings the descriptor to read from. Each piece is told by a packet with its length, and lies in the next of
the slots in turn; a packet of one byte gives the oldest slot back. The end is a JSON object, `{"digest": …}`
or an error.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import queue
import signal
import socket
import struct
import threading
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Any, NoReturn

from mooring_agent.errors import InvalidSpec, MissingProgram, MooringError, Unavailable
from mooring_agent.images.stream import CHUNK, Compression, decompress
from mooring_agent.linux.syscalls import PR_SET_PDEATHSIG, prctl

_SLOTS = 16  # of CHUNK bytes each: what runs ahead
_DEPTH = 4  # pieces that wait to be hashed
_LENGTH = struct.Struct("<I")
_PACKET = 1 << 14  # bytes; an error's message
_ERRORS: tuple[type[MooringError], ...] = (InvalidSpec, MissingProgram, Unavailable)


class Inflater:
    """The process, seen by the one that forked it; a Digest of the stream that was read last."""

    def __init__(self, unwanted: int) -> None:
        """Fork it; the descriptor `unwanted` is closed there. OSError where the host has no room for it."""
        self._memory = mmap.mmap(-1, _SLOTS * CHUNK)
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._digest = ""
        parent = os.getpid()
        self.pid = os.fork()
        if not self.pid:
            self._socket.close()
            os.close(unwanted)
            _serve_forever(theirs, self._memory, parent)
        theirs.close()

    def read(self, source: int, compression: Compression) -> Generator[memoryview, None, None]:
        """Yield what the file descriptor `source` has, inflated; each piece is good until the next one.

        Raises InvalidSpec for damaged data, MissingProgram, OSError when `source` cannot be read, Unavailable
        when the process was killed.
        """
        try:
            socket.send_fds(self._socket, [compression.encode()], [source])
            memory, start = memoryview(self._memory), 0
            while len(packet := self._socket.recv(_PACKET)) == _LENGTH.size:
                (length,) = _LENGTH.unpack(packet)
                yield memory[start : start + length]
                self._socket.send(b"\0")
                start = (start + CHUNK) % (_SLOTS * CHUNK)
        except ConnectionError:
            packet = b""
        if not packet:
            raise Unavailable(
                f"the process that inflates layers, {self.pid}, was killed: see the kernel's log for a lack "
                "of memory, then try again"
            )
        self._digest = _answer(json.loads(packet))

    def close(self) -> None:
        """Have the process end; no stream can be read afterwards."""
        self._socket.close()

    def update(self, data: object, /) -> None:
        """Nothing: the process has hashed what it told of."""

    def hexdigest(self) -> str:
        """SHA-256 of the last stream, once it is read to its end."""
        return self._digest


def _answer(told: dict[str, Any]) -> str:
    if "digest" in told:
        digest: str = told["digest"]
        return digest
    if "errno" in told:
        raise OSError(told["errno"], told["message"])
    kinds = {kind.__name__: kind for kind in _ERRORS}
    raise kinds.get(told["kind"], Unavailable)(told["message"], code=told["code"])


def _serve_forever(control: socket.socket, memory: mmap.mmap, parent: int) -> NoReturn:
    """What the process does; it never returns into the code that forked it."""
    status = 1
    try:
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == parent:
            while _serve(control, memory):
                pass
            status = 0
    except ConnectionError:
        status = 0  # the other one has ended
    finally:
        os._exit(status)


def _serve(control: socket.socket, memory: mmap.mmap) -> bool:
    """Inflate one stream; False when there is none any more, or after an error."""
    packet, descriptors, _, _ = socket.recv_fds(control, _PACKET, 1)
    if not packet:
        return False
    (source,) = descriptors
    try:
        with closing(ThreadedSha256()) as digest:
            plain = decompress(_chunks(source), Compression(packet.decode()), fast=True)
            with closing(plain):
                taken = _hand_over(plain, digest, control, memory)
            control.send(json.dumps({"digest": digest.hexdigest()}).encode())
        for _ in range(taken):
            control.recv(1)
        return True
    except MooringError as error:
        told: dict[str, Any] = {
            "kind": type(error).__name__,
            "message": error.message[: _PACKET // 8],
            "code": error.code,
        }
    except ConnectionError:
        raise
    except OSError as error:
        told = {"errno": error.errno, "message": error.strerror or str(error)}
    finally:
        os.close(source)
    control.send(json.dumps(told).encode())
    while control.recv(1):  # once this end is closed, what the other sends would hide the error from it
        pass
    return False


def _hand_over(
    plain: Iterator[bytes], digest: ThreadedSha256, control: socket.socket, memory: mmap.mmap
) -> int:
    """Put pieces into the slots, in turn; returns how many of them have not been given back."""
    taken = slot = 0
    for piece in plain:
        digest.update(piece)
        if taken == _SLOTS:
            if not control.recv(1):
                raise ConnectionResetError
            taken -= 1
        memory[slot * CHUNK : slot * CHUNK + len(piece)] = piece
        control.send(_LENGTH.pack(len(piece)))
        taken += 1
        slot = (slot + 1) % _SLOTS
    return taken


def _chunks(source: int) -> Iterator[bytes]:
    while chunk := os.read(source, CHUNK):
        yield chunk


class ThreadedSha256:
    """SHA-256 of what it is given, worked out in a thread; like hashlib's object, read once at the end."""

    def __init__(self, depth: int = _DEPTH) -> None:
        self._queue: queue.Queue[bytes | None] = queue.Queue(depth)
        self._hash = hashlib.sha256()
        self._thread = threading.Thread(target=self._run, name="mooring-sha256", daemon=True)
        self._thread.start()

    def update(self, data: bytes) -> None:
        """Add some bytes, which must not change any more."""
        self._queue.put(data)

    def hexdigest(self) -> str:
        """The digest of all of them; nothing can be added afterwards."""
        self.close()
        return self._hash.hexdigest()

    def close(self) -> None:
        """End the thread. May be called twice."""
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._hash.update(data)
