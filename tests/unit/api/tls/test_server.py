# SPDX-License-Identifier: Apache-2.0
"""The server over TLS on a TCP socket: who comes in, who does not, and that nobody is harmed by them."""

from __future__ import annotations

import logging
import os
import shutil
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness import waiting
from harness.waiting import eventually
from mooring_agent.api import connection
from mooring_agent.api.router import Route
from mooring_agent.api.server import Server
from mooring_agent.api.tls import listener, transport
from mooring_agent.api.tls.settings import TlsSettings
from mooring_agent.errors import Conflict, InvalidSpec

from ..served import PATIENCE, Served, TlsWire, served
from ..test_connection import Probe
from .conftest import Certified

MIB = 1 << 20


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def files(tmp_path: Path, certified: Certified) -> TlsSettings:
    """The server's files, of the test's own."""
    for name, source in (
        ("ca.pem", certified.authority.ca_file),
        ("a.pem", certified.server.certificate),
        ("a.key", certified.server.key),
    ):
        shutil.copy(source, tmp_path / name)
    return TlsSettings("127.0.0.1", 0, tmp_path / "ca.pem", tmp_path / "a.pem", tmp_path / "a.key")


@pytest.fixture
def server(tmp_path: Path, probe: Probe, files: TlsSettings) -> Iterator[Served]:
    routes: list[Route] = probe.routes()
    with served(tmp_path / "run" / "s.sock", routes, files) as running:
        yield running


def address(server: Served) -> tuple[str, int]:
    assert server.server.tls is not None
    return server.server.tls.address


@pytest.fixture
def dial(server: Served, certified: Certified) -> Callable[..., TlsWire]:
    def connect(receive_buffer: int = 0) -> TlsWire:
        return TlsWire(address(server), certified.context(certified.client), receive_buffer)

    return connect


def answers(dial: Callable[..., TlsWire]) -> bool:
    with dial() as wire:
        return wire.call("GET", "/small").status == 200


def test_calls_streams_and_pipelines(dial: Callable[..., TlsWire]) -> None:
    with dial() as wire:
        wire.send(b"".join(b"GET /small?n=%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(20)))
        assert [wire.answer().json()["query"]["n"] for _ in range(20)] == [str(n) for n in range(20)]
        assert wire.call("GET", "/numbers").body == b"012"


def test_a_raw_stream_whose_input_ends_first(dial: Callable[..., TlsWire]) -> None:
    with dial() as wire:
        wire.ask("POST", "/raw", b"hello", Upgrade="tcp", Connection="Upgrade")
        assert wire.head().status == 101
        assert wire.exactly(7) == b"<hello>"
        wire.send(b"abc")
        assert wire.exactly(3) == b"ABC"
        wire.send(b"xyz")
        wire.end_input()
        assert wire.rest() == b"XYZ."


def test_a_half_closed_client_still_gets_its_answer(dial: Callable[..., TlsWire]) -> None:
    with dial() as wire:
        wire.ask("POST", "/steady")
        wire.end_input()
        assert wire.answer().json() == "done"
        assert wire.rest() == b""


def test_who_does_not_read_the_last_answer_is_cut_off(
    server: Served, dial: Callable[..., TlsWire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.1)
    monkeypatch.setattr(transport, "FLUSH_SECONDS", 0.1)
    with dial(receive_buffer=4096) as wire:
        wire.ask("GET", "/huge", Connection="close")
        wire.head()
        eventually(lambda: not server.server._connections)


def test_much_data_in(dial: Callable[..., TlsWire]) -> None:
    with dial() as wire:
        wire.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (32 * MIB))
        for _ in range(32):
            wire.send(b"b" * MIB)
        assert wire.answer().json() == 32 * MIB


def test_a_slow_client_holds_up_its_own_stream_only(dial: Callable[..., TlsWire], probe: Probe) -> None:
    with dial(receive_buffer=65536) as wire:
        wire.ask("GET", "/flood")
        assert wire.head().status == 200
        before = -1
        while probe.sent != before:  # until the buffers between are full
            before = probe.sent
            time.sleep(0.1)
        assert probe.sent < 32 * MIB
        assert answers(dial)


@pytest.mark.parametrize("way", ["told", "cut"])
def test_a_silent_stream_ends_when_its_client_leaves(
    dial: Callable[..., TlsWire], probe: Probe, way: str
) -> None:
    with dial() as wire:
        wire.ask("GET", "/silent")
        wire.head()
        if way == "told":
            wire.end_input()
            assert not probe.cancelled.wait(0.1)
    assert probe.cancelled.wait(PATIENCE)


def test_a_raw_stream_ends_when_its_half_closed_client_leaves(
    dial: Callable[..., TlsWire], probe: Probe
) -> None:
    with dial() as wire:
        wire.ask("POST", "/quiet")
        wire.head()
        wire.end_input()
        assert not probe.cancelled.wait(0.1)
    assert probe.cancelled.wait(PATIENCE)


def alert_of(server: Served, context: ssl.SSLContext) -> str:
    """What a client is told that does not come in."""
    with socket.create_connection(address(server), timeout=PATIENCE) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="127.0.0.1") as wrapped:
                # In TLS 1.3 the client is done before the server has seen its certificate.
                wrapped.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
                got = wrapped.recv(100)
        except ssl.SSLError as error:
            return str(error.reason)
    return got.decode() or "the end"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_who_has_no_certificate_of_the_ca_is_told(
    server: Served,
    dial: Callable[..., TlsWire],
    certified: Certified,
    version: ssl.TLSVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    none = alert_of(server, certified.context(None, version))
    assert none == (
        "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        if version is ssl.TLSVersion.TLSv1_3
        else "SSLV3_ALERT_HANDSHAKE_FAILURE"
    )
    assert alert_of(server, certified.context(certified.foreign, version)) == "TLSV1_ALERT_UNKNOWN_CA"
    assert answers(dial)
    for reason in ("peer did not return a certificate", "its certificate is not accepted"):
        expected = f"tls_refused client=127.0.0.1 reason='{reason}"
        eventually(lambda expected=expected: expected in caplog.text, what=f"the log has {expected}")


def test_a_certificate_that_has_expired_is_refused(server: Served, certified: Certified) -> None:
    expired = certified.authority.client("late", days="-1")
    assert "EXPIRED" in alert_of(server, certified.context(expired))


def test_a_session_ends_with_the_certificate_that_began_it(
    server: Served, certified: Certified, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    context = certified.context(certified.client, ssl.TLSVersion.TLSv1_2)

    def call(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        """Whether the session was taken up again, and the one to go on with; both ways end in good order."""
        with (
            socket.create_connection(address(server), timeout=PATIENCE) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1", session=session) as wrapped,
        ):
            wrapped.sendall(b"GET /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := wrapped.recv(4096):
                answer += data
            assert b"200 OK" in answer
            found = bool(wrapped.session_reused), wrapped.session
            wrapped.unwrap()
            return found

    reused, session = call(None)
    assert not reused
    reused, session = call(session)
    assert reused
    monkeypatch.setattr(transport, "time", lambda: time.time() + 100 * 365 * 86400)
    with pytest.raises((OSError, AssertionError)):
        call(session)
    eventually(lambda: "its certificate has expired since its session began" in caplog.text)
    assert call(session)[0] is False, "OpenSSL looks at the certificate itself"


def test_a_servers_certificate_is_no_clients(server: Served, certified: Certified) -> None:
    assert "ALERT" in alert_of(server, certified.context(certified.server))


def test_old_versions_are_refused(server: Served, certified: Certified) -> None:
    context = certified.context(certified.client)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert "PROTOCOL_VERSION" in alert_of(server, context)


def test_plain_http_is_told_in_plain_http(server: Served, dial: Callable[..., TlsWire]) -> None:
    with socket.create_connection(address(server), timeout=PATIENCE) as plain:
        plain.sendall(b"GET /_ping HTTP/1.1\r\nHost: x\r\n\r\n")
        got = b""
        while data := plain.recv(1000):
            got += data
    assert got.startswith(b"HTTP/1.0 400 ")
    assert b"TLS" in got
    assert answers(dial)


def test_garbage_harms_nobody(server: Served, dial: Callable[..., TlsWire]) -> None:
    for noise in (b"\x00" * 100, os.urandom(100_000), b"\x16\x03\x01\xff\xff" + b"a" * 70_000, b"\x80"):
        with socket.create_connection(address(server), timeout=PATIENCE) as plain:
            try:
                plain.sendall(noise)
                plain.shutdown(socket.SHUT_WR)
                while plain.recv(1000):
                    pass
            except ConnectionError:
                pass  # it was cut off already
    assert answers(dial)


def test_who_is_slow_with_the_handshake_is_cut_off(
    server: Served, dial: Callable[..., TlsWire], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those who are as fast as they can have to have done it by then.
    monkeypatch.setattr(transport, "HANDSHAKE_SECONDS", 0.5 * waiting.PATIENCE)
    with socket.create_connection(address(server), timeout=PATIENCE) as plain:
        plain.sendall(b"\x16\x03\x01")
        assert answers(dial)
        assert plain.recv(1) == b""


def test_idle_handshakes_keep_nobody_out(
    server: Served, dial: Callable[..., TlsWire], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "MAX_HANDSHAKES", 3)
    idle = [socket.create_connection(address(server), timeout=PATIENCE) for _ in range(20)]
    try:
        assert answers(dial)
        assert idle[0].recv(1) == b""
        idle[-1].settimeout(0.05)
        with pytest.raises(TimeoutError):
            idle[-1].recv(1)
    finally:
        for each in idle:
            each.close()


def test_refusals_do_not_fill_the_log(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(30):
        with socket.create_connection(address(server), timeout=PATIENCE) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while plain.recv(1000):
                pass
    eventually(lambda: caplog.text.count("tls_refused") >= 10, what="ten refusals are in the log")
    assert caplog.text.count("tls_refused") == 10


def test_renewed_files_count_from_the_next_connection_on(
    server: Served, certified: Certified, files: TlsSettings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def serial() -> str:
        with TlsWire(address(server), certified.context(certified.client)) as wire:
            certificate = wire.tls.getpeercert()
            assert certificate is not None
            return str(certificate["serialNumber"])

    first = serial()
    renewed = certified.authority.server("renewed")
    os.replace(shutil.copy(renewed.certificate, files.certificate.with_suffix(".new")), files.certificate)
    assert serial() == first  # the certificate and the former key make no pair
    os.replace(shutil.copy(renewed.key, files.key.with_suffix(".new")), files.key)
    second = serial()
    assert second != first
    files.certificate.unlink()
    assert serial() == second
    assert serial() == second
    kept = [record.getMessage() for record in caplog.records if "tls_files_kept" in record.getMessage()]
    assert len(kept) == 2  # once for each change
    assert "former" in kept[1]


def test_an_exchanged_ca_turns_former_clients_away(
    server: Served, certified: Certified, files: TlsSettings
) -> None:
    context = certified.context(certified.client)
    with TlsWire(address(server), context) as wire:
        assert wire.call("GET", "/small").status == 200
        shutil.copy(certified.foreign.certificate.parent / "ca.pem", files.ca_file)
        assert wire.call("GET", "/small").status == 200  # who is in is in
    assert alert_of(server, context) == "TLSV1_ALERT_UNKNOWN_CA"


def test_what_is_no_use_keeps_the_server_from_starting(tmp_path: Path, files: TlsSettings) -> None:
    path = tmp_path / "x" / "s.sock"
    files.key.write_text("nonsense")
    with pytest.raises(InvalidSpec, match=r"tls is not usable .*a\.key"):
        Server(path, tls=files)
    assert not path.exists()


def test_an_address_in_use_is_a_conflict(tmp_path: Path, server: Served, files: TlsSettings) -> None:
    taken = TlsSettings("127.0.0.1", address(server)[1], files.ca_file, files.certificate, files.key)
    with pytest.raises(Conflict, match=r"tls\.listen"):
        Server(tmp_path / "x" / "s.sock", tls=taken)
    assert not (tmp_path / "x" / "s.sock").exists()


def test_an_address_of_another_host_is_refused(tmp_path: Path, files: TlsSettings) -> None:
    other = TlsSettings("192.0.2.1", 0, files.ca_file, files.certificate, files.key)
    with pytest.raises(InvalidSpec, match=r"192\.0\.2\.1:0.*tls\.listen"):
        Server(tmp_path / "x" / "s.sock", tls=other)


def test_it_stops_with_clients_of_every_kind(
    tmp_path: Path, probe: Probe, files: TlsSettings, certified: Certified
) -> None:
    context = certified.context(certified.client)
    with served(tmp_path / "run" / "s.sock", probe.routes(), files) as running:
        where = address(running)
        idle = socket.create_connection(where, timeout=PATIENCE)
        kept, stuck, silent = (TlsWire(where, context) for _ in range(3))
        assert kept.call("GET", "/small").status == 200
        for wire, path in ((stuck, "/flood"), (silent, "/silent")):
            wire.ask("GET", path)
            wire.head()
    assert probe.cancelled.is_set()
    assert idle.recv(1) == b""
    assert kept.rest() == b""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(where, timeout=PATIENCE)
    for each in (idle, kept.sock, stuck.sock, silent.sock):
        each.close()
