# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import unix_http
from harness.unix_http import ApiError


class OneAnswer:
    """A server that reads one request and sends prepared bytes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer = b""
        self.received = b""
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(1)
        self._thread = threading.Thread(target=self._serve)

    def will_send(self, status: str, body: bytes) -> None:
        self.answer = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        self._thread.start()

    def close(self) -> None:
        self._thread.join(10)
        self._listener.close()

    def _serve(self) -> None:
        client, _address = self._listener.accept()
        with client:
            while b"\r\n\r\n" not in self.received:
                self.received += client.recv(65536)
            client.sendall(self.answer)
            client.shutdown(socket.SHUT_WR)
            while more := client.recv(65536):
                self.received += more


@pytest.fixture
def server() -> Iterator[OneAnswer]:
    with tempfile.TemporaryDirectory(prefix="mrgt-") as directory:
        server = OneAnswer(Path(directory, "s"))
        yield server
        server.close()


def test_a_dict_goes_as_json_and_the_answer_comes_back(server: OneAnswer) -> None:
    server.will_send("200 OK", b'{"changed": true}')
    response = unix_http.request(server.path, "PUT", "/x", {"image": "busybox"})
    server.close()
    assert response.json() == {"changed": True}
    head, _, body = server.received.partition(b"\r\n\r\n")
    assert b"application/json" in head
    assert json.loads(body) == {"image": "busybox"}


def test_a_stream_yields_a_value_a_line(server: OneAnswer) -> None:
    server.will_send("200 OK", b'{"n": 1}\n\n{"n": 2}\n')
    assert list(unix_http.stream(server.path, "GET", "/x")) == [{"n": 1}, {"n": 2}]


def test_an_error_in_a_stream_carries_code_and_message(server: OneAnswer) -> None:
    server.will_send("404 Not Found", b'{"code": "not_found", "message": "no such container: x"}')
    with pytest.raises(ApiError) as caught:
        list(unix_http.stream(server.path, "GET", "/x"))
    assert (caught.value.status, caught.value.code) == (404, "not_found")
    assert caught.value.message == "no such container: x"


def test_an_error_that_is_no_json_is_told_as_text(server: OneAnswer) -> None:
    server.will_send("502 Bad Gateway", b"<html>")
    response = unix_http.request(server.path, "GET", "/x")
    assert ApiError("GET", "/x", response).message == "<html>"
