# SPDX-License-Identifier: Apache-2.0
"""Registries that are reached through an HTTP proxy, by the variables that Docker's daemon honours."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator

import pytest

from harness.images import describe, opener
from harness.registry import RegistryUnderTest
from integration.registry.conftest import Connect
from mooring_agent.errors import Unavailable
from mooring_agent.images.reference import Reference

DATA = os.urandom(1 << 20)


class Proxy:
    """An HTTP proxy for one registry, whatever host it is asked for; `heads` is what it was asked."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.heads: list[str] = []
        self.refuse = False
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()
        self._pumps: list[threading.Thread] = []

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()
        for pump in self._pumps:
            pump.join(10)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(65536)
            self.heads.append(head.decode(errors="replace"))
            if self.refuse:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                client.close()
                continue
            server = socket.create_connection(self._target, 5)
            if head.startswith(b"CONNECT "):
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                server.sendall(head)
            ended = threading.Barrier(2)
            for source, sink in ((client, server), (server, client)):
                pump = threading.Thread(target=_pump, args=(source, sink, ended))
                pump.start()
                self._pumps.append(pump)


def _pump(source: socket.socket, sink: socket.socket, ended: threading.Barrier) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
    except OSError:
        pass
    for end in (source, sink):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
    ended.wait(10)
    source.close()


@pytest.fixture
def proxied(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Proxy, RegistryUnderTest]]:
    registry: RegistryUnderTest = request.getfixturevalue(request.param)
    proxy = Proxy(registry.host)
    for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://me:secret@{proxy.address}")
    yield proxy, registry
    proxy.close()


@pytest.mark.parametrize("proxied", ["plain", "private"], indirect=True)
def test_a_blob_goes_through_a_proxy_both_ways(
    proxied: tuple[Proxy, RegistryUnderTest], connect: Connect
) -> None:
    proxy, registry = proxied
    # A name that only the proxy can know.
    registries = connect({"registry.invalid:5000": {"tls": "unverified" if registry.tls else "off"}})
    repository = registries.repository(Reference.parse("registry.invalid:5000/fleet/app"))
    repository.push_blob(describe(DATA), opener(DATA))
    assert b"".join(repository.blob(describe(DATA))) == DATA
    registries.close()
    first = proxy.heads[0]
    if registry.tls:
        assert first.startswith("CONNECT registry.invalid:5000 HTTP/1.")
        assert "fleet/app" not in "".join(proxy.heads)
    else:
        assert first.startswith("HEAD http://registry.invalid:5000/v2/fleet/app/blobs/sha256:")
        assert "Host: registry.invalid:5000" in first
    assert "Proxy-Authorization: Basic bWU6c2VjcmV0" in first


@pytest.mark.parametrize("proxied", ["private"], indirect=True)
def test_a_proxy_that_refuses_is_told(proxied: tuple[Proxy, RegistryUnderTest], connect: Connect) -> None:
    proxy, _ = proxied
    proxy.refuse = True
    registries = connect({"registry.invalid:5000": {"tls": "unverified"}})
    with pytest.raises(Unavailable, match=r"cannot be reached.*407 Proxy Authentication Required") as refused:
        registries.repository(Reference.parse("registry.invalid:5000/fleet/app")).resolve("1")
    assert "secret" not in refused.value.message
