# SPDX-License-Identifier: Apache-2.0
"""Kernel settings that networks need (Documentation/networking/ip-sysctl.rst)."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

from ..errors import MooringError, NotSupported

SYSCTL = Path("/proc/sys/net")
FORWARD = SYSCTL / "ipv4/ip_forward"
FORWARD6 = SYSCTL / "ipv6/conf/all/forwarding"
_BRIDGE = SYSCTL / "bridge"
_MODPROBE_S = 10
_NEIGHBOURS = {"gc_thresh3": 65536, "gc_thresh2": 32768}
_CONF6 = SYSCTL / "ipv6/conf"


def of_link(version: int, link: str, name: str) -> Path:
    """The setting `name` of one interface for an IP version."""
    return SYSCTL / f"ipv{version}/conf/{link}/{name}"


def has_ipv6() -> bool:
    """Whether the kernel knows IPv6."""
    return _CONF6.exists()


def require_ipv6(network: str) -> None:
    """Raise NotSupported if this host cannot carry an IPv6 network."""
    if not has_ipv6():
        raise NotSupported(
            f"network {network} is to have IPv6, which the kernel of this host has switched off "
            "(ipv6.disable=1); leave ipv6 out, or boot without that"
        )


def require_bridge_netfilter(network: str) -> None:
    """See to it that bridges can hand what they pass on to netfilter. Raises NotSupported.

    The module does so for all bridges of the host when it is loaded; ours ask for it one by one, and others
    shall not notice.
    """
    if _BRIDGE.exists():
        return
    with suppress(FileNotFoundError, subprocess.TimeoutExpired):
        subprocess.run(("modprobe", "br_netfilter"), capture_output=True, timeout=_MODPROBE_S, check=False)
    if not _BRIDGE.exists():
        raise NotSupported(
            f"network {network} has rules, for which the kernel of this host needs the module br_netfilter, "
            "which cannot be loaded; load it on the host (modprobe br_netfilter), or leave the rules out"
        )
    for name in ("iptables", "ip6tables", "arptables"):
        write(_BRIDGE / f"bridge-nf-call-{name}", "0")


def keep_router_advertisements() -> None:
    """See to it that a host which learns its routes from routers goes on to do so when it forwards.

    A host that forwards ignores router advertisements unless accept_ra is 2. To be called before forwarding
    is switched on; does nothing where it is.
    """
    if read(FORWARD6) != "0":
        return
    for link in _CONF6.iterdir():
        if link.name not in ("all", "default", "lo") and read(link / "accept_ra") == "1":
            write(link / "accept_ra", "2")


def make_room_for_neighbours() -> None:
    """Let the host know more neighbours than by default, 1,024 in all its network namespaces together: each
    container on a network is one, and has its gateway as one.

    Raises a limit only where it is lower; where it is not this host's to set, it stays.
    """
    for version in ("ipv4", "ipv6"):
        for name, least in _NEIGHBOURS.items():
            path = SYSCTL / version / "neigh/default" / name
            present = read(path)
            if present is not None and int(present) < least:
                write(path, str(least))


def read(path: Path) -> str | None:
    """A setting; None where the kernel has none, such as without IPv6."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return None


def write(path: Path, value: str) -> None:
    """Write a setting, but only if it is there with another value."""
    if read(path) in (None, value):
        return
    try:
        path.write_text(value)
    except OSError as error:
        raise MooringError(
            f"{path} cannot be set to {value}, which networks need: {error.strerror}; set it on the host"
        ) from None
