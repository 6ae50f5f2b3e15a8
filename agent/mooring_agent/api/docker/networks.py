# SPDX-License-Identifier: Apache-2.0
"""Docker's networks: list, inspect, create, remove, prune."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ...errors import Conflict, InvalidSpec, NotFound, NotSupported
from ..messages import Reply, Request, json_response, no_content
from ..router import Route
from ..timestamps import NEVER, rfc3339_seconds
from .render import HOST_NETWORKS, endpoint_id, has_label, network_id
from .rules import asks, canonical, mapping, objects, pairs, refused, text, unsupported

if TYPE_CHECKING:
    from ...engine.engine import Engine

_FILTERS = ("dangling", "driver", "id", "label", "name", "scope", "type")
_CREATE = ("Name", "Driver", "Internal", "Labels", "IPAM", "Options", "Scope", "CheckDuplicate", "EnableIPv4")
_DRIVERS = {"host": "host", "none": "null"}
_PREDEFINED = ("bridge", *HOST_NETWORKS)


class NetworkCalls:
    """Calls about networks. Those named host and none are the kernel's; they exist in Docker's lists only."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def routes(self) -> Iterator[Route]:
        """The route table of this resource."""
        yield Route("GET", "/networks", self.index, versioned=True)
        yield Route("POST", "/networks/create", self.create, versioned=True)
        yield Route("GET", "/networks/{id}", self.inspect, versioned=True)
        yield Route("DELETE", "/networks/{id}", self.remove, versioned=True)

    async def index(self, request: Request) -> Reply:
        """What `docker network ls` shows."""
        filters = request.query.filters(_FILTERS)
        shown = [self._render(view) for view in self._views()]
        return json_response([network for network in shown if self._passes(network, filters)])

    async def inspect(self, request: Request) -> Reply:
        """One network, with who is on it."""
        view = self._find(request.params["id"])
        return json_response(self._render(view) | {"Containers": self._members(view["name"])})

    async def create(self, request: Request) -> Reply:
        """Make a bridge network."""
        name, spec = _spec_of(canonical(await request.json(), _CREATE))
        if any(view["name"] == name for view in self._views()):
            raise Conflict(f"network with name {name} already exists; remove it or choose another name")
        await self._engine.network_put(name, spec, dry_run=False)
        return json_response({"Id": network_id(name), "Warning": ""}, 201)

    async def remove(self, request: Request) -> Reply:
        """Remove one that nobody is on."""
        name = self._find(request.params["id"])["name"]
        if name in _PREDEFINED:
            raise Conflict(f"{name} is a pre-defined network and cannot be removed")
        await self._engine.network_delete(name, dry_run=False)
        return no_content()

    def _views(self) -> list[dict[str, Any]]:
        return [*self._engine.network_list(), *({"name": name} for name in HOST_NETWORKS)]

    def _find(self, reference: str) -> dict[str, Any]:
        views = self._views()
        for view in views:
            if view["name"] == reference:
                return dict(view)
        matches = [view for view in views if network_id(view["name"]).startswith(reference)]
        if len(matches) > 1:
            raise Conflict(f"network id {reference} is the beginning of several; give more of it")
        if not matches:
            raise NotFound(
                f"network {reference} not found; list those that there are with 'docker network ls'"
            )
        return dict(matches[0])

    def _members(self, name: str) -> dict[str, Any]:
        members = {}
        for container in self._engine.containers.list():
            for endpoint in container.endpoints if container.running else ():
                if endpoint.network == name:
                    members[container.id] = {
                        "Name": container.name,
                        "EndpointID": endpoint_id(container, name),
                        "MacAddress": endpoint.mac,
                        "IPv4Address": f"{endpoint.ipv4}/{endpoint.prefix_length}",
                        "IPv6Address": "",
                    }
        return members

    def _render(self, view: dict[str, Any]) -> dict[str, Any]:
        name = view["name"]
        subnet = view.get("subnet")
        pools = [{"Subnet": subnet, "Gateway": view["gateway"]}] if subnet else []
        created = view.get("created_at")
        return {
            "Name": name,
            "Id": network_id(name),
            "Created": rfc3339_seconds(created) if isinstance(created, int | float) else created or NEVER,
            "Scope": "local",
            "Driver": _DRIVERS.get(name, "bridge"),
            "EnableIPv4": True,
            "EnableIPv6": False,
            "IPAM": {"Driver": "default", "Options": None, "Config": pools},
            "Internal": view.get("internal", False),
            "Attachable": False,
            "Ingress": False,
            "ConfigFrom": {"Network": ""},
            "ConfigOnly": False,
            "Containers": {},
            "Options": {"com.docker.network.bridge.name": view["bridge"]} if view.get("bridge") else {},
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


def _spec_of(body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Name and spec from the body of a create. Raises InvalidSpec, NotSupported, naming the option."""
    name = text(body.get("Name"), "Name")
    if name is None:
        raise InvalidSpec("option Name is missing: give the network a name")
    if name in (*_PREDEFINED, "default"):
        raise NotSupported(f"the name {name} is that of a pre-defined network; choose another name")
    spec: dict[str, Any] = {}
    for key, value in body.items():
        if key == "Driver":
            if value not in (None, "", "bridge", "default"):
                raise unsupported(key, value, "use bridge")
        elif key == "Internal":
            if value not in (None, True, False):
                raise refused(key, value, "true or false")
            if value:
                spec["internal"] = True
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
        elif key == "EnableIPv4":
            if value not in (None, True):
                raise unsupported(key, value)
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
            pools = objects(value, "IPAM.Config") or []
            if len(pools) > 1:
                raise unsupported("IPAM.Config", value, "give one subnet")
            for part, setting in (pools[0] if pools else {}).items():
                if part in ("Subnet", "Gateway"):
                    if found := text(setting, f"IPAM.Config.{part}"):
                        spec[part.lower()] = found
                elif asks(setting):
                    raise unsupported(f"IPAM.Config.{part}", setting)
        elif asks(value):
            raise unsupported(f"IPAM.{key}", value)
    return spec


def _options(options: dict[str, str]) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for key, value in options.items():
        if key == "com.docker.network.bridge.enable_ip_masquerade":
            if value not in ("true", "false"):
                raise refused(f"Options.{key}", value, "true or false")
            spec["nat"] = value == "true"
        else:
            raise unsupported(f"Options.{key}", value)
    return spec
