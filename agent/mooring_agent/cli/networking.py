# SPDX-License-Identifier: Apache-2.0
"""What `mooring run` says of networks in Docker's words, and `mooring network connect|disconnect|key`."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import InvalidSpec
from .client import FLEET, segment
from .containers import client_of

_ENDPOINT_KEYS = ("alias", "default-route", "ip", "ip6", "mac-address", "name", "sysctl")


def endpoint(text: str) -> tuple[str, dict[str, Any]]:
    """A network and an endpoint's settings, from NAME or name=NAME,ip=…,alias=… . Raises InvalidSpec."""
    if "=" not in text:
        return text, {}
    given: dict[str, list[str]] = {}
    for part in text.split(","):
        key, mark, value = part.partition("=")
        if key not in _ENDPOINT_KEYS or bool(mark) is (key == "default-route"):
            raise InvalidSpec(
                f"--network {text} has {part!r}: expected NAME, or parts of {', '.join(_ENDPOINT_KEYS)}"
            )
        given.setdefault(key, []).append(value)
    if len(given.get("name", ())) != 1:
        raise InvalidSpec(f"--network {text} names no network or several: expected name=NAME once")
    [name] = given["name"]
    return name, {
        "Aliases": given.get("alias"),
        "IPAMConfig": {"IPv4Address": _one(given, "ip"), "IPv6Address": _one(given, "ip6")},
        "MacAddress": _one(given, "mac-address"),
        "GwPriority": int("default-route" in given),
        "DriverOpts": {"com.docker.network.endpoint.sysctls": ",".join(given["sysctl"])}
        if "sysctl" in given
        else None,
    }


def _one(given: dict[str, list[str]], key: str) -> str:
    values = given.get(key, [""])
    if len(values) > 1:
        raise InvalidSpec(f"--network has {key} twice: expected it once")
    return values[0]


def networking(arguments: argparse.Namespace) -> dict[str, Any]:
    """The body's NetworkingConfig; empty where there is nothing to say."""
    endpoints: dict[str, dict[str, Any]] = {}
    for name, settings in map(endpoint, arguments.network):
        if name in endpoints:
            raise InvalidSpec(f"--network names {name} twice: expected each network once")
        endpoints[name] = settings
    if len(endpoints) < 2 and not any(endpoints.values()):
        return {}
    return {"NetworkingConfig": {"EndpointsConfig": endpoints}}


def names(arguments: argparse.Namespace) -> dict[str, Any]:
    """What HostConfig says of the first network, of resolvers and of names."""
    return {
        "NetworkMode": endpoint(arguments.network[0])[0] if arguments.network else "",
        "Dns": arguments.dns,
        "DnsSearch": arguments.dns_search,
        "DnsOptions": arguments.dns_option,
        "ExtraHosts": arguments.add_host,
        "Links": arguments.link,
    }


def connect(arguments: argparse.Namespace) -> int:
    """Bring a container onto a network while it runs."""
    body = {
        "container": arguments.container,
        "ipv4_address": arguments.ip,
        "ipv6_address": arguments.ip6,
        "mac_address": arguments.mac_address,
        "aliases": arguments.alias or None,
        "default_route": arguments.default_route or None,
        "sysctls": arguments.sysctl or None,
    }
    given = {name: value for name, value in body.items() if value is not None}
    client_of(arguments).call("POST", f"{FLEET}/networks/{segment(arguments.network)}/connect", given)
    return 0


def disconnect(arguments: argparse.Namespace) -> int:
    """Take a container off a network while it runs."""
    path = f"{FLEET}/networks/{segment(arguments.network)}/disconnect"
    client_of(arguments).call("POST", path, {"container": arguments.container})
    return 0


def key(arguments: argparse.Namespace) -> int:
    """Tell the public key of this host for encrypted networks, or make another one and tell that."""
    client, path = client_of(arguments), f"{FLEET}/host/network-key"
    answer = client.call("POST", f"{path}/renew") if arguments.renew else client.call("GET", path)
    print(answer["public_key"])
    return 0
