# SPDX-License-Identifier: Apache-2.0
"""`mooring network|volume|cgroup ls|inspect|rm|create|set`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from ..engine.resources.options import Size
from ..errors import InvalidSpec, MooringError
from .client import FLEET, ApiFailure, segment
from .containers import client_of
from .images import pair
from .limitarguments import NUMBERS
from .limits import disks
from .outcomes import report
from .output import age, as_yaml, show, size

_LIMITS = (
    "memory",
    "memory_reservation",
    "memory_swap",
    "cpus",
    "cpu_shares",
    "cpuset_cpus",
    "cpuset_mems",
    "pids_limit",
    *NUMBERS,
)
_NETWORK = (
    "driver", "subnet", "gateway", "ip_range", "subnet6", "gateway6", "ip_range6", "mtu", "parent", "mode",
    "encryption", "port", "bridge_name", "port_isolation", "interface_prefix", "publish_address",
    "attachable",
)  # fmt: skip


def ls(arguments: argparse.Namespace) -> int:
    """List the resources of a kind."""
    views = client_of(arguments).call("GET", f"{FLEET}/{arguments.kind}")
    header, row = _TABLES[arguments.kind]
    show(views, arguments.output, header, [row(view) for view in views])
    return 0


def inspect(arguments: argparse.Namespace) -> int:
    """Show everything about some of them."""
    client = client_of(arguments)
    views = [client.call("GET", f"{FLEET}/{arguments.kind}/{segment(name)}") for name in arguments.names]
    if arguments.output == "yaml":
        sys.stdout.write(as_yaml(views))
    else:
        print(json.dumps(views, indent=2, ensure_ascii=False))
    return 0


def remove(arguments: argparse.Namespace) -> int:
    """Remove some; here, unlike in a declaration, one that is not there is an error."""
    client = client_of(arguments)
    status = 0
    for name in arguments.names:
        path = f"{FLEET}/{arguments.kind}/{segment(name)}"
        try:
            client.call("GET", path)
            client.call("DELETE", path)
            print(name)
        except ApiFailure as error:
            print(f"mooring: {error.message}", file=sys.stderr)
            status = 1
    return status


def declare(arguments: argparse.Namespace) -> int:
    """Say how one should be."""
    path = f"{FLEET}/{arguments.kind}/{segment(arguments.name)}"
    outcome = client_of(arguments).call(
        "PUT", path, _SPECS[arguments.kind](arguments), {"dry_run": arguments.dry_run}
    )
    if not isinstance(outcome, dict):
        raise MooringError(f"{arguments.name}: the agent answered without an outcome; see its log")
    report(outcome, dry_run=arguments.dry_run)
    return 0


def _labels(arguments: argparse.Namespace) -> dict[str, str]:
    return dict(pair(item, "--label") for item in arguments.label)


def _given(spec: dict[str, Any]) -> dict[str, Any]:
    """What was said: 0 is a value too, which equals False."""
    return {name: value for name, value in spec.items() if value not in (None, {}) and value is not False}


def _network_spec(arguments: argparse.Namespace) -> dict[str, Any]:
    spec = _given(
        {
            **{name: getattr(arguments, name) for name in _NETWORK},
            "ipv6": arguments.ipv6,
            "reserved": arguments.reserve or None,
            "internal": arguments.internal,
            "labels": _labels(arguments),
            "reachable_from": arguments.reachable_from,
            "rules": arguments.rule,
            "vni": arguments.vni,
            "host": arguments.host,
            "slice_prefix": arguments.slice_prefix,
        }
    )
    if arguments.overlay:
        spec |= {"driver": "overlay", "hosts": _hosts(arguments.overlay, arguments.public_key)}
    return (
        spec | ({"nat": False} if arguments.no_nat else {}) | ({"ipv4": False} if arguments.no_ipv4 else {})
    )


def _hosts(overlay: Sequence[str], public_keys: Sequence[str]) -> dict[str, Any]:
    hosts = dict(map(_host, overlay))
    keys = dict(pair(item, "--public-key") for item in public_keys)
    unknown = next((host for host in keys if host not in hosts), None)
    if unknown is not None:
        raise InvalidSpec(
            f"--public-key names {unknown}, which no --overlay names; expected one of the hosts"
        )
    return {
        host: {**said, "public_key": keys[host]} if host in keys else said for host, said in hosts.items()
    }


def _host(item: str) -> tuple[str, dict[str, Any]]:
    """A host of an overlay, from HOST=ADDRESS[,slice=NUMBER]. Raises InvalidSpec."""
    name, said = pair(item, "--overlay")
    address, *rest = said.split(",")
    given: dict[str, Any] = {"address": address}
    for part in rest:
        key, _, value = part.partition("=")
        if key != "slice" or not value.isdigit() or key in given:
            raise InvalidSpec(f"--overlay {item} has {part!r}: expected HOST=ADDRESS[,slice=NUMBER]")
        given["slice"] = int(value)
    return name, given


def _volume_spec(arguments: argparse.Namespace) -> dict[str, Any]:
    options = dict(pair(item, "--opt") for item in arguments.opt)
    return _given({"labels": _labels(arguments), "driver_opts": options})


def _cgroup_spec(arguments: argparse.Namespace) -> dict[str, Any]:
    limits = {name: getattr(arguments, name) for name in _LIMITS}
    return _given({**limits, **disks(arguments), "labels": _labels(arguments)})


def _network_row(view: dict[str, Any]) -> Sequence[str]:
    way_out = "none" if view["internal"] else "nat" if view["nat"] else "routed"
    if view["parent"]:
        way_out = f"through {view['parent']}"
    subnets, gateways = (
        ", ".join(filter(None, (view[key], view[f"{key}6"]))) for key in ("subnet", "gateway")
    )
    return view["name"], view["driver"], subnets, gateways, way_out


def _volume_row(view: dict[str, Any]) -> Sequence[str]:
    options = view["driver_opts"]
    place = f"{options['device']} ({options['type']})" if options else view["path"]
    return view["name"], place, age(view["created_at"])


def _cgroup_row(view: dict[str, Any]) -> Sequence[str]:
    spec, usage = view["spec"], view["usage"]
    limits = ", ".join(f"{name} {_limit(name, spec[name])}" for name in _LIMITS if name in spec)
    memory = usage.get("memory_bytes")
    return view["name"], limits or "-", size(memory), str(len(view["containers"]))


def _limit(name: str, value: Any) -> str:
    return Size().show(value) if name.startswith("memory") and value >= 0 else str(value)


_Row = Callable[[dict[str, Any]], Sequence[str]]
_TABLES: dict[str, tuple[tuple[str, ...], _Row]] = {
    "networks": (("NAME", "DRIVER", "SUBNET", "GATEWAY", "WAY OUT"), _network_row),
    "volumes": (("NAME", "PATH", "AGE"), _volume_row),
    "cgroups": (("NAME", "LIMITS", "MEMORY", "CONTAINERS"), _cgroup_row),
}
_SPECS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "networks": _network_spec,
    "volumes": _volume_spec,
    "cgroups": _cgroup_spec,
}
