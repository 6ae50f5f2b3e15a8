# SPDX-License-Identifier: Apache-2.0
"""The devices of a config as operations. Pure. runtime-spec 1.2, config-linux.md Devices, Default Devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSpec
from .compile_namespaces import Namespaces
from .idmaps import IdMap
from .mounts import Link, MountOperation, Node
from .standard import DEVICES

_KINDS = {"c": "c", "u": "c", "b": "b", "p": "p"}
_IDS = 1 << 32


def default_devices(namespaces: Namespaces, taken: frozenset[str]) -> tuple[MountOperation, ...]:
    """What every container has, but for the paths that its config makes otherwise."""
    operations: list[MountOperation] = []
    for one in DEVICES:
        if isinstance(one, Node) and one.target not in taken:
            operations.append(_in_namespace(one, namespaces))
        elif isinstance(one, Link) and one.target not in taken:
            operations.append(Link(one.target, one.points_to, replace=one.target == "/dev/ptmx"))
    return tuple(operations)


def compile_devices(linux: Mapping[str, Any], namespaces: Namespaces) -> tuple[Node, ...]:
    """`linux.devices`. Raises InvalidSpec that names the field."""
    devices = linux.get("devices") or []
    if not isinstance(devices, list):
        raise InvalidSpec(f"config.linux.devices is {devices!r}: expected a list")
    return tuple(
        _in_namespace(_device(one, f"config.linux.devices[{index}]"), namespaces)
        for index, one in enumerate(devices)
    )


def _device(entry: Any, where: str) -> Node:
    if not isinstance(entry, Mapping):
        raise InvalidSpec(f"{where} is {entry!r}: expected an object")
    path = entry.get("path")
    if not isinstance(path, str) or not path.strip("/"):
        raise InvalidSpec(f"{where}.path is {path!r}: expected the path of a device inside the container")
    kind = entry.get("type")
    if kind not in _KINDS:
        raise InvalidSpec(f"{where}.type of {path} is {kind!r}: expected c, b, u or p")
    numbers = [
        _number(entry, key, where, _IDS, None if _KINDS[kind] != "p" else 0) for key in ("major", "minor")
    ]
    return Node(
        target="/" + "/".join(part for part in path.split("/") if part),
        major=numbers[0],
        minor=numbers[1],
        mode=_number(entry, "fileMode", where, 1 << 16, 0o666) & 0o7777,
        kind=_KINDS[kind],
        uid=_number(entry, "uid", where, _IDS, 0),
        gid=_number(entry, "gid", where, _IDS, 0),
    )


def _in_namespace(node: Node, namespaces: Namespaces) -> Node:
    if not namespaces.uids:
        return node
    arguments = vars(node) | {
        "uid": _outside(node.uid, namespaces.uids, f"uid of {node.target}"),
        "gid": _outside(node.gid, namespaces.gids, f"gid of {node.target}"),
    }
    return Node(**arguments)


def _outside(number: int, ids: IdMap, named: str) -> int:
    for first, host, count in ids:
        if first <= number < first + count:
            return host + number - first
    if number == 0:  # a container without a root: the device then belongs to nobody that it knows
        return 0
    raise InvalidSpec(
        f"config.linux.devices: {named} is {number}, which the user namespace does not map: expected one of "
        "config.linux.uidMappings and gidMappings"
    )


def _number(entry: Mapping[str, Any], key: str, where: str, bound: int, default: int | None) -> int:
    value = entry.get(key)
    if value is None:
        value = default
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < bound:
        raise InvalidSpec(
            f"{where}.{key} of {entry.get('path')} is {value!r}: expected a number below {bound}"
        )
    return value
