# SPDX-License-Identifier: Apache-2.0
"""Kernel settings of one interface of a container: Documentation/networking/ip-sysctl.rst, conf and neigh.

They are named as Docker names them, with IFNAME in the place of the interface, whose name is not known when
they are written down: `net.ipv4.conf.IFNAME.rp_filter`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import InvalidSpec
from ..linux.rtnetlink import inside_network
from . import sysctls
from .specs import LINK_SYSCTL, LINK_SYSCTL_EXPECTED


def apply(pid: int, ifname: str, settings: Mapping[str, str]) -> None:
    """Write settings of the interface `ifname` in the network namespace of process `pid`.

    Raises InvalidSpec for one that the kernel does not have or a value that it refuses, OSError if the
    process is gone.
    """
    with inside_network(pid):
        for name, value in settings.items():
            _write(name, ifname, value)


def _write(name: str, ifname: str, value: str) -> None:
    match = LINK_SYSCTL.fullmatch(name)
    if match is None:
        raise InvalidSpec(f"sysctl {name} of an interface is not known: expected {LINK_SYSCTL_EXPECTED}")
    path = sysctls.SYSCTL / match[1] / match[2] / ifname / match[3]
    try:
        path.write_text(value)
    except FileNotFoundError:
        raise InvalidSpec(f"sysctl {name} does not exist in this kernel; leave it out") from None
    except OSError as error:
        raise InvalidSpec(f"sysctl {name} cannot be set to {value}: {error.strerror}") from None
