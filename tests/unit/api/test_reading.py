# SPDX-License-Identifier: Apache-2.0
"""What clients send as text is read strictly: routes, queries, times, keys, instructions."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.docker.durations import in_words
from mooring_agent.api.docker.terminals import DetachFilter, detach_keys
from mooring_agent.api.logformat import LineFormatter
from mooring_agent.api.messages import Reply, Request, no_content
from mooring_agent.api.query import Query
from mooring_agent.api.router import MethodNotAllowed, Route, Router
from mooring_agent.api.timestamps import parse, rfc3339
from mooring_agent.errors import InvalidSpec, NotFound


async def call(request: Request) -> Reply:
    return no_content()


class NoBody:
    def __aiter__(self) -> AsyncIterator[bytes]:
        raise AssertionError("what a route is chosen by is no part of the body")


def request(method: str, path: str) -> Request:
    return Request(method, path, Query(), {}, NoBody())


ROUTER = Router(
    [
        Route("GET", "/images/json", call, versioned=True),
        Route("GET", "/images/{ref:path}/json", call, versioned=True),
        Route("DELETE", "/images/{ref:path}", call, versioned=True),
        Route("GET", "/things/{id}", call),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "template", "params"),
    [
        ("GET", "/images/json", "/images/json", {}),
        ("GET", "/v1.47/images/json", "/images/json", {}),
        ("HEAD", "/images/json", "/images/json", {}),
        ("GET", "/images/a/b:1/json", "/images/{ref:path}/json", {"ref": "a/b:1"}),
        ("GET", "/images/json/json", "/images/{ref:path}/json", {"ref": "json"}),
        ("DELETE", "/v1.24/images/a%2Fb", "/images/{ref:path}", {"ref": "a/b"}),
        ("GET", "/things/a%20%C3%A9", "/things/{id}", {"id": "a é"}),
    ],
)
def test_routes(method: str, path: str, template: str, params: dict[str, str]) -> None:
    asked = request(method, path)
    assert ROUTER.resolve(asked).path == template
    assert asked.params == params


@pytest.mark.parametrize(
    "path", ["/", "/images", "/images/", "/things/a/b", "/v1.47/things/a", "/v1.47", "//", "/v1.x/y"]
)
def test_no_route(path: str) -> None:
    with pytest.raises(NotFound):
        ROUTER.resolve(request("GET", path))


def test_other_methods_are_named() -> None:
    with pytest.raises(MethodNotAllowed) as caught:
        ROUTER.resolve(request("PUT", "/things/x"))
    assert caught.value.allowed == ("GET",)


def test_a_path_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(InvalidSpec):
        ROUTER.resolve(request("GET", "/things/%FF"))


@pytest.mark.parametrize(
    ("text", "value"), [("1", True), ("True", True), ("YES", True), ("", False), ("0", False), ("no", False)]
)
def test_flags(text: str, value: bool) -> None:
    assert Query(f"x={text}").flag("x") is value


@pytest.mark.parametrize(
    ("raw", "read"),
    [
        ("x=maybe", lambda query: query.flag("x")),
        ("x=1.5", lambda query: query.integer("x")),
        ("x=-1", lambda query: query.integer("x", minimum=0)),
        ("x=9999999999999999999", lambda query: query.integer("x")),
        ("x=%D9%A3", lambda query: query.integer("x")),  # a digit of another script
        ('filters={"x":["%5cud800"]}', lambda query: query.filters(("x",))),
        ("x=nan", lambda query: query.number("x")),
        ("x=inf", lambda query: query.number("x")),
        ("x=-1", lambda query: query.number("x", minimum=0)),
        ("filters=x", lambda query: query.filters(("x",))),
        ("filters=[]", lambda query: query.filters(("x",))),
        ('filters={"y":[]}', lambda query: query.filters(("x",))),
        ('filters={"x":[1]}', lambda query: query.filters(("x",))),
        ('filters={"x":{"a":1}}', lambda query: query.filters(("x",))),
        ("filters=" + "[" * 100_000, lambda query: query.filters(("x",))),
    ],
)
def test_bad_values_are_refused_by_name(raw: str, read: Any) -> None:
    with pytest.raises(InvalidSpec) as caught:
        read(Query(raw))
    assert raw.split("=")[0].rstrip("s") in caught.value.message


def test_filters_in_both_forms() -> None:
    assert Query('filters={"a":{"x":true,"y":false},"b":["z"],"c":[]}').filters("abc") == {
        "a": ("x",),
        "b": ("z",),
    }


@given(st.text(max_size=200))
def test_any_query_is_read_or_refused(raw: str) -> None:
    with contextlib.suppress(InvalidSpec):
        query = Query(raw)
        for name in query.to_dict():
            assert isinstance(query.text(name), str)
        query.filters(("name",))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", None),
        ("0", None),
        ("1700000000", 1_700_000_000.0),
        ("1700000000.5", 1_700_000_000.5),
        ("2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("2023-11-14T22:13:20.25Z", 1_700_000_000.25),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000.0),
        ("2023-11-14T22:13:20", 1_700_000_000.0),
        ("2023-11-14", 1_699_920_000.0),
    ],
)
def test_times(text: str, seconds: float | None) -> None:
    assert parse(text, "since") == seconds


@pytest.mark.parametrize(
    "text", ["x", "2023-02-30T00:00:00Z", "2023-11-14T22:13:20+99:00", "nan", "1e9", "99999-01-01"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(InvalidSpec, match="since="):
        parse(text, "since")


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_times_survive_the_wire(nanoseconds: int) -> None:
    text = rfc3339(nanoseconds)
    assert parse(text, "x") == pytest.approx(nanoseconds / 1e9, abs=1e-6) or nanoseconds == 0
    assert len(rfc3339(nanoseconds, fixed=True)) == len("2006-01-02T15:04:05.000000000Z")
    assert not text.removesuffix("Z").endswith(".")


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "Less than a second"),
        (1, "1 second"),
        (59, "59 seconds"),
        (61, "About a minute"),
        (150, "2 minutes"),
        (3600, "About an hour"),
        (2 * 3600, "2 hours"),
        (47 * 3600, "47 hours"),
        (3 * 86400, "3 days"),
        (15 * 86400, "2 weeks"),
        (90 * 86400, "3 months"),
        (3 * 365 * 86400, "3 years"),
    ],
)
def test_spans_in_the_words_of_docker_ps(seconds: float, words: str) -> None:
    assert in_words(seconds) == words


def test_detach_keys() -> None:
    assert detach_keys("") == b"\x10\x11"
    assert detach_keys("ctrl-a,x,ctrl-@") == b"\x01x\x00"
    for wrong in ("ctrl-", "ctrl-1", "ab", "ctrl-a,,b"):
        with pytest.raises(InvalidSpec, match="detachKeys"):
            detach_keys(wrong)


@given(st.lists(st.binary(max_size=4), max_size=12))
def test_what_is_typed_is_passed_on_whole_but_for_the_keys(pieces: list[bytes]) -> None:
    typed = b"".join(pieces)
    detach = DetachFilter(b"\x10\x11")
    passed, detached = b"", False
    for piece in pieces:
        more, detached = detach.feed(piece)
        passed += more
        if detached:
            break
    before, mark, _ = typed.partition(b"\x10\x11")
    assert detached is bool(mark)
    # What may be the beginning of the keys is held back.
    assert passed == (before if mark else typed.removesuffix(b"\x10"))


def test_keys_may_begin_again_inside_themselves() -> None:
    assert DetachFilter(b"\x10\x11").feed(b"\x10\x10\x11x") == (b"\x10", True)


def test_a_log_record_is_one_line() -> None:
    import logging

    try:
        raise ValueError("two\nlines")
    except ValueError:
        import sys

        record = logging.LogRecord(
            "mooring_agent.api.x", 20, "f", 1, "did name=%s", ("a\nb",), sys.exc_info()
        )
    line = LineFormatter().format(record)
    assert "\n" not in line
    assert "level=info logger=api.x event=did name=a\\nb traceback=" in line


def test_progress_drops_no_outcome_when_nobody_reads_for_long() -> None:
    from mooring_agent.api.progress import report
    from mooring_agent.images.image import Progress, ProgressEvent

    async def work(progress: Progress) -> dict[str, Any]:
        for number in range(1000):
            progress(ProgressEvent("step", number))
        return {"changed": True}

    async def main() -> list[dict[str, Any]]:
        return [event async for event in report(work)]

    events = asyncio.run(main())
    assert events[-1] == {"outcome": {"changed": True}}
    assert events[-2]["progress"]["current"] == 999
    assert len(events) < 100
