# SPDX-License-Identifier: Apache-2.0
"""A real registry (Debian's docker-registry) on loopback, with what goes over the wire recorded.

A recording proxy stands ahead of it: it forwards bytes as they are, so TLS passes through it, and it counts
them. What was asked for is told by the registry's own access log.
"""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from harness.claims import free_port
from harness.waiting import PATIENCE, eventually

USER, PASSWORD = "sailor", "anchor-aweigh"  # of a registry started with `auth`

# One line a request in the Common Log Format; the last number is the bytes of the answer's body.
_ACCESS = re.compile(r'"(?P<method>[A-Z]+) (?P<path>\S+) HTTP/[\d.]+" (?P<status>\d{3}) (?P<size>\d+)')
_CONFIG = """\
version: 0.1
log:
  level: info
  accesslog:
    disabled: false
storage:
  filesystem:
    rootdirectory: {storage}
  delete:
    enabled: {delete}
  maintenance:
    uploadpurging:
      enabled: false
http:
  addr: 127.0.0.1:{port}
  secret: of-the-tests
"""
_TLS = """\
  tls:
    certificate: {directory}/server.crt
    key: {directory}/server.key
"""
_CLIENT_CA = """\
    clientcas: ["{directory}/ca.crt"]
"""
_AUTH = """\
auth:
  htpasswd:
    realm: tests
    path: {directory}/htpasswd
"""


@dataclass(frozen=True, slots=True)
class Request:
    """One request as the registry logged it; `size` in bytes is that of the answer's body."""

    method: str
    path: str
    status: int
    size: int


@dataclass(slots=True)
class Traffic:
    """Bytes as they went over the wire, with all headers: `sent` to the registry, `received` from it."""

    sent: int = 0
    received: int = 0


class RegistryUnderTest:
    """A registry of one's own; `with RegistryUnderTest() as registry`, or start and stop.

    `auth` asks for USER and PASSWORD, `tls` gives it a certificate for 127.0.0.1 and localhost, signed by the
    CA in `ca_file`; with `client_ca` it wants one of that CA from clients, such as `client_certificate` with
    `client_key`. Without `delete` it lets nothing be deleted. It keeps its storage and address when it is
    stopped and started again.
    """

    def __init__(
        self, *, auth: bool = False, tls: bool = False, client_ca: bool = False, delete: bool = True
    ) -> None:
        self.auth, self.tls, self.client_ca, self.delete = auth, tls or client_ca, client_ca, delete
        self.directory = Path(tempfile.mkdtemp(prefix="mooring-registry-"))
        self.storage = self.directory / "storage"
        self.ca_file = self.directory / "ca.crt"
        self.client_certificate = self.directory / "client.crt"
        self.client_key = self.directory / "client.key"
        self._process: subprocess.Popen[bytes] | None = None
        self._wire: Wire | None = None
        self._port = 0
        if self.tls:
            make_certificates(self.directory)
        if auth:
            entry = _run("htpasswd", "-Bbn", USER, PASSWORD)
            (self.directory / "htpasswd").write_text(entry, encoding="utf-8")

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def host(self) -> str:
        """`127.0.0.1:PORT`, as it stands in the name of an image."""
        assert self._wire is not None
        return f"127.0.0.1:{self._wire.port}"

    @property
    def port(self) -> int:
        """Where the registry itself listens on loopback, past what counts."""
        return self._port

    @property
    def url(self) -> str:
        """The address with its scheme."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def traffic(self) -> Traffic:
        """What went over the wire since the start, or since `forget`."""
        assert self._wire is not None
        return self._wire.traffic

    @property
    def wire(self) -> Wire:
        """The proxy ahead of the registry, to cut connections with."""
        assert self._wire is not None
        return self._wire

    def forget(self) -> None:
        """Count anew, bytes and requests."""
        self.wire.traffic = Traffic()
        self._logged_before = len(self._log())

    def requests(self) -> list[Request]:
        """What was asked of the registry since the start, or since `forget`, in the order of its log.

        The line of a large answer may come a moment after the answer itself.
        """
        return [
            Request(match["method"], match["path"], int(match["status"]), int(match["size"]))
            for match in _ACCESS.finditer(self._log()[self._logged_before :])
        ]

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._logged_before = 0
        self._port = self._port or free_port()
        text = _CONFIG.format(storage=self.storage, port=self._port, delete=str(self.delete).lower())
        if self.tls:
            text += _TLS.format(directory=self.directory)
        if self.client_ca:
            text += _CLIENT_CA.format(directory=self.directory)
        if self.auth:
            text += _AUTH.format(directory=self.directory)
        config = self.directory / "config.yml"
        config.write_text(text, encoding="utf-8")
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                ["docker-registry", "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        eventually(self._answers, 20, "the registry's first answer")
        if self._wire is None:
            self._wire = Wire(("127.0.0.1", self._port))

    def stop(self) -> None:
        """End the process; its storage stays."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10 * PATIENCE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    def end(self) -> None:
        """Stop it, and delete all of it."""
        self.stop()
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        shutil.rmtree(self.directory)

    def skopeo(self, *arguments: str) -> str:
        """Run skopeo without TLS being verified, with the registry's credentials; returns what it printed."""
        command, *rest = arguments
        options = []
        if command in ("inspect", "delete", "list-tags"):
            options = ["--tls-verify=false", *(["--creds", f"{USER}:{PASSWORD}"] if self.auth else [])]
        elif command == "copy":
            options = ["--src-tls-verify=false", "--dest-tls-verify=false"]
            if self.auth:
                for side, argument in zip(("src", "dest"), rest[-2:], strict=True):
                    options += [f"--{side}-creds", f"{USER}:{PASSWORD}"] if self.host in argument else []
        return _run("skopeo", "--insecure-policy", command, *options, *rest)

    def _log(self) -> str:
        path = self.directory / "log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, f"docker-registry ended:\n{self._log()[-2000:]}"
        try:
            with socket.create_connection(("127.0.0.1", self._port), 1):
                return True
        except OSError:
            return False


@contextmanager
def registry_inside(registry: RegistryUnderTest, pid: int) -> Iterator[str]:
    """The same registry, on the same storage, in the network namespace of a process; yields its HOST:PORT."""
    address = f"127.0.0.1:{registry.port}"
    config = registry.directory / "config.yml"
    enter = ["nsenter", f"--net=/proc/{pid}/ns/net", "docker-registry", "serve", str(config)]
    with open(registry.directory / "log-inside", "ab") as log:
        process = subprocess.Popen(enter, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    ask = ["nsenter", f"--net=/proc/{pid}/ns/net", "curl", "-sf", f"http://{address}/v2/"]
    try:
        eventually(
            lambda: subprocess.run(ask, capture_output=True, timeout=10, check=False).returncode == 0,
            20,
            f"the first answer of the registry in the network of process {pid}",
        )
        yield address
    finally:
        process.terminate()
        process.wait(10 * PATIENCE)


class Wire:
    """A proxy that forwards bytes both ways and counts them; `cut_after` ends a connection on its way."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.traffic = Traffic()
        self.cuts = 0
        """How many more connections are cut."""
        self.cut_after = 0
        """Bytes in one direction after which one is."""
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """End everything."""
        self._closed = True
        with self._lock:
            # accept(2) of another thread ends with the shutdown, not with the close.
            for end in (self._listener, *self._open):
                _shut(end)
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                continue
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._open |= {client, server}
            gone = threading.Event()
            for source, sink, sent in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._forward, args=(source, sink, sent, gone), daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, sent: bool, gone: threading.Event) -> None:
        passed = 0
        try:
            while data := source.recv(1 << 16):
                passed += len(data)
                with self._lock:
                    if sent:
                        self.traffic.sent += len(data)
                    else:
                        self.traffic.received += len(data)
                    cut = self.cuts > 0 and passed > self.cut_after
                    self.cuts -= cut
                if cut:
                    break
                sink.sendall(data)
        except OSError:
            pass  # the other direction has ended it
        _shut(source)
        _shut(sink)
        with self._lock:  # both directions end together, and one of them is the last
            if gone.is_set():
                source.close()
                sink.close()
                self._open -= {source, sink}
            gone.set()


def make_certificates(directory: Path) -> None:
    """Make a CA (ca.crt), and signed by it a server's certificate and a client's.

    The server's (server.crt, server.key) is for 127.0.0.1 and localhost.
    """
    new = ("openssl", "req", "-newkey", "rsa:2048", "-nodes")
    _run(
        *(*new, "-x509", "-days", "2", "-subj", "/CN=CA of the tests"),
        *("-keyout", f"{directory}/ca.key", "-out", f"{directory}/ca.crt"),
    )
    for name, extension in (
        ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ("client", "extendedKeyUsage=clientAuth"),
    ):
        request, extensions = directory / f"{name}.csr", directory / f"{name}.extensions"
        _run(*new, "-subj", f"/CN={name}", "-keyout", f"{directory}/{name}.key", "-out", str(request))
        extensions.write_text(f"{extension}\n", encoding="utf-8")
        _run(
            *("openssl", "x509", "-req", "-days", "2", "-in", str(request), "-CAcreateserial"),
            *("-CA", f"{directory}/ca.crt", "-CAkey", f"{directory}/ca.key"),
            *("-extfile", str(extensions), "-out", f"{directory}/{name}.crt"),
        )


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
    assert done.returncode == 0, f"{command[0]} {command[1]} failed: {done.stderr}"
    return done.stdout


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # it is closed already
