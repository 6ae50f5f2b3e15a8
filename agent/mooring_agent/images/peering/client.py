# SPDX-License-Identifier: Apache-2.0
"""Asking the peers of this host: who has a blob, and its bytes. What fails is left alone for a while."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass

from mooring_agent.errors import MooringError
from mooring_agent.images.peering.election import NOTHING, Answer, Holds
from mooring_agent.images.peering.settings import PeerTls
from mooring_agent.images.registry.connections import Broken, ConnectionPool, Limits, Response
from mooring_agent.images.registry.settings import Tls, TlsSettings, file_stamp

_log = logging.getLogger(__name__)

_ASKERS = 16  # peers that are asked at a time
_MAX_ERROR = 64 << 10  # bytes of an error's document


@dataclass(frozen=True, slots=True)
class Patience:
    """How long peers are given, in seconds, before the next one is asked or the registry.

    `connect` and `stall` are those of a connection. One that sends fewer than `pace` bytes within `window`
    is slow. A blob is waited for while it comes nearer within `still`, in all `wait` and a second for each
    `pace_of_others` bytes. A peer that failed is left alone for `rest`, one that lied for `shun`.
    """

    connect: float = 2.0
    stall: float = 5.0
    pace: int = 1 << 20
    window: float = 4.0
    poll: float = 2.0
    still: float = 15.0
    wait: float = 60.0
    pace_of_others: int = 4 << 20
    rest: float = 30.0
    shun: float = 600.0


class PeerFailed(Exception):
    """A peer does not send a blob as it should; the message says how."""


class PeerClient:
    """Connections to the peers. Safe for threads."""

    def __init__(self, tls: PeerTls | None, patience: Patience) -> None:
        self._certificates, self.patience = tls, patience
        limits = Limits(patience.connect, patience.stall, patience.stall)
        # Peers are asked directly, whatever proxies the registries need.
        self._pool = ConnectionPool(limits, environment={})
        self._askers = ThreadPoolExecutor(_ASKERS, thread_name_prefix="mooring-ask-peers")
        self._lock = threading.Lock()
        self._until: dict[str, float] = {}  # by peer: when it may be asked again

    def close(self) -> None:
        """End all connections."""
        self._askers.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    def ask(self, name: str, digest: str, peers: Collection[str]) -> dict[str, Answer]:
        """What each peer says of a blob; one that does not answer has none, and is left alone for a while."""
        now = time.monotonic()
        awake = [peer for peer in peers if self._until.get(peer, 0.0) <= now]
        try:
            answers = self._askers.map(lambda peer: self._ask(name, digest, peer), awake)
            return dict(zip(awake, answers, strict=True))
        except (RuntimeError, CancelledError):
            return {}  # closed: the peers are others by now, or the agent is stopping

    def read(self, name: str, digest: str, peer: str, span: range, wait: float) -> Iterator[bytes]:
        """Yield some of a blob's bytes from a peer, which may take `wait` seconds until it has it.

        They are none if it has it not by then, or sends as much as it may. Raises PeerFailed for a peer that
        breaks off, stalls, is slow, or has something else.
        """
        headers = {"Range": f"bytes={span.start}-", "Accept-Encoding": "identity"}
        if wait:
            headers["Prefer"] = f"wait={wait:.0f}"
        response = self._exchange("GET", name, digest, peer, headers, self.patience.stall + wait)
        if response.status in (404, 429, 503):
            _finish(response)
            return
        with response:
            whole = response.status == 200 and not span.start
            if not whole and response.status != 206:
                raise PeerFailed(f"it answers with status {response.status}")
            if response.length != len(span):
                raise PeerFailed(f"it would send {response.length} bytes, expected {len(span)}")
            yield from self._paced(response)

    def _paced(self, response: Response) -> Iterator[bytes]:
        began, came = time.monotonic(), 0
        while True:
            try:
                data = response.read()
            except Broken as error:
                raise PeerFailed(str(error)) from error
            if not data:
                return
            yield data
            came += len(data)
            now = time.monotonic()
            if now - began > self.patience.window:
                if came < self.patience.pace and response.length:
                    raise PeerFailed(f"only {came} bytes came within {now - began:.1f} s")
                began, came = now, 0

    def leave_alone(self, peer: str, why: str, *, lied: bool = False) -> None:
        """Ask a peer nothing for a while."""
        seconds = self.patience.shun if lied else self.patience.rest
        with self._lock:
            until = time.monotonic() + seconds
            known = self._until.get(peer, 0.0)
            self._until[peer] = max(until, known)
        _log.warning("peer %s is not asked for %g s: %s", peer, seconds, why)

    def _ask(self, name: str, digest: str, peer: str) -> Answer:
        try:
            response = self._exchange("HEAD", name, digest, peer, {}, self.patience.stall)
        except PeerFailed as error:
            self.leave_alone(peer, str(error))
            return NOTHING
        with response:
            try:
                holds = Holds(response.headers.get("Mooring-Blob", "absent"))
            except ValueError:
                return NOTHING  # what a later version may say
            received = response.headers.get("Mooring-Received", "")
            return Answer(holds, int(received[:18]) if received.isascii() and received.isdigit() else 0)

    def _exchange(
        self, method: str, name: str, digest: str, peer: str, headers: dict[str, str], answer: float
    ) -> Response:
        tls = self._tls()
        scheme = "https" if tls.mode is Tls.VERIFY else "http"
        url = f"{scheme}://{peer}/v2/{name}/blobs/{digest}"
        try:
            return self._pool.exchange(method, url, tls, headers, answer=answer)
        except Broken as error:
            raise PeerFailed(str(error)) from error
        except MooringError as error:
            if error.code == "untrusted_certificate":
                raise PeerFailed(
                    "its certificate is not one of the fleet's CA, or not for its name"
                ) from error
            raise PeerFailed(error.message) from error

    def _tls(self) -> TlsSettings:
        tls = self._certificates
        if tls is None:
            return TlsSettings(Tls.OFF)
        files = (tls.ca_file, tls.certificate, tls.key)
        return TlsSettings(
            Tls.VERIFY, (tls.ca_file,), tls.certificate, tls.key, tuple(map(file_stamp, files)), private=True
        )


def _finish(response: Response) -> None:
    """Read an error to its end, so that the connection can be used again."""
    with response:
        try:
            response.document(_MAX_ERROR)
        except Broken:
            pass  # what was to be known is known
