# SPDX-License-Identifier: Apache-2.0
"""The options of a volume's driver as a mount: which call of the kernel they ask for, and what its refusal
means.
"""

from __future__ import annotations

import errno
import ipaddress
import re
from collections.abc import Callable, Mapping
from urllib.parse import unquote

from ..errors import Conflict, InvalidSpec, MooringError, NotSupported, Unavailable
from ..runtime.mount_attributes import parse_options
from ..runtime.mounts import Bind, Filesystem

Resolve = Callable[[str], str]
"""An IP address of the host with a name. Raises OSError."""

IN_MEMORY = ("tmpfs", "ramfs")
"""File systems of which each mount is another one, whose content goes with it."""

_OVER_NETWORK = ("nfs", "nfs4", "cifs")
_SHARE = re.compile(r"(?:cifs:|smb:)?//(?P<host>[^/\\]+)(?P<path>.*)", re.DOTALL)
_UNREACHABLE = (
    errno.ECONNREFUSED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT,
    errno.ECONNRESET, errno.ENOTCONN,
)  # fmt: skip


def compile_mount(name: str, options: Mapping[str, str], resolve: Resolve) -> Filesystem | Bind:
    """The mount of a volume, on the root of what it is executed in.

    The kernel knows no names of hosts, so those of a server are resolved here, as the programs below mount(8)
    would do. Raises InvalidSpec, and Unavailable for a name that has no address.
    """
    kind, device = options["type"], options["device"]
    words = tuple(word for word in options.get("o", "").split(",") if word)
    given = parse_options(words)
    if given.bind or kind == "bind":
        one = given.attributes
        if given.rest:
            raise InvalidSpec(
                f"volume {name} binds {device} with the option {given.rest[0]}: expected none but those of "
                "every mount, such as ro, noexec"
            )
        return Bind(
            device,
            "/",
            set=one.set,
            clear=one.clear,
            tree_set=one.tree_set,
            tree_clear=one.tree_clear,
            recursive=given.recursive,
        )
    data = ",".join(given.rest)
    if kind in _OVER_NETWORK:
        device, data = _with_address(name, kind, device, data, resolve)
    return Filesystem(kind, device, "/", given.attributes.as_flags() | given.flags, data)


def _with_address(name: str, kind: str, device: str, data: str, resolve: Resolve) -> tuple[str, str]:
    """The device and the data of a network file system, with addresses where names were."""
    words = data.split(",")
    for number, word in enumerate(words):
        key, mark, host = word.partition("=")
        if key in ("addr", "ip") and host:
            words[number] = f"{key}{mark}{_address(name, host, resolve)}"
            return device, ",".join(words)
    share = _SHARE.fullmatch(device) if kind == "cifs" else None
    if share is None:
        return device, data
    return f"//{_address(name, unquote(share['host']), resolve)}{unquote(share['path'])}", data


def _address(name: str, host: str, resolve: Resolve) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return resolve(host)
    except OSError as error:
        raise Unavailable(
            f"volume {name} is mounted from {host}, whose address cannot be found ({error.strerror}): name a "
            "host that this one can look up, or its address"
        ) from error


def meaning(name: str, options: Mapping[str, str], error: OSError) -> MooringError:
    """What it means that the kernel does not mount a volume. Its options may have a password: they are not
    in it.
    """
    kind, device = options["type"], options["device"]
    number = error.errno or 0
    what = (
        f"volume {name} cannot be mounted (type {kind}, device {device}): "
        f"{error.strerror} [{errno.errorcode.get(number, number)}]"
    )
    if number == errno.ENODEV:
        return NotSupported(
            f"{what}: this kernel has no such file system; load its module, or take another type"
        )
    if number in _UNREACHABLE:
        return Unavailable(f"{what}: the server does not answer; see to it that it is reached from this host")
    hint = _HINTS.get(number, "see what the kernel has logged (dmesg)")
    return Conflict(f"{what}: {hint}")


_HINTS = {
    errno.ENOENT: "there is no such device; make it first, or name another",
    errno.ENOTDIR: "it is no directory; name one",
    errno.ENOTBLK: "it is no block device; attach a file to one with losetup, and name that",
    errno.ENXIO: "there is no such device; make it first, or name another",
    errno.EBUSY: "it is mounted otherwise already; unmount it there, or give the same options",
    errno.EACCES: "it may not be mounted so; with a device that takes no writes give the option ro, and a "
    "server has to export it to this host",
    errno.EINVAL: "the kernel does not take these options, or this device has another file system; see what "
    "it has logged (dmesg)",
}
