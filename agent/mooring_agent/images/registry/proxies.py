# SPDX-License-Identifier: Apache-2.0
"""Which HTTP proxy a connection takes, by the variables that Docker's daemon honours. Pure."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from mooring_agent.errors import InvalidSpec


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy; `authorization` is the value of Proxy-Authorization, or empty."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


def choose_proxy(environment: Mapping[str, str], scheme: str, host: str, port: int) -> Proxy | None:
    """The proxy for a connection, or None: HTTP_PROXY, HTTPS_PROXY and NO_PROXY, in either case.

    What is local is never asked of a proxy. Raises InvalidSpec for a proxy that cannot be used.
    """
    name = f"{scheme}_proxy"
    text = environment.get(name) or environment.get(name.upper())
    if not text or _is_exempt(environment.get("no_proxy") or environment.get("NO_PROXY") or "", host, port):
        return None
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        proxy_host, proxy_port = parts.hostname, parts.port or 80
    except ValueError:
        proxy_host, proxy_port = None, 0
    if not proxy_host or parts.scheme != "http":
        # The value is not shown: it may hold a password.
        raise InvalidSpec(
            f"the proxy in the environment variable {name.upper()} is not usable: expected "
            "http://[USER:PASSWORD@]HOST:PORT"
        )
    authorization = ""
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return Proxy(proxy_host, proxy_port, authorization)


def _is_exempt(no_proxy: str, host: str, port: int) -> bool:
    address = _address(host)
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for raw in no_proxy.split(","):
        entry = raw.strip().lower()
        if not entry:
            continue
        if entry == "*":
            return True
        if address is not None and _in_network(address, entry):
            return True
        name, colon, wanted = entry.rpartition(":")
        if colon and wanted.isdigit() and (":" not in name or name.startswith("[")):
            if int(wanted) != port:
                continue
            entry = name
        entry = entry.strip("[]").removeprefix("*").lstrip(".")
        if host.lower() == entry or host.lower().endswith(f".{entry}"):
            return True
    return False


def _in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, text: str) -> bool:
    try:
        return address in ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
