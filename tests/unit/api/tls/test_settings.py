# SPDX-License-Identifier: Apache-2.0
"""What the configuration may say of TLS."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.tls.settings import TlsSettings
from mooring_agent.errors import InvalidSpec

FILES = {"ca_file": "/etc/ca.pem", "certificate": "/etc/a.pem", "key": "/etc/a.key"}


@pytest.mark.parametrize(
    ("listen", "host", "port", "address"),
    [
        ("0.0.0.0:2376", "0.0.0.0", 2376, "0.0.0.0:2376"),
        ("192.0.2.7", "192.0.2.7", 2376, "192.0.2.7:2376"),
        ("[2001:db8::7]", "2001:db8::7", 2376, "[2001:db8::7]:2376"),
        ("[::]:99", "::", 99, "[::]:99"),
    ],
)
def test_where_it_listens(listen: str, host: str, port: int, address: str) -> None:
    found = TlsSettings.parse({"listen": listen, **FILES})
    assert (found.host, found.port, found.address) == (host, port, address)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ({"listen": "0.0.0.0"}, ["tls.ca_file", "missing"]),
        ({"listen": None, **FILES}, ["tls.listen", "missing"]),
        ({"listen": "0.0.0.0", **FILES, "key": "a.key"}, ["tls.key", "absolute"]),
        ({"listen": "0.0.0.0", **FILES, "verify": False}, ["verify", "unknown"]),
        ({"listen": "host:2376", **FILES}, ["tls.listen", "host:2376"]),
        ({"listen": "0.0.0.0:65536", **FILES}, ["tls.listen"]),
        ({"listen": "0.0.0.0:0", **FILES}, ["tls.listen"]),
        ({"listen": "0.0.0.0.0:1", **FILES}, ["tls.listen"]),
        ({"listen": "2001:db8::7", **FILES}, ["tls.listen", "[2001:db8::7]:2376"]),
        ({"listen": "[192.0.2.7]", **FILES}, ["tls.listen"]),
        ({"listen": 2376, **FILES}, ["tls.listen", "2376"]),
    ],
)
def test_what_is_no_use_is_named(spec: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        TlsSettings.parse(spec)
    assert all(part in caught.value.message for part in parts), caught.value.message


@given(st.one_of(st.text(), st.from_regex(r"[0-9.\[\]:a-f]{0,30}", fullmatch=True)))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        found = TlsSettings.parse({"listen": text, **FILES})
    except InvalidSpec:
        return
    assert TlsSettings.parse({"listen": found.address, **FILES}) == found
