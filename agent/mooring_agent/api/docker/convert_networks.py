# SPDX-License-Identifier: Apache-2.0
"""The networks and ports of a container to be created, from Docker's words to ours."""

from __future__ import annotations

from typing import Any

from .rules import Draft, asks, mapping, objects, refused, text, texts, unsupported

DEFAULT_NETWORK = "bridge"

# What an endpoint's settings report and never ask for: clients send back what they were shown.
_REPORTED = frozenset(
    {
        "DNSNames",
        "EndpointID",
        "Gateway",
        "GlobalIPv6Address",
        "GlobalIPv6PrefixLen",
        "IPAddress",
        "IPPrefixLen",
        "IPv6Gateway",
        "NetworkID",
    }
)


def network_name(given: str) -> str:
    """Our name of a network: Docker's "default" is the bridge."""
    return DEFAULT_NETWORK if given == "default" else given


def mode(draft: Draft, value: Any, where: str) -> None:
    """HostConfig.NetworkMode: the first network."""
    given = text(value, where)
    if given is None:
        return
    name = network_name(given)
    known = next((network for network in draft.networks if network["name"] == name), None)
    if known is not None:
        draft.networks.remove(known)
    draft.networks.insert(0, known or {"name": name})


def networking(draft: Draft, value: Any, where: str) -> None:
    """NetworkingConfig.EndpointsConfig: an address or other names on networks, and further networks."""
    body = mapping(value, where) or {}
    for key, setting in body.items():
        if key != "EndpointsConfig" and asks(setting):
            raise refused(f"{where}.{key}", setting, "EndpointsConfig alone")
    endpoints = mapping(body.get("EndpointsConfig"), f"{where}.EndpointsConfig") or {}
    for name, settings in endpoints.items():
        _endpoint(draft, network_name(name), mapping(settings, f"{where}.EndpointsConfig.{name}") or {}, name)


def _endpoint(draft: Draft, name: str, settings: dict[str, Any], given: str) -> None:
    network: dict[str, Any] = {"name": name}
    for key, value in settings.items():
        where = f"NetworkingConfig.EndpointsConfig.{given}.{key}"
        if key == "IPAMConfig":
            for part, address in (mapping(value, where) or {}).items():
                if part == "IPv4Address":
                    if found := text(address, f"{where}.{part}"):
                        network["ipv4_address"] = found
                elif asks(address):
                    raise unsupported(f"{where}.{part}", address)
        elif key == "Aliases":
            if aliases := texts(value, where):
                network["aliases"] = aliases
        elif key not in _REPORTED and asks(value):
            raise unsupported(where, value)
    known = next((each for each in draft.networks if each["name"] == name), None)
    if known is not None:
        known.update(network)
    else:
        draft.networks.append(network)


def exposed_ports(draft: Draft, value: Any, where: str) -> None:
    """ExposedPorts: shown, and published by PublishAllPorts."""
    ports = mapping(value, where)
    if ports is not None:
        for port in ports:
            _container_port(port, where)
        draft.extra["ExposedPorts"] = sorted(ports)


def port_bindings(draft: Draft, value: Any, where: str) -> None:
    """HostConfig.PortBindings: the published ports."""
    for port, bindings in (mapping(value, where) or {}).items():
        number, protocol = _container_port(port, where)
        for binding in objects(bindings, f"{where}.{port}") or []:
            mapped: dict[str, Any] = {"container": number, "protocol": protocol}
            for key, setting in binding.items():
                inner = f"{where}.{port}.{key}"
                if key == "HostPort":
                    host = text(str(setting) if isinstance(setting, int) else setting, inner)
                    if host is not None and "-" in host:
                        raise unsupported(inner, host, "name one port, or none to have a free one chosen")
                    if host is not None:
                        mapped["host"] = _number(host, inner)
                elif key == "HostIp":
                    if address := text(setting, inner):
                        mapped["host_ip"] = address
                elif asks(setting):
                    raise unsupported(inner, setting)
            draft.ports.append(mapped)


def _container_port(port: str, where: str) -> tuple[int, str]:
    number, _, protocol = port.partition("/")
    return _number(number, where), protocol or "tcp"


def _number(digits: str, where: str) -> int:
    if not digits.isascii() or not digits.isdigit() or len(digits) > 5 or int(digits) > 65535:
        raise refused(where, digits, "a port number up to 65535")
    return int(digits)
