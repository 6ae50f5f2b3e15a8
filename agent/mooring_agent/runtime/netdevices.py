# SPDX-License-Identifier: Apache-2.0
"""Network devices of the host that a container takes over, runtime-spec 1.3 `linux.netDevices`."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any, NamedTuple

from ..errors import InvalidSpec
from ..linux.netlink import NetlinkError, attributes
from ..linux.rtnetlink import (
    IFA_ADDRESS,
    IFA_BROADCAST,
    IFA_LOCAL,
    RT_SCOPE_UNIVERSE,
    RouteSocket,
    address_add,
    address_dump,
    link_move,
    link_set,
    socket_inside,
)

_NAME_MAX = 15  # include/uapi/linux/if.h, IFNAMSIZ, with the closing NUL
_PERMANENT = 0x80  # include/uapi/linux/if_addr.h, IFA_F_PERMANENT
_HEADER = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index


class _Address(NamedTuple):
    address: str
    prefix_length: int
    broadcast: str | None


def net_devices(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(name on the host, name in the container) of each. Raises InvalidSpec that names the field."""
    linux = config.get("linux") or {}
    devices = linux.get("netDevices") or {}
    if not isinstance(devices, Mapping):
        raise InvalidSpec(f"config.linux.netDevices is {devices!r}: expected an object")
    if devices and not any(one.get("type") == "network" for one in linux.get("namespaces") or ()):
        raise InvalidSpec("config.linux.netDevices: expected a namespace of type network beside them")
    found = []
    for name, entry in devices.items():
        inside = (entry.get("name") if isinstance(entry, Mapping) else None) or name
        for one in (name, inside):
            if not isinstance(one, str) or not 0 < len(one.encode()) <= _NAME_MAX or "/" in one:
                raise InvalidSpec(
                    f"config.linux.netDevices has {one!r}: expected a name of at most {_NAME_MAX} bytes"
                )
        found.append((name, inside))
    return tuple(found)


def move_devices(devices: tuple[tuple[str, str], ...], pid: int) -> None:
    """Move them into the network namespace of `pid`, with their lasting addresses, and bring them up.

    Raises OSError that names the device.
    """
    with RouteSocket() as host, socket_inside(pid) as inside:
        for name, wanted in devices:
            try:
                _move(host, inside, name, wanted, pid)
            except NetlinkError as error:
                reason = os.strerror(error.errno or 0)
                raise OSError(error.errno, f"network device {name} as {wanted}: {reason}") from None


def _move(host: RouteSocket, inside: RouteSocket, name: str, wanted: str, pid: int) -> None:
    link = host.link(name)
    if link is None:
        raise OSError(errno.ENODEV, f"network device {name} does not exist on the host")
    addresses = _addresses(host, link.ifindex)
    before = {one.ifindex for one in inside.links()}
    host.execute(link_move(link.ifindex, wanted, pid))
    for moved in inside.links():
        if moved.ifindex not in before:
            inside.execute(
                *(address_add(moved.ifindex, *address) for address in addresses),
                link_set(moved.ifindex, up=True),
            )


def _addresses(netlink: RouteSocket, ifindex: int) -> list[_Address]:
    """The permanent ones of global scope: the kernel drops all when a device changes its namespace."""
    found = []
    for family in (socket.AF_INET, socket.AF_INET6):
        for payload in netlink.dump(address_dump(family)):
            _, prefix_length, flags, scope, index = _HEADER.unpack_from(payload)
            if index != ifindex or scope != RT_SCOPE_UNIVERSE or not flags & _PERMANENT:
                continue
            given = attributes(payload, _HEADER.size)
            packed = given.get(IFA_LOCAL) or given[IFA_ADDRESS]
            broadcast = given.get(IFA_BROADCAST)
            found.append(
                _Address(
                    socket.inet_ntop(family, packed),
                    prefix_length,
                    socket.inet_ntop(family, broadcast) if broadcast else None,
                )
            )
    return found
