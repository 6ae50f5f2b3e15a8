# SPDX-License-Identifier: Apache-2.0
"""What registries answer with: pages, times to wait, refusals, manifests."""

from __future__ import annotations

import email.utils
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import Denied, InvalidSpec, MooringError, NotFound, Unauthorized, Unavailable
from mooring_agent.images.content import MEDIA_INDEX, MEDIA_MANIFEST
from mooring_agent.images.manifests import DOCKER_LIST, DOCKER_MANIFEST
from mooring_agent.images.registry.client import next_page
from mooring_agent.images.registry.documents import check_manifest
from mooring_agent.images.registry.refusals import Refusal, parse_refusal, parse_retry_after, refused
from mooring_agent.images.registry.retrying import Retrying, RetryPolicy
from mooring_agent.images.registry.settings import Credentials, Endpoint

NOW = 1_800_000_000.0
URL = "https://registry.example:5000/v2/app/tags/list?n=1000"
MANIFEST = {"schemaVersion": 2, "config": {}, "layers": []}
INDEX = {"schemaVersion": 2, "manifests": []}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5.0),
        (" 0 ", 0.0),
        (email.utils.formatdate(NOW + 30, usegmt=True), 30.0),
        (email.utils.formatdate(NOW - 30, usegmt=True), 0.0),
        (None, None),
        ("", None),
        ("-5", None),
        ("soon", None),
        ("٣", None),
        ("Wed, 99 Foo 2026", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text, NOW) == seconds


@given(st.text(max_size=40))
def test_any_retry_after_is_read_without_an_error(text: str) -> None:
    seconds = parse_retry_after(text, NOW)
    assert seconds is None or seconds >= 0


@pytest.mark.parametrize(
    ("link", "following"),
    [
        ('</v2/app/tags/list?last=b&n=2>; rel="next"', "/v2/app/tags/list?last=b&n=2"),
        ("<?last=b>; rel=next", "/v2/app/tags/list?last=b"),
        ('<http://internal/v2/app/tags/list?last=b>; rel="next"', "/v2/app/tags/list?last=b"),
        ('</first>; rel="first", </second>; title="x"; rel="next"', "/second"),
        ('</x>; rel="prev"', None),
        ('<http://[bad>; rel="next"', None),
        ("nonsense", None),
        (None, None),
    ],
)
def test_the_next_page_is_at_the_same_registry(link: str | None, following: str | None) -> None:
    expected = f"https://registry.example:5000{following}" if following else None
    assert next_page(link, URL) == expected


@given(st.text(max_size=60))
def test_any_link_is_read_without_an_error(link: str) -> None:
    found = next_page(link, URL)
    assert found is None or found.startswith("https://registry.example:5000")


@pytest.mark.parametrize(
    ("body", "refusal"),
    [
        (
            b'{"errors":[{"code":"DENIED","message":"no\\u001b[31m\\n  way"}]}',
            Refusal("DENIED", "no [31m way"),
        ),
        (b'{"errors":[{"code":5}]}', Refusal()),
        (b'{"errors":[]}', Refusal()),
        (b"<html>", Refusal()),
        (b"\xff", Refusal()),
        (b"[" * 100_000, Refusal()),
        (None, Refusal()),
    ],
)
def test_a_registrys_reason_is_shown_on_one_line(body: bytes | None, refusal: Refusal) -> None:
    assert parse_refusal(body) == refusal


def test_a_long_reason_is_cut() -> None:
    body = json.dumps({"errors": [{"message": "x" * 10_000}]}).encode()
    assert len(parse_refusal(body).message) == 300


@pytest.mark.parametrize(
    ("status", "credentials", "kind", "words"),
    [
        (401, None, Unauthorized, "denies it without credentials (DENIED: no)"),
        (403, None, Unauthorized, "give credentials with the request, in registries.a.example"),
        (401, Credentials("the request", "me", "secret"), Unauthorized, "to user 'me', from the request"),
        (403, Credentials("/config.json", "", identity_token="x"), Denied, "to a token, from /config.json"),
        (404, None, NotFound, "registry a.example does not have it"),
        (429, None, Unavailable, "log in for a higher limit"),
        (500, None, Unavailable, "answers with status 500"),
        (400, None, InvalidSpec, "refuses it with status 400"),
        (302, None, Unavailable, "status 302"),
    ],
)
def test_each_status_has_its_error(
    status: int, credentials: Credentials | None, kind: type[MooringError], words: str
) -> None:
    endpoint = Endpoint("a.example", "a.example")
    error = refused(
        status, Refusal("DENIED", "no"), "pull of app:1", endpoint, credentials, sent=credentials is not None
    )
    assert type(error) is kind
    assert error.message.startswith("pull of app:1: ")
    assert words in error.message
    assert "secret" not in error.message


@pytest.mark.parametrize(
    ("document", "content_type", "media_type"),
    [
        ({**MANIFEST, "mediaType": MEDIA_MANIFEST}, MEDIA_MANIFEST, MEDIA_MANIFEST),
        ({**MANIFEST, "mediaType": DOCKER_MANIFEST}, f"{DOCKER_MANIFEST}; charset=utf-8", DOCKER_MANIFEST),
        ({**INDEX, "mediaType": DOCKER_LIST}, "application/json", DOCKER_LIST),
        (INDEX, None, MEDIA_INDEX),
        (MANIFEST, "text/plain", MEDIA_MANIFEST),
        (INDEX, MEDIA_INDEX, MEDIA_INDEX),
    ],
)
def test_the_kind_of_a_manifest_is_told(
    document: dict[str, object], content_type: str | None, media_type: str
) -> None:
    assert check_manifest(json.dumps(document).encode(), content_type, "it") == media_type


@pytest.mark.parametrize(
    ("document", "content_type", "words"),
    [
        ({**MANIFEST, "manifests": []}, MEDIA_MANIFEST, "it has manifests"),
        ({**INDEX, "layers": []}, MEDIA_INDEX, "it has layers"),
        ({**INDEX, "config": {}}, None, "it has config"),
        ({**MANIFEST, "mediaType": MEDIA_MANIFEST}, MEDIA_INDEX, "contradicts itself"),
        (MANIFEST, MEDIA_INDEX, "it has layers, config"),
        (INDEX, DOCKER_MANIFEST, "it has manifests"),
        ({"schemaVersion": 2}, MEDIA_MANIFEST, "no list of layers"),
        ({**MANIFEST, "layers": {}}, MEDIA_MANIFEST, "no list of layers"),
        ({**MANIFEST, "mediaType": 5}, MEDIA_MANIFEST, "its mediaType is no text"),
        ({"schemaVersion": 1, "fsLayers": []}, "application/json", "schema 1, which is not supported"),
        ({}, "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        ({}, "text/html", "its media type is 'text/html'"),
        ([], MEDIA_MANIFEST, "expected a JSON object"),
    ],
)
def test_a_manifest_about_which_there_is_doubt_is_refused(
    document: object, content_type: str | None, words: str
) -> None:
    with pytest.raises(InvalidSpec, match=r"^it ") as refused:
        check_manifest(json.dumps(document).encode(), content_type, "it")
    assert words in refused.value.message


@given(st.binary(max_size=60), st.none() | st.text(max_size=20))
def test_any_document_is_refused_or_told(body: bytes, content_type: str | None) -> None:
    with pytest.raises(InvalidSpec):
        check_manifest(body, content_type, "it")


def test_waits_double_and_are_bounded_in_number_and_sum() -> None:
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        return False

    retrying = Retrying(RetryPolicy(attempts=5, base=1.0, longest=3.0, total=100.0), wait)
    while retrying.again():
        pass
    assert retrying.attempts == 5
    for waited, at_most in zip(waits, (1.0, 2.0, 3.0, 3.0), strict=True):
        assert at_most / 2 <= waited <= at_most
    retrying = Retrying(RetryPolicy(attempts=99, base=1.0, total=10.0), wait)
    waits.clear()
    assert retrying.again(4.0)
    assert 4.5 <= waits[0] <= 5.0
    assert not retrying.again(6.0)
    assert Retrying(RetryPolicy(attempts=9, unreachable=1), wait).again(unreachable=True) is False


def test_a_stop_ends_the_waiting() -> None:
    with pytest.raises(Unavailable, match="the agent is stopping"):
        Retrying(RetryPolicy(), lambda seconds: True).again()
