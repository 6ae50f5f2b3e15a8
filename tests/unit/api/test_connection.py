# SPDX-License-Identifier: Apache-2.0
"""HTTP on the unix socket, seen from a client that counts bytes."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from harness.waiting import eventually
from mooring_agent.api.messages import Hijack, RawStream, Reply, Request, Response, Stream, json_response
from mooring_agent.api.router import Route
from mooring_agent.errors import Conflict

from .served import PATIENCE, Served, served

MIB = 1 << 20


class Probe:
    """Calls that show what the connection does."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()  # or told that the client has left
        self.finished = threading.Event()
        self.asked = threading.Event()
        self.answer = threading.Event()
        self.unserved = threading.Event()
        self.received = 0
        self.sent = 0

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/small", self.small, versioned=True),
            Route("GET", "/large", self.large),
            Route("GET", "/huge", self.huge),
            Route("POST", "/echo", self.echo),
            Route("POST", "/ignore", self.ignore),
            Route("POST", "/count", self.count),
            Route("GET", "/numbers", self.numbers, abandon=True),
            Route("GET", "/flood", self.flood, abandon=True),
            Route("GET", "/silent", self.silent, abandon=True),
            Route("POST", "/steady", self.steady),
            Route("POST", "/raw", self.raw),
            Route("POST", "/deaf", self.deaf),
            Route("POST", "/quiet", self.quiet),
            Route("POST", "/late", self.late),
            Route("GET", "/broken", self.broken),
            Route("GET", "/breaks-midway", self.breaks_midway),
            Route("GET", "/empty", self.empty),
        ]

    async def small(self, request: Request) -> Reply:
        return json_response({"query": request.query.to_dict()})

    async def large(self, request: Request) -> Reply:
        self.sent += 1
        return Response(200, bytes(65536))

    async def huge(self, request: Request) -> Reply:
        return Response(200, bytes(16 << 20))

    async def echo(self, request: Request) -> Reply:
        return json_response(await request.json())

    async def ignore(self, request: Request) -> Reply:
        return json_response("not read")

    async def count(self, request: Request) -> Reply:
        async for piece in request.body:
            self.received += len(piece)
        return json_response(self.received)

    async def numbers(self, request: Request) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            for number in range(3):
                yield b"%d" % number
                await asyncio.sleep(0.01)

        return Stream(chunks())

    async def flood(self, request: Request) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            while True:
                yield b"x" * 65536
                self.sent += 65536

        return Stream(chunks())

    async def silent(self, request: Request) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            try:
                await asyncio.Event().wait()
                yield b""
            finally:
                self.cancelled.set()

        return Stream(chunks())

    async def steady(self, request: Request) -> Reply:
        self.asked.set()
        await asyncio.sleep(0.2)
        self.finished.set()
        return json_response("done")

    async def raw(self, request: Request) -> Reply:
        greeting = await request.read()

        async def serve(stream: RawStream) -> None:
            await stream.write(b"<" + greeting + b">")
            while data := await stream.read():
                await stream.write(data.upper())
            await stream.write(b".")

        return Hijack(serve, headers=[("X-Extra", "1")])

    async def quiet(self, request: Request) -> Reply:
        async def serve(stream: RawStream) -> None:
            await stream.left
            self.cancelled.set()

        return Hijack(serve)

    async def late(self, request: Request) -> Reply:
        async def serve(stream: RawStream) -> None:
            raise AssertionError("it was served")

        self.asked.set()
        await asyncio.to_thread(self.answer.wait, PATIENCE)
        return Hijack(serve, unserved=self.unserved.set)

    async def deaf(self, request: Request) -> Reply:
        async def serve(stream: RawStream) -> None:
            await stream.write(b"bye")

        return Hijack(serve)

    async def broken(self, request: Request) -> Reply:
        raise ZeroDivisionError("secret detail")

    async def breaks_midway(self, request: Request) -> Reply:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"begin"
            raise ZeroDivisionError("secret detail")

        return Stream(chunks())

    async def empty(self, request: Request) -> Reply:
        return Response(204)


@pytest.fixture
def probe() -> Probe:
    return Probe()


@pytest.fixture
def server(tmp_path: Path, probe: Probe) -> Iterator[Served]:
    with served(tmp_path / "run" / "s.sock", probe.routes()) as running:
        yield running


def test_answers_carry_what_docker_clients_negotiate_by(server: Served) -> None:
    answer = server.call("GET", "/v1.41/small?a=1")
    assert (answer.status, answer.reason, answer.json()) == (200, "OK", {"query": {"a": "1"}})
    assert answer.headers["api-version"] == "1.47"
    assert answer.headers["ostype"] == "linux"
    assert answer.headers["server"].startswith("Mooring/")


def test_a_connection_is_kept_and_pipelined_requests_are_answered_in_order(server: Served) -> None:
    with server.wire() as wire:
        wire.send(b"".join(b"GET /small?n=%d HTTP/1.1\r\nHost: x\r\n\r\n" % n for n in range(50)))
        assert [wire.answer().json()["query"]["n"] for _ in range(50)] == [str(n) for n in range(50)]
        assert wire.call("POST", "/echo", b'{"a": [1]}').json() == {"a": [1]}
        assert wire.call("GET", "/empty").status == 204
        assert wire.call("GET", "/small").status == 200


def test_who_asks_on_and_reads_nothing_is_not_answered_on(server: Served, probe: Probe) -> None:
    with server.wire() as wire:
        wire.send(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
        for _ in range(50):
            assert server.call("GET", "/small").status == 200
        assert 0 < probe.sent < 20
        assert [len(wire.answer().body) for _ in range(200)] == [65536] * 200


def test_head_has_the_length_and_no_body(server: Served) -> None:
    with server.wire() as wire:
        wire.ask("HEAD", "/small")
        answer = wire.head()
        assert (answer.status, answer.headers["content-length"]) == (200, "13")
        assert wire.call("GET", "/small").status == 200


def test_http_1_0_gets_an_answer_that_ends_with_the_connection(server: Served) -> None:
    with server.wire() as wire:
        wire.send(b"GET /numbers HTTP/1.0\r\n\r\n")
        assert wire.head().status == 200
        assert wire.rest() == b"012"


def test_unknown_paths_and_methods(server: Served) -> None:
    missing = server.call("GET", "/nowhere")
    assert (missing.status, missing.json()) == (404, {"message": "no such call: GET /nowhere"})
    wrong = server.call("DELETE", "/echo")
    assert (wrong.status, wrong.headers["allow"]) == (405, "POST")


def test_an_unexpected_exception_tells_no_inside(server: Served) -> None:
    answer = server.call("GET", "/broken")
    assert answer.status == 500
    assert "ZeroDivisionError" in answer.json()["message"]
    assert b"secret" not in answer.body
    assert b"Traceback" not in answer.body


def test_a_stream_that_breaks_is_cut_not_ended(server: Served) -> None:
    with server.wire() as wire:
        wire.ask("GET", "/breaks-midway")
        wire.head()
        assert wire.chunk() == b"begin"
        with pytest.raises((EOFError, ConnectionError)):
            wire.chunk()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /small HTTP/1.1\r\n\r\n", 400),
        (b"GET /small HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 600_000 + b"\r\n\r\n", 431),
        (b"GET /small HTTP/1.1\r\nHost: x\r\nContent-Length: -4\r\n\r\n", 400),
        (b"\x00\x01\x02\r\n\r\n", 400),
    ],
)
def test_what_is_no_http_is_refused(server: Served, sent: bytes, status: int) -> None:
    with server.wire() as wire:
        wire.send(sent)
        answer = wire.answer()
        assert answer.status == status
        assert "message" in answer.json()
        assert wire.rest() == b""


@pytest.mark.parametrize("body", [b"{", b"[1]", b"nul", b"\xff\xfe", b"[" * 100_000])
def test_a_body_that_is_no_json_object_is_a_400(server: Served, body: bytes) -> None:
    answer = server.call("POST", "/echo", body)
    assert answer.status == 400
    assert "JSON" in answer.json()["message"]


def test_a_json_body_has_a_limit(server: Served) -> None:
    with server.wire() as wire:
        wire.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 999999999\r\n\r\n")
        assert wire.answer().status == 413
    with server.wire() as wire:
        wire.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        threading.Thread(target=_pour, args=(wire.sock, b"10000\r\n" + b" " * 0x10000 + b"\r\n", 400)).start()
        assert wire.answer().status == 413


def _pour(sock: socket.socket, piece: bytes, times: int) -> None:
    try:
        for _ in range(times):
            sock.sendall(piece)
    except OSError:
        return


def test_an_unread_body_ends_the_connection_after_a_readable_answer(server: Served) -> None:
    with server.wire() as wire:
        wire.send(b"POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n" + b"z" * 100_000)
        answer = wire.answer()
        assert (answer.json(), answer.headers["connection"]) == ("not read", "close")
        assert wire.rest() == b""


def test_a_big_body_is_streamed(server: Served, probe: Probe) -> None:
    piece = b"b" * MIB
    with server.wire() as wire:
        wire.send(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % (32 * MIB))
        for _ in range(32):
            wire.send(piece)
        assert wire.answer().json() == 32 * MIB


def test_a_body_that_waits_for_leave_gets_it(server: Served) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/echo", Expect="100-continue", Content_Length="2")
        assert wire.head().status == 100
        wire.send(b"{}")
        assert wire.answer().json() == {}


def test_a_body_that_ends_too_early_reaches_no_call_as_whole(server: Served, probe: Probe) -> None:
    with server.wire() as wire:
        wire.send(b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{}")
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.rest() == b""
    assert server.call("GET", "/small").status == 200


def test_a_half_closed_client_still_gets_its_answer(server: Served) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/steady")
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.answer().json() == "done"
        assert wire.rest() == b""


def test_streams_come_chunk_by_chunk(server: Served) -> None:
    with server.wire() as wire:
        wire.ask("GET", "/numbers")
        assert wire.head().headers["transfer-encoding"] == "chunked"
        assert [wire.chunk() for _ in range(4)] == [b"0", b"1", b"2", b""]
        assert wire.call("GET", "/small").status == 200


def test_the_headers_of_a_stream_do_not_wait_for_its_body(server: Served) -> None:
    with server.wire() as wire:
        wire.ask("GET", "/silent")
        assert wire.head().status == 200


def test_a_silent_stream_ends_when_its_client_leaves(server: Served, probe: Probe) -> None:
    with server.wire() as wire:
        wire.ask("GET", "/silent")
        wire.head()
    assert probe.cancelled.wait(PATIENCE)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_end_comes_after_the_last_answer_to_a_half_closed_client(server: Served, count: int) -> None:
    with server.wire() as wire:
        wire.send(b"POST /steady HTTP/1.1\r\nHost: x\r\n\r\n" * count)
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.rest().count(b"HTTP/1.1 ") == count


def test_a_silent_stream_ends_when_its_half_closed_client_leaves(server: Served, probe: Probe) -> None:
    with server.wire() as wire:
        wire.ask("GET", "/silent")
        wire.head()
        wire.sock.shutdown(socket.SHUT_WR)
        assert not probe.cancelled.wait(0.2)
    assert probe.cancelled.wait(PATIENCE)


def test_a_call_that_changes_something_ends_without_its_client(server: Served, probe: Probe) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/steady")
        assert probe.asked.wait(PATIENCE)
    assert probe.finished.wait(PATIENCE)


def test_a_slow_reader_makes_the_stream_wait(server: Served, probe: Probe) -> None:
    with server.wire() as wire:
        wire.ask("GET", "/flood")
        wire.head()
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline and probe.sent < 64 * MIB:
            time.sleep(0.05)
        assert probe.sent < 4 * MIB
        assert server.call("GET", "/small").status == 200


def test_hijack_with_upgrade_keeps_pipelined_bytes(server: Served) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/raw", b"hi", Connection="Upgrade", Upgrade="tcp")
        wire.send(b"early ")
        head = wire.head()
        assert (head.status, head.reason) == (101, "UPGRADED")
        assert (head.headers["connection"], head.headers["upgrade"]) == ("Upgrade", "tcp")
        assert head.headers["content-type"] == "application/vnd.docker.raw-stream"
        assert head.headers["x-extra"] == "1"
        wire.send(b"late")
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.rest() == b"<hi>EARLY LATE."


def test_hijack_in_one_packet_with_everything(server: Served) -> None:
    with server.wire() as wire:
        wire.send(
            b"POST /raw HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
            b"Content-Length: 2\r\n\r\nhiall"
        )
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.head().status == 101
        assert wire.rest() == b"<hi>ALL."


def test_hijack_in_the_old_form(server: Served) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/raw", b"hi")
        head = wire.head()
        assert (head.status, head.headers["content-type"]) == (200, "application/vnd.docker.raw-stream")
        assert "transfer-encoding" not in head.headers
        wire.send(b"x")
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.rest() == b"<hi>X."


def test_hijacked_streams_carry_much_both_ways(server: Served) -> None:
    size = 24 * MIB
    with server.wire() as wire:
        wire.ask("POST", "/raw", Connection="Upgrade", Upgrade="tcp")
        wire.head()
        sender = threading.Thread(target=_pour, args=(wire.sock, b"m" * MIB, size // MIB))
        sender.start()
        assert wire.exactly(2) == b"<>"
        received = 0
        while received < size:
            data = wire.exactly(min(65536, size - received))
            assert data.strip(b"M") == b""
            received += len(data)
        sender.join(PATIENCE)


def test_a_hijacked_stream_ends_when_its_client_leaves(server: Served, probe: Probe) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/quiet", Connection="Upgrade", Upgrade="tcp")
        wire.head()
    assert probe.cancelled.wait(PATIENCE)


def test_a_hijack_whose_client_has_left_before_it_is_not_served(server: Served, probe: Probe) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/late", Connection="Upgrade", Upgrade="tcp")
        assert probe.asked.wait(PATIENCE)
    eventually(lambda: not server.server._connections)
    probe.answer.set()
    assert probe.unserved.wait(PATIENCE)


def test_a_hijack_whose_request_never_ends_is_not_served(server: Served, probe: Probe) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/late", Connection="Upgrade", Upgrade="tcp", Content_Length="9")
        probe.answer.set()
        assert probe.asked.wait(PATIENCE)
    assert probe.unserved.wait(PATIENCE)


def test_the_end_of_a_hijack_is_an_end_even_if_the_client_talks_on(server: Served) -> None:
    with server.wire() as wire:
        wire.ask("POST", "/deaf", Connection="Upgrade", Upgrade="tcp")
        wire.send(b"chatter" * 1000)
        wire.head()
        assert wire.rest() == b"bye"


def test_a_refused_upgrade_is_a_plain_answer(server: Served) -> None:
    with server.wire() as wire:
        assert wire.call("POST", "/nowhere", Connection="Upgrade", Upgrade="tcp").status == 404
        assert wire.call("GET", "/small").status == 200


def test_the_socket_is_closed_to_others(server: Served) -> None:
    assert server.path.stat().st_mode & 0o777 == 0o660


def test_a_second_server_on_a_live_socket_is_a_conflict(server: Served) -> None:
    with pytest.raises(Conflict, match="another agent answers"), served(server.path, []):
        pass
    assert server.call("GET", "/small").status == 200


def test_a_stale_socket_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "stale.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with served(path, []) as running:
        assert running.call("GET", "/").status == 404
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(Conflict, match="is no socket"), served(path, []):
        pass
    assert path.read_text() == "precious"


def test_stopping_lets_a_change_end_and_cuts_a_follow(tmp_path: Path, probe: Probe) -> None:
    with served(tmp_path / "s.sock", probe.routes()) as running:
        steady, silent = running.wire(), running.wire()
        steady.ask("POST", "/steady")
        silent.ask("GET", "/silent")
        silent.head()
        assert probe.asked.wait(PATIENCE)
    assert steady.answer().json() == "done"
    assert probe.cancelled.is_set()
    steady.sock.close()
    silent.sock.close()
