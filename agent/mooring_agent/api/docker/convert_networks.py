# SPDX-License-Identifier: Apache-2.0
"""The networks and ports of a container to be created, from Docker's words to ours."""

from __future__ import annotations

from typing import Any

from .rules import Draft, asks, integer, mapping, objects, pairs, refused, text, texts, unsupported

DEFAULT_NETWORK = "bridge"

_ADDRESSES = {"IPv4Address": "ipv4_address", "IPv6Address": "ipv6_address"}
_OF_DOCKER = "com.docker.network."
_SYSCTLS = "com.docker.network.endpoint.sysctls"

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
    where = f"NetworkingConfig.EndpointsConfig.{given}"
    network = attachment(name, settings, where)
    known = next((each for each in draft.networks if each["name"] == name), None)
    if known is not None:
        known.update(network)
    else:
        draft.networks.append(network)


def attachment(name: str, settings: dict[str, Any], where: str) -> dict[str, Any]:
    """Our attachment to the network `name` with an endpoint's settings."""
    network: dict[str, Any] = {"name": name}
    for key, value in settings.items():
        here = f"{where}.{key}"
        if key == "IPAMConfig":
            network |= _addresses(mapping(value, here) or {}, here)
        elif key == "Aliases":
            if aliases := texts(value, here):
                network["aliases"] = aliases
        elif key == "MacAddress":
            if mac := text(value, here):
                network["mac_address"] = mac
        elif key == "GwPriority":
            # The greatest has the default route; ours is one at most.
            if (integer(value, here) or 0) > 0:
                network["default_route"] = True
        elif key == "DriverOpts":
            network |= _driver_options(pairs(value, here) or {}, here)
        elif key == "Links":
            if linked := links(value, here):
                network["links"] = {alias: target for target, alias in linked}
        elif key not in _REPORTED and asks(value):
            raise unsupported(here, value)
    return network


def _addresses(config: dict[str, Any], where: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part, address in config.items():
        if part in _ADDRESSES:
            if given := text(address, f"{where}.{part}"):
                found[_ADDRESSES[part]] = given
        elif part == "LinkLocalIPs":
            if local := texts(address, f"{where}.{part}"):
                found["link_local"] = local
        elif asks(address):
            raise unsupported(f"{where}.{part}", address)
    return found


def _driver_options(options: dict[str, str], where: str) -> dict[str, Any]:
    """Settings of the interface; of others, those of Docker's own drivers are refused, and the rest kept."""
    kept = {key: value for key, value in options.items() if key != _SYSCTLS}
    for key, value in kept.items():
        if key.startswith(_OF_DOCKER):
            raise unsupported(f"{where}.{key}", value)
    sysctls = {"sysctls": options[_SYSCTLS].split(",")} if options.get(_SYSCTLS) else {}
    return sysctls | ({"driver_opts": kept} if kept else {})


def links(value: Any, where: str) -> list[tuple[str, str]]:
    """Links as (container, alias), from "CONTAINER", "CONTAINER:ALIAS" and what inspect shows of them."""
    found = []
    for link in texts(value, where) or []:
        target, _, alias = link.partition(":")
        target = target.removeprefix("/")
        alias = alias.rpartition("/")[2] or target
        if not target:
            raise refused(where, link, "CONTAINER or CONTAINER:ALIAS")
        found.append((target, alias))
    return found


def host_links(draft: Draft, value: Any, where: str) -> None:
    """HostConfig.Links."""
    draft.links += links(value, where)


def mac_address(draft: Draft, value: Any, where: str) -> None:
    """MacAddress, where clients before API 1.44 put that of the first network."""
    draft.mac = text(value, where) or ""


def settled(draft: Draft) -> list[dict[str, Any]]:
    """The networks that all keys together ask for; none where it is not said."""
    if not draft.mac:
        return draft.networks
    first, *others = draft.networks or [{"name": DEFAULT_NETWORK}]
    return [{"mac_address": draft.mac, **first}, *others]


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
                        mapped["host"] = "-".join(str(_number(end, inner)) for end in host.split("-", 1))
                    elif host is not None:
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
