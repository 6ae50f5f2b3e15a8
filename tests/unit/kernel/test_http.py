# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_kernel.core.http import BadAnswer, Deadline, Silence, follow, request, upgrade


class Script:
    """A stream that answers with given bytes, in given pieces."""

    def __init__(self, answer: bytes, places: list[int] | None = None) -> None:
        bounds = [0, *sorted(place % (len(answer) + 1) for place in places or ()), len(answer)]
        self.pieces = [answer[a:b] for a, b in itertools.pairwise(bounds) if a != b]
        self.sent = b""

    def sendall(self, data: bytes, /) -> None:
        self.sent += data

    def recv(self, size: int, /) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def settimeout(self, timeout: float | None, /) -> None:
        assert timeout is None or timeout > 0

    def close(self) -> None:
        pass


def get(answer: bytes, places: list[int] | None = None) -> tuple[int, bytes]:
    response = request(Script(answer, places), "GET", "/x", None, {}, Deadline(5))
    return response.status, response.body


cuts = st.lists(st.integers(min_value=0), max_size=10)


@given(cuts)
def test_a_body_of_known_length_is_read_however_it_comes(places: list[int]) -> None:
    assert get(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX: y\r\n\r\nhello", places) == (200, b"hello")


@given(cuts)
def test_chunks_are_put_together(places: list[int]) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"5\r\nhello\r\n6;x=y\r\n world\r\n0\r\nTrailer: z\r\n\r\n"
    )
    assert get(answer, places) == (200, b"hello world")


@given(cuts)
def test_lines_are_told_one_by_one(places: list[int]) -> None:
    answer = (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
        b"4\r\na\n\nb\r\n4\r\nb\nc\n\r\n1\r\nd\r\n0\r\n\r\n"
    )
    response, lines = follow(Script(answer, places), "POST", "/x", b"{}", {}, Silence(5))
    assert (response.status, list(lines)) == (200, [b"a", b"bb", b"c", b"d"])
    refused = b"HTTP/1.1 404 Not Found\r\nContent-Length: 5\r\n\r\nhello"
    response, lines = follow(Script(refused, places), "POST", "/x", b"{}", {}, Silence(5))
    assert (response.status, response.body, list(lines)) == (404, b"hello", [])


@given(cuts)
def test_a_body_without_length_ends_with_the_connection(places: list[int]) -> None:
    assert get(b"HTTP/1.0 404 Not Found\r\n\r\nabc", places) == (404, b"abc")


def test_interim_answers_are_passed_over() -> None:
    assert get(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n") == (204, b"")


@given(cuts, st.binary(max_size=20))
def test_what_comes_right_after_an_upgrade_is_not_lost(places: list[int], first: bytes) -> None:
    answer = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: p\r\nMooring-Exec-Id: 7\r\n\r\n" + first
    stream = Script(answer, places)
    response, rest = upgrade(stream, "/x", b"{}", "p", {}, Deadline(5))
    assert response.headers["mooring-exec-id"] == "7"
    assert rest + b"".join(stream.pieces) == first
    assert b"Connection: Upgrade\r\nUpgrade: p\r\n" in stream.sent
    assert stream.sent.endswith(b"Content-Length: 2\r\n\r\n{}")


def test_a_refused_upgrade_tells_why() -> None:
    stream = Script(b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!")
    response, rest = upgrade(stream, "/x", b"{}", "p", {}, Deadline(5))
    assert (response.status, response.body, rest) == (404, b"no!", b"")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "ended before the answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "begins with 'SSH-2.0-OpenSSH_9.2', expected HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", "ended in the middle"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "a chunk has the size b'zz'"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000, "longer than 65536 bytes"),
    ],
)
def test_what_is_no_answer_is_told(answer: bytes, reason: str) -> None:
    with pytest.raises(BadAnswer) as caught:
        get(answer)
    assert reason in str(caught.value)


def test_a_deadline_that_is_over_is_an_error() -> None:
    with pytest.raises(TimeoutError) as caught:
        request(Script(b""), "GET", "/", None, {}, Deadline(-1))
    assert "no answer within" in str(caught.value)
