# SPDX-License-Identifier: Apache-2.0
"""What `mooring run` says of networks and ports, in Docker's words where it has any, and `mooring network
connect|disconnect|key`.
"""

from __future__ import annotations

import argparse
from typing import Any

from ..engine.resources.ports import Port, PortMapping, Ports
from ..errors import InvalidSpec
from .client import FLEET, segment
from .containers import client_of
from .images import pair

_ENDPOINT_KEYS = (
    *("alias", "default-route", "driver-opt", "ip", "ip6", "link", "link-local-ip", "mac-address", "name"),
    *("spoofing", "sysctl"),
)
_FLAGS = ("default-route", "spoofing")


def endpoint(text: str) -> tuple[str, dict[str, Any]]:
    """A network and an endpoint's settings in Docker's words, from NAME or name=NAME,ip=…,alias=… . Raises
    InvalidSpec.
    """
    given = _endpoint_parts(text)
    [name] = given["name"]
    if "=" not in text:
        return name, {}
    return name, {
        "Aliases": given.get("alias"),
        "Links": given.get("link"),
        "IPAMConfig": {
            "IPv4Address": _one(given, "ip"),
            "IPv6Address": _one(given, "ip6"),
            "LinkLocalIPs": given.get("link-local-ip"),
        },
        "MacAddress": _one(given, "mac-address"),
        "GwPriority": int("default-route" in given),
        "DriverOpts": _driver_options(given),
    }


def _driver_options(given: dict[str, list[str]]) -> dict[str, str]:
    options = dict(pair(item, "--network driver-opt") for item in given.get("driver-opt", ()))
    if "sysctl" in given:
        options["com.docker.network.endpoint.sysctls"] = ",".join(given["sysctl"])
    return options


def _attachment(text: str) -> dict[str, Any]:
    """The same in our words."""
    given = _endpoint_parts(text)
    [name] = given["name"]
    settings = {
        "name": "bridge" if name == "default" else name,
        "ipv4_address": _one(given, "ip"),
        "ipv6_address": _one(given, "ip6"),
        "mac_address": _one(given, "mac-address"),
        "aliases": given.get("alias"),
        "links": _links(given.get("link", [])),
        "default_route": "default-route" in given,
        "spoofing": "allowed" if "spoofing" in given else None,
        "sysctls": given.get("sysctl"),
        "link_local": given.get("link-local-ip"),
        "driver_opts": given.get("driver-opt"),
    }
    return {option: value for option, value in settings.items() if value}


def _endpoint_parts(text: str) -> dict[str, list[str]]:
    if "=" not in text:
        return {"name": [text]}
    given: dict[str, list[str]] = {}
    for part in text.split(","):
        key, mark, value = part.partition("=")
        if key not in _ENDPOINT_KEYS or bool(mark) is (key in _FLAGS):
            raise InvalidSpec(
                f"--network {text} has {part!r}: expected NAME, or parts of {', '.join(_ENDPOINT_KEYS)}"
            )
        given.setdefault(key, []).append(value)
    if len(given.get("name", ())) != 1:
        raise InvalidSpec(f"--network {text} names no network or several: expected name=NAME once")
    return given


def _links(given: list[str]) -> dict[str, str]:
    """CONTAINER[:ALIAS] as alias → container."""
    pairs = (text.partition(":")[::2] for text in given)
    return {alias or container: container for container, alias in pairs}


def _one(given: dict[str, list[str]], key: str) -> str:
    values = given.get(key, [""])
    if len(values) > 1:
        raise InvalidSpec(f"--network has {key} twice: expected it once")
    return values[0]


def ports(given: list[str]) -> dict[str, list[dict[str, str]]]:
    """HostConfig.PortBindings of [[IP:]HOST:]PORT[/PROTOCOL][,…]. Raises InvalidSpec."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in _published(given):
        where = bindings.setdefault(f"{port.container}/{port.protocol}", [])
        where.append({"HostIp": port.host_ip, "HostPort": port.asked})
    return bindings


def _published(given: list[str]) -> list[PortMapping]:
    """What is published, in the order in which it was said."""
    found: list[PortMapping] = []
    for text in given:
        place, *parts = text.split(",")
        shared: dict[str, str] = {}
        for part in parts:
            key, mark, value = part.partition("=")
            if key not in ("balance", "weight") or not mark or key in shared:
                raise InvalidSpec(
                    f"--publish {text} has {part!r}: expected [[IP:]HOST:]PORT[/PROTOCOL], and after it "
                    "balance=… and weight=…, each once"
                )
            shared[key] = value
        for port in Ports().parse([place], "--publish") or ():
            parsed = Port().parse({**Port().dump(port), **shared}, f"--publish {text}")
            found += [] if parsed is None else [parsed]
    return found


def beyond_docker(arguments: argparse.Namespace) -> dict[str, Any]:
    """What was said of a new container that Docker has no words for, as options that change while it lives;
    empty if nothing was. Raises InvalidSpec.
    """
    published = _published(arguments.publish)
    networks = [_attachment(text) for text in arguments.network]
    said = {
        "network_limits": arguments.network_limit,
        "network_class": arguments.network_class,
        "drain": arguments.drain,
        "ports": [Port().dump(port) for port in published] if any(one.balance for one in published) else None,
        "networks": networks if any("spoofing" in one for one in networks) else None,
    }
    return {option: value for option, value in said.items() if value is not None}


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
    body = {"container": arguments.container, **place(arguments)}
    client_of(arguments).call("POST", f"{FLEET}/networks/{segment(arguments.network)}/connect", body)
    return 0


def place(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is asked for of a container's place on a network."""
    asked = {
        "ipv4_address": arguments.ip,
        "ipv6_address": arguments.ip6,
        "mac_address": arguments.mac_address,
        "aliases": arguments.alias or None,
        "links": _links(arguments.link) or None,
        "default_route": arguments.default_route or None,
        "sysctls": arguments.sysctl or None,
        "link_local": arguments.link_local_ip or None,
        "driver_opts": arguments.driver_opt or None,
        "spoofing": "allowed" if arguments.spoofing else None,
    }
    return {option: value for option, value in asked.items() if value is not None}


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
