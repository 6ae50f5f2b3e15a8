# SPDX-License-Identifier: Apache-2.0
"""Connections that are kept for the next request, and no longer."""

from __future__ import annotations

import socket
import threading

import pytest

from mooring_agent.images.registry import connections
from mooring_agent.images.registry.connections import ConnectionPool
from mooring_agent.images.registry.settings import Tls, TlsSettings


def test_a_connection_that_nobody_uses_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_IDLE_TIME", 0.2)
    pool = ConnectionPool(environment={})
    asked: list[bytes] = []

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.settimeout(20)
            while head := client.recv(1 << 16):
                asked.append(head)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        for _ in range(2):
            pool.exchange("GET", url, TlsSettings(Tls.OFF), {}).close()
        server.join(30)
        assert not server.is_alive()
    assert len(asked) == 2  # on the same one, which was ended although nobody asked for anything more
    pool.close()
