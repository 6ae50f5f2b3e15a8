# SPDX-License-Identifier: Apache-2.0
"""Connections that are kept for the next request, and no longer."""

from __future__ import annotations

import re
import socket
import threading

import pytest

from harness.waiting import PATIENCE
from mooring_agent.errors import InvalidSpec, Unavailable
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry import connections
from mooring_agent.images.registry.client import Registries
from mooring_agent.images.registry.connections import ConnectionPool
from mooring_agent.images.registry.settings import Credentials, RegistriesSettings, Tls, TlsSettings


def test_a_connection_that_nobody_uses_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    # Longer than the second question takes to follow the first one.
    monkeypatch.setattr(connections, "_IDLE_TIME", 0.5 * PATIENCE)
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


@pytest.mark.parametrize("mode", ["verify", "any"])
@pytest.mark.parametrize("host", ["r.example:99999", "[1:2]:5000"])
def test_what_is_no_address_is_told_at_once(host: str, mode: str) -> None:
    registries = Registries(RegistriesSettings.parse({host: {"tls": mode}}))
    with pytest.raises(Unavailable, match=f"{re.escape(host)} is no address") as refused:
        registries.repository(Reference.parse(f"{host}/app:1")).resolve("1")
    assert "in a row" not in refused.value.message
    registries.close()


@pytest.mark.parametrize("host", ["\ud800", "a\0b", ":", "a b"])
def test_a_login_to_what_is_no_registry_asks_nobody(host: str) -> None:
    registries = Registries(RegistriesSettings.parse({}))
    with pytest.raises(InvalidSpec, match=r"the login has .* which is no registry: expected HOST"):
        registries.check_login(host, Credentials("the request", "sailor", "secret"))
    registries.close()
