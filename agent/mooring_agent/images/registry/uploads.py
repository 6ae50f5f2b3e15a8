# SPDX-License-Identifier: Apache-2.0
"""Sending a blob (distribution-spec, "Pushing blobs"), taken up where it broke off.

A small one goes in one PUT. A larger one goes by PATCH, in one piece or in several if the registry's settings
or a proxy ahead of it want that, and after a failure the registry is asked how much of it has arrived.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import quote, urlsplit

from mooring_agent.errors import InvalidSpec, MooringError, Unavailable
from mooring_agent.images.content import Descriptor
from mooring_agent.images.registry.connections import Broken, Mismatch, Response, Unreachable
from mooring_agent.images.registry.retrying import TEMPORARY
from mooring_agent.images.registry.session import Session, retry_after

OpenChunks = Callable[[int], Iterator[bytes]]
"""Gives the blob's bytes from an offset on; may be called several times."""

_MONOLITHIC = 4 << 20  # bytes up to which a blob goes in one request
_PIECE = 1 << 16  # bytes sent at once: a time limit of sockets is for all that is given to them at once
_PROGRESS = 1 << 20  # bytes after which a failure counts as the first again
_ANSWER = 60.0  # seconds that a registry may take over what it got, and more by its size:
_ANSWER_RATE = 10 << 20  # bytes a second; some move a blob in their storage before they answer
_LOST = (404, 416)  # the registry knows of no such upload any more, or of another offset
_RANGE = re.compile(r"(?:bytes=)?0-(\d+)")


class _Failed(Exception):
    """An attempt failed in a way that may be mended; `error` is what to say if it is not."""

    def __init__(self, error: MooringError, asked: float | None = None, *, unreachable: bool = False) -> None:
        super().__init__(error.message)
        self.error, self.asked, self.unreachable = error, asked, unreachable


class Upload:
    """One blob on its way to one repository. `base` is the path of the repository's blobs at the registry."""

    def __init__(
        self,
        session: Session,
        base: str,
        descriptor: Descriptor,
        open_chunks: OpenChunks,
        what: str,
        scopes: frozenset[str],
    ) -> None:
        self._session, self._base, self._descriptor = session, base, descriptor
        self._open, self._what, self._scopes = open_chunks, what, scopes
        self._location = ""
        self._offset = 0
        self._chunk = 0  # the most bytes of one request, 0 for no limit
        self._gone_on = False  # with an upload of which something may still have been on its way

    def run(self) -> None:
        """Send it, unless the registry has it. Raises what `refused` gives, and Unavailable."""
        if self._is_there():
            return
        retrying, mark = self._session.retrying(), 0
        while True:
            try:
                self._attempt()
            except _Failed as failed:
                if self._offset - mark >= _PROGRESS:
                    retrying, mark = self._session.retrying(), self._offset
                if not retrying.again(failed.asked, unreachable=failed.unreachable):
                    self._cancel()
                    raise failed.error from failed
                if self._recover():
                    return
            except BaseException:
                self._cancel()
                raise
            else:
                return

    def _attempt(self) -> None:
        if not self._location:
            self._start()
        size = self._descriptor.size
        if self._offset == 0 and size <= _MONOLITHIC and not 0 < self._chunk < size:
            self._finish(size)
            return
        while self._offset < size:
            self._patch(min(self._chunk or size, size - self._offset))
        self._finish(0)

    def _start(self) -> None:
        self._offset, self._gone_on = 0, False
        url = f"{self._base}/uploads/"
        with self._session.request(
            "POST", url, self._what, scopes=self._scopes, headers={"Content-Length": "0"}, expect=(202,)
        ) as response:
            self._take_location(response)
            self._chunk = self._session.endpoint.upload_chunk
            minimum = response.headers.get("OCI-Chunk-Min-Length", "")
            if self._chunk and minimum.isascii() and minimum.isdigit():
                self._chunk = max(self._chunk, int(minimum))

    def _patch(self, length: int) -> None:
        start = self._offset
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(length),
            # Without `bytes`: the specification has a form of its own here.
            "Content-Range": f"{start}-{start + length - 1}",
        }
        with self._send("PATCH", self._location, headers, start, length) as response:
            if response.status not in (202, 204):
                raise self._refusal(response)
            self._take_location(response)
            arrived = _arrived(response)
            self._offset = start + length if arrived is None else arrived
        if not start < self._offset <= self._descriptor.size:
            # As if it were lost, so that the upload is begun anew.
            offset, self._offset, self._location = self._offset, 0, ""
            raise _Failed(
                Unavailable(
                    f"{self._what}: {self._session.where} says that {offset} bytes have arrived after bytes "
                    f"{start} to {start + length - 1} were sent: expected the end of these"
                )
            )

    def _finish(self, length: int) -> None:
        joint = "&" if urlsplit(self._location).query else "?"
        url = f"{self._location}{joint}digest={quote(self._descriptor.digest, safe='')}"
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
        with self._send("PUT", url, headers, self._offset, length) as response:
            if response.status not in (201, 204):
                raise self._refusal(response)
        self._location = ""

    def _send(self, method: str, url: str, headers: dict[str, str], start: int, length: int) -> Response:
        def body() -> Iterator[bytes]:
            return self._pieces(start, length)

        try:
            return self._session.once(
                method,
                url,
                self._what,
                scopes=self._scopes,
                headers=headers,
                body=body if length else b"",
                answer=_ANSWER + self._descriptor.size / _ANSWER_RATE,
            )
        except Broken as broken:
            raise self._broken(broken) from broken

    def _pieces(self, start: int, length: int) -> Iterator[bytes]:
        chunks = self._open(start)
        left = length
        try:
            for chunk in chunks:
                view = memoryview(chunk)[:left]
                for index in range(0, len(view), _PIECE):
                    piece = view[index : index + _PIECE]
                    yield bytes(piece)
                    left -= len(piece)
                if not left:
                    return
        except OSError as error:
            # Not to be taken for one of the connection.
            raise Unavailable(
                f"{self._what}: its bytes cannot be read here ({error.strerror or error})"
            ) from error
        finally:
            close = getattr(chunks, "close", None)
            if close is not None:
                close()
        raise InvalidSpec(
            f"{self._what}: it ends {left} bytes ahead of its size of {self._descriptor.size} bytes: it is "
            "damaged here"
        )

    def _recover(self) -> bool:
        """After a failure: find out how far it got. True when all of it is there after all."""
        if self._is_there():
            self._location = ""
            return True
        if not self._location:
            return False
        location, self._location, self._offset = self._location, "", 0
        try:
            with self._session.once("GET", location, self._what, scopes=self._scopes) as response:
                arrived = _arrived(response)
                # What was sent so far is lost where the registry does not say how much it has.
                if response.status in (200, 204) and arrived is not None and arrived <= self._descriptor.size:
                    self._offset, self._location = arrived, location
                    if response.headers.get("Location"):
                        self._location = self._session.resolve_location(response)
        except Broken:
            self._location = location  # the next attempt finds out
        self._gone_on = bool(self._location)
        return False

    def _cancel(self) -> None:
        """Tell the registry that nothing more comes; if that fails, it drops the upload by its age."""
        if self._location:
            try:
                self._session.once("DELETE", self._location, self._what, scopes=self._scopes).close()
            except (Broken, MooringError):
                pass  # the reason for giving up is what is told

    def _is_there(self) -> bool:
        return blob_is_there(self._session, self._base, self._descriptor.digest, self._what, self._scopes)

    def _take_location(self, response: Response) -> None:
        try:
            self._location = self._session.resolve_location(response)
        except Broken as broken:
            raise self._broken(broken) from broken

    def _broken(self, broken: Broken) -> _Failed | MooringError:
        error = self._session.failed(self._what, broken, 1)
        return (
            error
            if isinstance(broken, Mismatch)
            else _Failed(error, unreachable=isinstance(broken, Unreachable))
        )

    def _refusal(self, response: Response) -> _Failed | MooringError:
        asked, status = retry_after(response), response.status
        error = self._session.refusal(response, self._what)
        if status == 400 and self._gone_on:
            # Bytes of a request that broke off have arrived after all, and twice: once more from the start.
            self._cancel()
            self._location, self._offset = "", 0
            return _Failed(error, asked)
        return _Failed(error, asked) if status in TEMPORARY or status in _LOST else error


def blob_is_there(session: Session, base: str, digest: str, what: str, scopes: frozenset[str]) -> bool:
    """Whether a repository has a blob."""
    with session.request("HEAD", f"{base}/{digest}", what, scopes=scopes, expect=(200, 404)) as response:
        return response.status == 200


def _arrived(response: Response) -> int | None:
    """Bytes that a registry has of an upload, None when it does not say.

    Of one that is empty it says 0-0, which is also one of one byte: as Docker's does, it is taken as empty.
    """
    found = _RANGE.fullmatch(response.headers.get("Range", "").strip())
    if found is None:
        return None
    last = int(found[1])
    return last + 1 if last else 0
