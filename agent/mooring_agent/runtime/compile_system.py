# SPDX-License-Identifier: Apache-2.0
"""What a config says about the system around the process: kernel parameters, names, propagation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSpec, NotSupported
from .compile_namespaces import Namespaces
from .mount_attributes import PROPAGATION

# Kernel parameters that belong to a namespace; all others are the host's. namespaces(7), ipc_namespaces(7),
# uts_namespaces(7), Documentation/admin-guide/sysctl/user.rst.
_IPC = frozenset(
    f"kernel/{name}"
    for name in ("msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced")
)
_UTS = {"kernel/hostname": "hostname", "kernel/domainname": "domainname"}
_NAME_MAX = 64  # include/uapi/linux/utsname.h, __NEW_UTS_LEN


def compile_sysctls(config: Mapping[str, Any], namespaces: Namespaces) -> tuple[tuple[str, str], ...]:
    """`linux.sysctl` as (file below /proc/sys, value).

    A parameter that is not the container's own is refused, InvalidSpec, as is one that contradicts another
    field.
    """
    sysctls = (config.get("linux") or {}).get("sysctl") or {}
    if not isinstance(sysctls, dict):
        raise InvalidSpec(f"config.linux.sysctl is {sysctls!r}: expected an object")
    found = []
    for name, value in sysctls.items():
        where = f"config.linux.sysctl.{name}"
        if not isinstance(value, str):
            raise InvalidSpec(f"{where} is {value!r}: expected a text")
        file = _file(name, where)
        needed = _namespace_of(file)
        if needed is None:
            raise InvalidSpec(
                f"{where} belongs to the whole host: expected a parameter of a namespace, such as net.*, "
                "fs.mqueue.* or kernel.shm*; set it on the host"
            )
        if file == "kernel/hostname":
            # runc and crun refuse it too, whatever the value: there is a field for it.
            raise InvalidSpec(f"{where} is {value!r}: expected config.hostname in its place")
        if not namespaces.has_own(needed):
            raise InvalidSpec(f"{where} is the host's: expected a namespace of type {needed} in the config")
        field = _UTS.get(file)
        if field and config.get(field) not in (None, "", value):
            raise InvalidSpec(
                f"{where} is {value!r} and config.{field} is {config[field]!r}: expected the same"
            )
        found.append((file, value))
    return tuple(found)


def host_name(config: Mapping[str, Any], field: str, namespaces: Namespaces) -> str:
    """`hostname` or `domainname`, "" where nothing is to be set. InvalidSpec without an own UTS namespace."""
    name = config.get(field) or ""
    if not name:
        return ""
    if not isinstance(name, str) or len(name.encode()) > _NAME_MAX:
        raise InvalidSpec(f"config.{field} is {name!r}: expected a text of at most {_NAME_MAX} bytes")
    if not namespaces.has_own("uts"):
        raise InvalidSpec(
            f"config.{field} would be the host's: expected a namespace of type uts in the config"
        )
    return name


def compile_propagation(linux: Mapping[str, Any]) -> int:
    """`linux.rootfsPropagation` as flags of mount(2), 0 where nothing is said."""
    name = linux.get("rootfsPropagation") or ""
    if not name:
        return 0
    if name not in PROPAGATION:
        raise InvalidSpec(
            f"config.linux.rootfsPropagation is {name!r}: expected one of {', '.join(sorted(PROPAGATION))}"
        )
    return PROPAGATION[name]


def check_unsupported(linux: Mapping[str, Any]) -> None:
    """Refuse what the runtime-spec has and this runtime has not, NotSupported."""
    if linux.get("intelRdt"):
        raise NotSupported(
            "config.linux.intelRdt is not supported: leave it out, and put the container's processes into a "
            "resctrl group on the host"
        )


def _file(name: str, where: str) -> str:
    """The file below /proc/sys. The first separator decides, as in sysctl(8): a name with slashes may have
    dots of its own, as network interfaces have.
    """
    dot, slash = name.find("."), name.find("/")
    file = name
    if slash < 0 or 0 <= dot < slash:
        file = name.translate(str.maketrans("./", "/."))
    if not name or any(part in ("", ".", "..") for part in file.split("/")):
        raise InvalidSpec(f"{where}: expected a name such as net.ipv4.ip_forward")
    return file


def _namespace_of(file: str) -> str | None:
    if file.startswith("net/"):
        return "net"
    if file in _IPC or file.startswith("fs/mqueue/"):
        return "ipc"
    if file in _UTS:
        return "uts"
    return "user" if file.startswith("user/") else None
