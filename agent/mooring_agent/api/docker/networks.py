# SPDX-License-Identifier: Apache-2.0
"""Docker's networks: list, inspect, create, remove, connect, disconnect, prune."""

from __future__ import annotations

from collections.abc import Iterator
from time import time
from typing import TYPE_CHECKING, Any

from ...engine.resources import NetworkAttachment
from ...errors import Conflict, InvalidSpec, NotFound, Predefined
from ..messages import Reply, Request, Response, json_response, no_content
from ..router import Need, Route
from ..timestamps import NEVER, moment_or_span, rfc3339_seconds
from . import convert_networks
from .render import HOST_NETWORKS, endpoint_id, has_label, network_id
from .rules import asks, boolean, canonical, mapping, objects, pairs, refused, text, unsupported

if TYPE_CHECKING:
    from ...engine.container import Container
    from ...engine.engine import Engine

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_CREATE = (
    "Name", "Driver", "Internal", "Labels", "IPAM", "Options", "Scope", "CheckDuplicate", "EnableIPv4",
    "EnableIPv6", "Attachable",
)  # fmt: skip
_DRIVERS = {"host": "host", "none": "null"}
_POOL = {"Subnet": "subnet", "Gateway": "gateway", "IPRange": "ip_range"}
# Options that are one of ours by another name.
_SAME = {
    "parent": "parent",
    "macvlan_mode": "mode",
    "com.docker.network.bridge.name": "bridge_name",
    "com.docker.network.container_iface_prefix": "interface_prefix",
}
_HOST_BINDING = "com.docker.network.bridge.host_binding_ipv4"
_EVERYWHERE = "0.0.0.0"  # every address, as without the option
_MTU = "com.docker.network.driver.mtu"
_TRUE = ("1", "t", "T", "TRUE", "true", "True")  # Go's strconv.ParseBool
_FALSE = ("0", "f", "F", "FALSE", "false", "False")
_MASQUERADE = "com.docker.network.bridge.enable_ip_masquerade"
_ICC = "com.docker.network.bridge.enable_icc"
_DEFAULT_BRIDGE = "com.docker.network.bridge.default_bridge"
# What says whether addresses are hidden behind the host's, and the words for yes and no.
_NAT = {
    "com.docker.network.bridge.gateway_mode_ipv4": ("nat", "routed"),
    "com.docker.network.bridge.gateway_mode_ipv6": ("nat", "routed"),
}
OPTIONS = (*_NAT, _MASQUERADE, _ICC, _DEFAULT_BRIDGE, _HOST_BINDING, _MTU, *_SAME)
"""The options of a network that are carried out."""
_SHOWN_OPTIONS = {
    "com.docker.network.bridge.name": "bridge",
    "com.docker.network.driver.mtu": "mtu",
    "com.docker.network.bridge.host_binding_ipv4": "publish_address",
    "com.docker.network.container_iface_prefix": "interface_prefix",
    "parent": "parent",
    "macvlan_mode": "mode",
}
_PREDEFINED = ("bridge", *HOST_NETWORKS)


class NetworkCalls:
    """Calls about networks. Those named host and none are the kernel's; they exist in Docker's lists only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/networks", self.index, versioned=True, needs=Need.READ)
        yield Route("POST", "/networks/create", self.create, versioned=True, needs=Need.ALL)
        yield Route("GET", "/networks/{id}", self.inspect, versioned=True, needs=Need.READ)
        yield Route("DELETE", "/networks/{id}", self.remove, versioned=True, needs=Need.ALL)
        yield Route("POST", "/networks/{id}/connect", self.connect, versioned=True, needs=Need.ALL)
        yield Route("POST", "/networks/{id}/disconnect", self.disconnect, versioned=True, needs=Need.ALL)
        yield Route("POST", "/networks/prune", self.prune, versioned=True, needs=Need.ALL)

    async def index(self, request: Request) -> Reply:
        """What `docker network ls` shows."""
        filters = request.query.filters(_FILTERS)
        shown = [self._render(view) for view in _views(self._engine)]
        return json_response([network for network in shown if self._passes(network, filters)])

    async def inspect(self, request: Request) -> Reply:
        """One network, with who is on it."""
        view = find_network(self._engine, request.params["id"])
        return json_response(self._render(view) | {"Containers": self._members(view["name"])})

    async def create(self, request: Request) -> Reply:
        """Make a bridge network."""
        name, spec = network_spec(await request.json())
        if any(view["name"] == name for view in _views(self._engine)):
            raise Conflict(f"network with name {name} already exists; remove it or choose another name")
        await self._engine.network_put(name, spec, dry_run=False)
        return json_response({"Id": network_id(name), "Warning": ""}, 201)

    async def remove(self, request: Request) -> Reply:
        """Remove one that nobody is on."""
        name = find_network(self._engine, request.params["id"])["name"]
        if name in _PREDEFINED:
            raise Predefined(f"{name} is a pre-defined network and cannot be removed")
        await self._engine.network_delete(name, dry_run=False)
        return no_content()

    async def connect(self, request: Request) -> Reply:
        """Attach a container, running or not."""
        name = find_network(self._engine, request.params["id"])["name"]
        body = canonical(await request.json(), ("Container", "EndpointConfig"))
        container = self._container(body, ("Container", "EndpointConfig"))
        settings = mapping(body.get("EndpointConfig"), "EndpointConfig") or {}
        given = convert_networks.attachment(name, settings, "EndpointConfig")
        await self._engine.live.connect(container, NetworkAttachment.parse(given))
        return Response(200)

    async def disconnect(self, request: Request) -> Reply:
        """Take a container off; one that is gone is off already with Force."""
        name = find_network(self._engine, request.params["id"])["name"]
        body = canonical(await request.json(), ("Container", "Force"))
        try:
            container = self._container(body, ("Container", "Force"))
        except NotFound:
            if boolean(body.get("Force"), "Force"):
                return Response(200)
            raise
        await self._engine.live.disconnect(container, name)
        return Response(200)

    async def prune(self, request: Request) -> Reply:
        """Remove the networks that no container is on."""
        filters = request.query.filters(("label", "label!", "until"))
        until = filters.get("until", ())
        if len(until) > 1:
            raise InvalidSpec(f"filter until is given {len(until)} times: expected one time or span")
        before = moment_or_span(until[0], "until", time()) if until else None
        removed = []
        for view in self._engine.network_list():
            labels = view.get("labels") or {}
            wanted = all(has_label(labels, value) for value in filters.get("label", ()))
            spared = any(has_label(labels, value) for value in filters.get("label!", ()))
            old = before is None or view["created_at"] < before
            if self._dangling(view["name"]) and wanted and not spared and old:
                await self._engine.network_delete(view["name"], dry_run=False)
                removed.append(view["name"])
        return json_response({"NetworksDeleted": removed or None})

    def _container(self, body: dict[str, Any], known: tuple[str, ...]) -> Container:
        for key, value in body.items():
            if key not in known and asks(value):
                raise unsupported(key, value)
        reference = text(body.get("Container"), "Container")
        if reference is None:
            raise InvalidSpec("option Container is missing: name the container")
        return self._engine.containers.get(reference)

    def _members(self, name: str) -> dict[str, Any]:
        members = {}
        for container in self._engine.containers.list():
            for endpoint in container.endpoints if container.running else ():
                if endpoint.network == name:
                    members[container.id] = {
                        "Name": container.name,
                        "EndpointID": endpoint_id(container, name),
                        "MacAddress": endpoint.mac,
                        "IPv4Address": f"{endpoint.ipv4}/{endpoint.prefix_length}" if endpoint.ipv4 else "",
                        "IPv6Address": f"{endpoint.ipv6}/{endpoint.prefix_length6}" if endpoint.ipv6 else "",
                    }
        return members

    def _render(self, view: dict[str, Any]) -> dict[str, Any]:
        name = view["name"]
        pools = [pool for pool in (_shown_pool(view, ""), _shown_pool(view, "6")) if pool]
        created = view.get("created_at")
        return {
            "Name": name,
            "Id": network_id(name),
            "Created": rfc3339_seconds(created) if isinstance(created, int | float) else created or NEVER,
            "Scope": "local",
            "Driver": _DRIVERS.get(name, view.get("driver", "bridge")),
            "EnableIPv4": name in HOST_NETWORKS or bool(view.get("subnet")),
            "EnableIPv6": bool(view.get("subnet6")),
            "IPAM": {"Driver": "default", "Options": None, "Config": pools},
            "Internal": view.get("internal", False),
            "Attachable": bool(view.get("attachable")),
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": {},
            "Options": {
                name: str(view[key]) for name, key in _SHOWN_OPTIONS.items() if view.get(key) is not None
            }
            | ({_ICC: "false"} if view.get("port_isolation") else {}),
            "Labels": view.get("labels") or {},
        }

    def _passes(self, network: dict[str, Any], filters: dict[str, tuple[str, ...]]) -> bool:
        return all(
            (all if name == "label" else any)(self._fits(network, name, value) for value in values)
            for name, values in filters.items()
        )

    def _fits(self, network: dict[str, Any], name: str, value: str) -> bool:
        if name == "label":
            return has_label(network["Labels"], value)
        if name == "id":
            return bool(network["Id"].startswith(value))
        if name == "name":
            return value in network["Name"]
        if name == "type":
            return (value == "builtin") == (network["Name"] in _PREDEFINED)
        if name == "dangling":
            return (value in ("1", "true")) == self._dangling(network["Name"])
        return bool(network[name.capitalize()] == value)  # driver, scope

    def _dangling(self, name: str) -> bool:
        used = {each.name for container in self._engine.containers.list() for each in container.spec.networks}
        return name not in used and name not in _PREDEFINED


def _views(engine: Engine) -> list[dict[str, Any]]:
    return [*engine.network_list(), *({"name": name} for name in HOST_NETWORKS)]


def find_network(engine: Engine, reference: str) -> dict[str, Any]:
    """The view of the network of this name, id or unique beginning of an id. Raises NotFound, Conflict."""
    views = _views(engine)
    for view in views:
        if view["name"] == reference:
            return dict(view)
    matches = [view for view in views if network_id(view["name"]).startswith(reference)]
    if len(matches) > 1:
        raise Conflict(f"network id {reference} is the beginning of several; give more of it")
    if not matches:
        raise NotFound(f"network {reference} not found; list those that there are with 'docker network ls'")
    return dict(matches[0])


def network_named(engine: Engine, reference: str) -> str:
    """The name of a network that may be given by its id; what is none is what it is."""
    try:
        return str(find_network(engine, reference)["name"])
    except NotFound:
        return reference


def network_spec(asked: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and spec from the body of a create. Raises InvalidSpec, NotSupported, naming the option."""
    body = canonical(asked, _CREATE)
    name = text(body.get("Name"), "Name")
    if name is None:
        raise InvalidSpec("option Name is missing: give the network a name")
    if name in (*_PREDEFINED, "default"):
        raise Predefined(f"the name {name} is that of a pre-defined network; choose another name")
    spec: dict[str, Any] = {}
    for key, value in body.items():
        if key == "Driver":
            if value not in (None, "", "bridge", "default", "macvlan"):
                raise unsupported(key, value, "use bridge or macvlan")
            if value == "macvlan":
                spec["driver"] = value
        elif key in ("Internal", "Attachable"):
            if value not in (None, True, False):
                raise refused(key, value, "true or false")
            if value:
                spec[key.lower()] = True
        elif key == "Labels":
            if labels := pairs(value, key):
                spec["labels"] = labels
        elif key == "IPAM":
            spec |= _pool(mapping(value, key) or {})
        elif key == "Options":
            spec |= _options(pairs(value, key) or {})
        elif key == "Scope":
            if value not in (None, "", "local"):
                raise unsupported(key, value, "use local")
        elif key in ("EnableIPv4", "EnableIPv6"):
            if value not in (None, True, False):
                raise refused(key, value, "true or false")
            if value is not None and value != (key == "EnableIPv4"):
                spec[key.removeprefix("Enable").lower()] = value
        # Names are unique anyway, so CheckDuplicate asks for nothing.
        elif key not in ("Name", "CheckDuplicate") and asks(value):
            raise unsupported(key, value)
    return name, spec


def _pool(ipam: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for key, value in ipam.items():
        if key == "Driver":
            if value not in (None, "", "default"):
                raise unsupported("IPAM.Driver", value)
        elif key == "Config":
            for pool in objects(value, "IPAM.Config") or []:
                _add_pool(spec, pool, value)
        elif asks(value):
            raise unsupported(f"IPAM.{key}", value)
    return spec


def _add_pool(spec: dict[str, Any], pool: dict[str, Any], pools: object) -> None:
    """One subnet of IPAM.Config; our network has one of each IP version."""
    subnet = text(pool.get("Subnet"), "IPAM.Config.Subnet")
    suffix = "6" if ":" in (subnet or "") else ""
    if f"subnet{suffix}" in spec:
        raise unsupported("IPAM.Config", pools, "give one subnet of each IP version")
    for part, setting in pool.items():
        if part in _POOL:
            if found := text(setting, f"IPAM.Config.{part}"):
                spec[_POOL[part] + suffix] = found
        elif part == "AuxiliaryAddresses":
            if auxiliary := pairs(setting, f"IPAM.Config.{part}"):
                named = [f"{name}={address}" for name, address in auxiliary.items()]
                spec["reserved"] = [*spec.get("reserved", ()), *named]
        elif asks(setting):
            raise unsupported(f"IPAM.Config.{part}", setting)


def _shown_pool(view: dict[str, Any], suffix: str) -> dict[str, Any]:
    """A subnet as IPAM.Config shows it, with what is reserved there; nothing where there is none."""
    if not view.get(f"subnet{suffix}"):
        return {}
    pool: dict[str, Any] = {
        docker: view[ours + suffix] for docker, ours in _POOL.items() if view.get(ours + suffix)
    }
    parts = [text.rpartition("=") for text in view.get("reserved", ())]
    shown = {name or address: address for name, _, address in parts if (":" in address) == bool(suffix)}
    return pool | ({"AuxiliaryAddresses": shown} if shown else {})


def _options(options: dict[str, str]) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for key, value in options.items():
        if key in _NAT:
            yes, no = _NAT[key]
            if value not in (yes, no):
                raise refused(f"Options.{key}", value, f"{yes} or {no}")
            _say_nat(spec, key, value, value == yes)
        elif key == _MTU:
            if not value.isascii() or not value.isdigit():
                raise refused(f"Options.{key}", value, "a number of bytes")
            spec["mtu"] = int(value)
        elif key == _MASQUERADE:
            _say_nat(spec, key, value, _boolean(key, value))
        elif key == _ICC:
            if not _boolean(key, value):
                spec["port_isolation"] = True
        elif key == _DEFAULT_BRIDGE:
            if _boolean(key, value):
                raise unsupported(f"Options.{key}", value, "the default network is called bridge")
        elif key == _HOST_BINDING:
            if value not in ("", _EVERYWHERE):
                spec["publish_address"] = value
        elif key in _SAME:
            if value:
                spec[_SAME[key]] = value
        else:
            raise unsupported(f"Options.{key}", value)
    return spec


def _boolean(key: str, value: str) -> bool:
    if value not in (*_TRUE, *_FALSE):
        raise refused(f"Options.{key}", value, "true or false")
    return value in _TRUE


def _say_nat(spec: dict[str, Any], key: str, value: str, nat: bool) -> None:
    """There is one setting for both IP versions."""
    if spec.setdefault("nat", nat) != nat:
        raise unsupported(f"Options.{key}", value, "translate both IP versions or none")
