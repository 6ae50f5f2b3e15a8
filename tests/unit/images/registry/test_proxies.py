# SPDX-License-Identifier: Apache-2.0
"""HTTP_PROXY, HTTPS_PROXY and NO_PROXY."""

from __future__ import annotations

import pytest

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.registry.proxies import Proxy, choose_proxy


def chosen(no_proxy: str, host: str, port: int = 443) -> bool:
    environment = {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": no_proxy}
    return choose_proxy(environment, "https", host, port) is not None


def test_each_scheme_has_its_variable() -> None:
    environment = {"HTTP_PROXY": "proxy", "https_proxy": "http://me:pa%20ss@secure:3128"}
    assert choose_proxy(environment, "http", "a.example", 80) == Proxy("proxy", 80)
    assert choose_proxy(environment, "https", "a.example", 443) == Proxy("secure", 3128, "Basic bWU6cGEgc3M=")
    assert choose_proxy({}, "https", "a.example", 443) is None


@pytest.mark.parametrize(
    ("no_proxy", "host", "port", "expected"),
    [
        ("", "a.example", 443, True),
        ("*", "a.example", 443, False),
        ("a.example", "a.example", 443, False),
        ("a.example", "b.a.example", 443, False),
        (".a.example", "b.A.example", 443, False),
        ("*.a.example", "b.a.example", 443, False),
        ("a.example", "ba.example", 443, True),
        ("a.example:5000", "a.example", 5000, False),
        ("a.example:5000", "a.example", 443, True),
        ("b, 10.0.0.0/8", "10.1.2.3", 443, False),
        ("10.0.0.0/8", "11.1.2.3", 443, True),
        ("fd00::/8", "fd00::1", 443, False),
        ("", "localhost", 5000, False),
        ("", "127.0.0.1", 5000, False),
        ("", "::1", 5000, False),
    ],
)
def test_what_is_exempt(no_proxy: str, host: str, port: int, expected: bool) -> None:
    assert chosen(no_proxy, host, port) is expected


@pytest.mark.parametrize(
    "text", ["socks5://me:secret@proxy", "https://me:secret@proxy", "http://me:secret@:99999"]
)
def test_a_proxy_that_cannot_be_used_is_told_without_its_password(text: str) -> None:
    with pytest.raises(InvalidSpec, match="environment variable HTTPS_PROXY is not usable") as refused:
        choose_proxy({"HTTPS_PROXY": text}, "https", "a.example", 443)
    assert "secret" not in refused.value.message
