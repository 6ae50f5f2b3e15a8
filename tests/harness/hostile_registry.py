# SPDX-License-Identifier: Apache-2.0
"""A registry that misbehaves on command: it stalls, breaks off, lies, redirects, refuses and never ends.

It serves the distribution API from memory, with uploads that can be taken up again and with bearer tokens.
What is to go wrong is said by `fault`, for the next requests that match.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

Action = Callable[["Handler"], bool]
"""Does something with a request; False lets it go on as usual."""

_BODY = 64 << 10  # bytes written at once


@dataclass(slots=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: Message

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


@dataclass(slots=True)
class Tokens:
    """That bearer tokens are wanted, and from whom. Those that are `good` are taken."""

    users: dict[str, str] = field(default_factory=dict)
    identity_token: str = ""
    realm: str = ""
    good: set[str] = field(default_factory=set)
    asked: list[dict[str, Any]] = field(default_factory=list)


@dataclass(slots=True)
class _Fault:
    pattern: re.Pattern[str]
    action: Action
    times: int


class HostileRegistry:
    """`with HostileRegistry() as registry`; `host` is its name for an image."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[str, bytes]] = {}
        self.tag_pages: list[list[str]] = [[]]
        self.uploads: dict[str, bytearray] = {}
        # Uploads are taken side by side and go when they are whole: their count names none.
        self.numbers = itertools.count()
        self.asked: list[Asked] = []
        self.tokens: Tokens | None = None
        self.basic: tuple[str, str] | None = None
        self.chunk_minimum = 0
        self.received = 0
        """Bytes of bodies of PATCH and PUT of blobs."""
        self.connections = 0
        """How many there have been."""
        self.over = threading.Event()
        self.open: set[socket.socket] = set()
        self._faults: list[_Fault] = []
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.registry = self
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def end_connections(self) -> None:
        """End those that are open, as a server does after some idle time."""
        with self._lock:
            for connection in self.open:
                connection.shutdown(socket.SHUT_RDWR)

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def add_blob(self, data: bytes) -> str:
        digest = digest_of(data)
        self.blobs[digest] = data
        return digest

    def add_manifest(self, tag: str, media_type: str, document: dict[str, Any]) -> str:
        body = json.dumps(document).encode()
        digest = digest_of(body)
        self.manifests[tag] = self.manifests[digest] = (media_type, body)
        return digest

    def fault(self, pattern: str, action: Action, times: int = 1) -> None:
        """Let the next requests of which `METHOD PATH` matches be answered by `action`."""
        self._faults.append(_Fault(re.compile(pattern), action, times))

    def forget_faults(self) -> None:
        """Behave from now on."""
        with self._lock:
            self._faults.clear()

    def enter(self, connection: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            self.open.add(connection)

    def leave(self, connection: socket.socket) -> None:
        with self._lock:
            self.open.discard(connection)

    def take_fault(self, request: str) -> Action | None:
        with self._lock:
            for fault in self._faults:
                if fault.times and fault.pattern.match(request):
                    fault.times -= 1
                    return fault.action
        return None

    def count(self, pattern: str) -> int:
        return sum(1 for asked in self.asked if re.match(pattern, str(asked)))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    registry: HostileRegistry

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go are what is tested here."""


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: _Server
    disable_nagle_algorithm = True
    timeout = 30

    @property
    def registry(self) -> HostileRegistry:
        return self.server.registry

    def setup(self) -> None:
        super().setup()
        self.registry.enter(self.connection)

    def finish(self) -> None:
        self.registry.leave(self.connection)
        super().finish()

    def log_message(self, format: str, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        if "Content_Length" not in headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        body = json.dumps({"errors": [{"code": code, "message": code.lower()}]}).encode()
        self.answer(status, body, **headers)

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        registry = self.registry
        registry.asked.append(Asked(self.command, self.path, self.headers))
        action = registry.take_fault(f"{self.command} {self.path}")
        if action is not None and action(self):
            self._drop_body()
            return
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._token()
        elif self._is_allowed():
            self._serve(parts.path, parse_qs(parts.query))
        self.wfile.flush()

    def _drop_body(self) -> None:
        if int(self.headers.get("Content-Length", 0)):
            self.close_connection = True

    def _is_allowed(self) -> bool:
        tokens, sent = self.registry.tokens, self.headers.get("Authorization", "")
        if self.registry.basic is not None:
            if sent == _basic(*self.registry.basic):
                return True
            self.close_connection = True
            self.refuse(401, "UNAUTHORIZED", WWW_Authenticate='Basic realm="tests"')
            return False
        if tokens is None:
            return True
        if sent.removeprefix("Bearer ") in tokens.good:
            return True
        realm = tokens.realm or f"{self.registry.url}/token"
        self.close_connection = True
        self.refuse(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{realm}",service="tests"')
        return False

    def _token(self) -> None:
        tokens = self.registry.tokens
        assert tokens is not None
        query = parse_qs(urlsplit(self.path).query)
        if self.command == "POST":
            query = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        tokens.asked.append({"method": self.command, **query})
        if self.command == "POST":
            allowed = query.get("refresh_token") == [tokens.identity_token]
        else:
            sent = self.headers.get("Authorization", "")
            allowed = not tokens.users or any(sent == _basic(*pair) for pair in tokens.users.items())
        if not allowed:
            self.refuse(401, "UNAUTHORIZED")
            return
        name = f"token-{len(tokens.asked)}"
        tokens.good.add(name)
        answer: dict[str, Any] = {"token": name, "expires_in": 300}
        if "offline_token" in query:
            answer["refresh_token"] = tokens.identity_token
        self.answer(200, json.dumps(answer).encode())

    def _serve(self, path: str, query: dict[str, list[str]]) -> None:
        registry = self.registry
        if path == "/v2/":
            self.answer(200, b"{}")
        elif (match := re.fullmatch(r"/v2/(.+)/blobs/uploads/(.*)", path)) is not None:
            self._upload(match[1], match[2], query)
        elif (match := re.fullmatch(r"/v2/.+/blobs/(.+)", path)) is not None:
            data = registry.blobs.get(match[1])
            if data is None:
                self.refuse(404, "BLOB_UNKNOWN")
                return
            self.send_blob(data)
        elif (match := re.fullmatch(r"/v2/.+/manifests/(.+)", path)) is not None:
            self._manifest(match[1])
        elif path.endswith("/tags/list"):
            page = int(query.get("page", ["0"])[0])
            headers = {}
            if page + 1 < len(registry.tag_pages):
                headers["Link"] = f'<{path}?page={page + 1}>; rel="next"'
            body = json.dumps({"name": "x", "tags": registry.tag_pages[page]}).encode()
            self.answer(200, body, **headers)
        else:
            self.refuse(404, "NOT_FOUND")

    def send_blob(self, data: bytes) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None:
            self.answer(200, data)
            return
        start = int(wanted[1])
        self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")

    def _manifest(self, name: str) -> None:
        if self.command == "PUT":
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.registry.manifests[name] = (self.headers["Content-Type"], body)
            self.answer(201, Docker_Content_Digest=digest_of(body))
            return
        found = self.registry.manifests.get(name)
        if found is None:
            self.refuse(404, "MANIFEST_UNKNOWN")
            return
        self.answer(200, found[1], Content_Type=found[0], Docker_Content_Digest=digest_of(found[1]))

    def _upload(self, name: str, session: str, query: dict[str, list[str]]) -> None:
        registry = self.registry
        if self.command == "POST":
            session = f"upload-{next(registry.numbers)}"
            registry.uploads[session] = bytearray()
            minimum = {"OCI_Chunk_Min_Length": str(registry.chunk_minimum)} if registry.chunk_minimum else {}
            self.answer(
                202, b"", Location=f"/v2/{name}/blobs/uploads/{session}?state=1", Range="0-0", **minimum
            )
            return
        held = registry.uploads.get(session)
        if held is None:
            self.close_connection = True
            self.refuse(404, "BLOB_UPLOAD_UNKNOWN")
            return
        location = {"Location": f"/v2/{name}/blobs/uploads/{session}?state=1"}
        if self.command == "GET":
            self.answer(204, b"", Range=f"0-{max(len(held) - 1, 0)}", **location)
            return
        if self.command == "DELETE":
            del registry.uploads[session]
            self.answer(204)
            return
        start = int(self.headers.get("Content-Range", f"{len(held)}-").partition("-")[0])
        if start != len(held):
            self.close_connection = True
            self.refuse(416, "RANGE_INVALID")
            return
        self.receive(held, int(self.headers["Content-Length"]))
        if self.command == "PATCH":
            self.answer(202, b"", Range=f"0-{len(held) - 1}", **location)
            return
        digest = query["digest"][0]
        if digest_of(bytes(held)) != digest:
            self.refuse(400, "DIGEST_INVALID")
            return
        registry.blobs[digest] = bytes(registry.uploads.pop(session))
        self.answer(201, Docker_Content_Digest=digest)

    def receive(self, held: bytearray, length: int) -> None:
        """Take a body; what has come stays there when the client breaks off."""
        while length:
            data = self.rfile.read1(min(length, _BODY))
            if not data:
                raise ConnectionResetError
            held += data
            self.registry.received += len(data)
            length -= len(data)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def stall(after: int = 0) -> Action:
    """Answer nothing, or only the first bytes of a blob, and wait."""

    def act(handler: Handler) -> bool:
        if after:
            _begin(handler, after)
        handler.registry.over.wait(30)
        handler.close_connection = True
        return True

    return act


def break_off(after: int) -> Action:
    """Send the first bytes of a blob as if all were to come, then end the connection."""

    def act(handler: Handler) -> bool:
        _begin(handler, after)
        handler.close_connection = True
        return True

    return act


def hang_up(handler: Handler) -> bool:
    """End the connection without an answer."""
    handler.close_connection = True
    return True


def status(code: int, **headers: str) -> Action:
    """Refuse."""

    def act(handler: Handler) -> bool:
        handler.close_connection = True
        handler.refuse(code, "TESTED", **headers)
        return True

    return act


def redirect(url: str, code: int = 307) -> Action:
    """Send elsewhere; `{path}` stands for the path that was asked for."""

    def act(handler: Handler) -> bool:
        handler.answer(code, Location=url.replace("{path}", handler.path))
        return True

    return act


def ignore_range(handler: Handler) -> bool:
    """Answer with the whole blob, whatever part was asked for."""
    del handler.headers["Range"]
    return False


def break_upload(after: int) -> Action:
    """Take the first bytes of a body, keep them, and end the connection."""

    def act(handler: Handler) -> bool:
        session = urlsplit(handler.path).path.rpartition("/")[2]
        handler.receive(handler.registry.uploads[session], after)
        handler.close_connection = True
        return True

    return act


def endless(chunked: bool) -> Action:
    """Send without end, until the client goes: in chunks, or as a body of unknown length."""

    def act(handler: Handler) -> bool:
        handler.send_response(200)
        handler.send_header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        if chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        piece = b" " * _BODY
        handler.close_connection = True
        while not handler.registry.over.is_set():
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
        return True

    return act


def drip(handler: Handler) -> bool:
    """Send the head of an answer, a byte at a time, without coming to an end."""
    handler.close_connection = True
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while not handler.registry.over.wait(0.05):
        handler.wfile.write(b"x")
    return True


def answer_with(code: int, body: bytes, **headers: str) -> Action:
    """Answer with something of the test's own."""

    def act(handler: Handler) -> bool:
        handler.answer(code, body, **headers)
        return True

    return act


def _begin(handler: Handler, after: int) -> None:
    data = handler.registry.blobs[urlsplit(handler.path).path.rpartition("/")[2]]
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    start = int(wanted[1]) if wanted else 0
    handler.send_response(206 if wanted else 200)
    if wanted:
        handler.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    handler.send_header("Content-Length", str(len(data) - start))
    handler.end_headers()
    handler.wfile.write(data[start : start + after])
    handler.wfile.flush()


def _basic(user: str, password: str) -> str:
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"
