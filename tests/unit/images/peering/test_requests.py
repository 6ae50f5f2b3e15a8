# SPDX-License-Identifier: Apache-2.0
"""What peers ask for, and settings of peers."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.peering.requests import MAX_WAIT, Call, parse_range, parse_target, parse_wait
from mooring_agent.images.peering.settings import PeerSettings

DIGEST = "sha256:" + "a" * 64
TLS = {"ca_file": "/c", "certificate": "/h.crt", "key": "/h.key"}


@pytest.mark.parametrize(
    ("target", "call"),
    [
        ("/v2/", Call()),
        ("/v2/fleet/app/manifests/1.0", Call("fleet/app", "1.0")),
        (f"/v2/app/manifests/{DIGEST}", Call("app", DIGEST)),
        (f"/v2/a/b/c/blobs/{DIGEST.replace(':', '%3A')}", Call("a/b/c", digest=DIGEST)),
        ("/v2/library/app/manifests/1?ns=docker.io", Call("library/app", "1", registry="docker.io")),
        ("/v2/app/blobs/sha256:short", None),
        (f"/v2/../blobs/{DIGEST}", None),
        (f"/v2/a/../../blobs/{DIGEST}", None),
        (f"/v2/App/blobs/{DIGEST}", None),
        ("/v2/app/tags/list", None),
        ("/v2/_catalog", None),
        ("/mooring/v1/containers", None),
        ("/", None),
    ],
)
def test_targets(target: str, call: Call | None) -> None:
    assert parse_target(target) == call


@given(st.text())
def test_any_target_is_a_call_or_none(target: str) -> None:
    call = parse_target(target)
    assert call is None or ".." not in call.name.split("/")


@given(st.one_of(st.none(), st.text(), st.from_regex(r"bytes=\d{0,20}-\d{0,20}")), st.integers(0, 1 << 40))
def test_any_range_is_within_the_blob(header: str | None, size: int) -> None:
    found = parse_range(header, size)
    assert found is None or (0 <= found.start <= found.stop <= size and (found or not size))


def test_ranges() -> None:
    assert parse_range(None, 10) == range(10)
    assert parse_range("bytes=4-", 10) == range(4, 10)
    assert parse_range("bytes=4-5", 10) == range(4, 6)
    assert parse_range("bytes=4-99", 10) == range(4, 10)
    assert parse_range("bytes=10-", 10) is None
    # Not supported, hence all of it: RFC 9110 leaves that open.
    assert parse_range("bytes=-3", 10) == range(10)
    assert parse_range("bytes=1-2,4-5", 10) == range(10)
    assert parse_range("bytes=5-4", 10) == range(10)


def test_waits() -> None:
    assert parse_wait(None) == parse_wait("respond-async") == 0
    assert parse_wait("respond-async, wait=2") == 2
    assert parse_wait("wait=99999") == MAX_WAIT


def test_settings_say_themselves_again() -> None:
    spec = {"listen": "0.0.0.0:7070", "address": "a:7070", "members": ["a:7070", "b:7070"], "tls": TLS}
    settings = PeerSettings.parse(spec)
    assert settings.others == ("b:7070",)
    assert PeerSettings.parse(settings.to_spec()) == settings
    plain = PeerSettings.parse({"listen": "127.0.0.1:7070", "members": ["[::1]:7071"], "plain": True})
    assert PeerSettings.parse(plain.to_spec()) == plain


@pytest.mark.parametrize(
    ("spec", "names"),
    [
        ({}, "peers.listen"),
        ({"listen": "7070"}, "peers.listen"),
        ({"listen": "127.0.0.1:99999"}, "peers.listen"),
        ({"listen": "127.0.0.1:7070"}, "peers.tls"),
        ({"listen": "127.0.0.1:7070", "plain": True, "tls": TLS}, "peers.tls"),
        ({"listen": "127.0.0.1:7070", "tls": {"ca_file": "/c"}}, "peers.tls"),
        ({"listen": "127.0.0.1:7070", "tls": TLS | {"key": "h.key"}}, "peers.tls.key"),
        ({"listen": "10.0.0.1:7070", "plain": True}, "peers.plain"),
        ({"listen": "127.0.0.1:7070", "plain": True, "members": ["10.0.0.1:7070"]}, "peers.plain"),
        ({"listen": "0.0.0.0:7070", "tls": TLS}, "peers.address"),
        ({"listen": "a:1", "tls": TLS, "members": "b:1"}, "peers.members"),
        ({"listen": "a:1", "tls": TLS, "members": ["b"]}, "peers.members"),
        ({"listen": "a:1", "tls": TLS, "uploads": 0}, "peers.uploads"),
        ({"listen": "a:1", "tls": TLS, "upload": 1}, "'upload'"),
    ],
)
def test_settings_that_are_no_use_are_named(spec: dict[str, Any], names: str) -> None:
    with pytest.raises(InvalidSpec, match=names):
        PeerSettings.parse(spec)
