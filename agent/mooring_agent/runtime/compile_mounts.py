# SPDX-License-Identifier: Apache-2.0
"""The file systems of a config as operations: mounts, devices, masked and read-only paths. Pure.

runtime-spec 1.2, config.md Mounts and config-linux.md Default Filesystems, Masked Paths, Readonly Paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSpec, NotSupported
from ..linux import syscalls
from .compile_namespaces import Namespaces, compile_id_map
from .idmaps import IdMap
from .mount_attributes import MountOptions, parse_options
from .mounts import (
    Bind,
    Change,
    ControlGroups,
    Filesystem,
    Mask,
    MountOperation,
    ReadOnly,
    Seal,
)

# What the host has that stands in where a user namespace gets no instance of its own.
_OF_THE_HOST = {"proc": "/proc", "sysfs": "/sys", "mqueue": "/dev/mqueue"}
# Options of the version 2 file system as a whole, which the kernel heeds in the first namespace only.
_OF_THE_HIERARCHY = ("nsdelegate", "favordynmods", "memory_localevents", "memory_recursiveprot", "xattr")
_LABELLED = ("tmpfs", "devpts")
_MAP_ENTRY = re.compile(r"(\d+)-(\d+)-(\d+)")


def compile_mount(
    mount: Mapping[str, Any],
    namespaces: Namespaces | None = None,
    *,
    bundle: str = "",
    label: str = "",
    where: str = "config.mounts",
) -> tuple[MountOperation, ...]:
    """One entry of config `mounts`, which `where` names in errors.

    `bundle` is what a relative source of a bind begins at; `label` is the SELinux context of new file
    systems. Raises InvalidSpec or NotSupported.
    """
    namespaces = namespaces or Namespaces()
    target = _target(mount.get("destination"), where)
    options = parse_options(_texts(mount, "options", where))
    fstype = mount.get("type") or ""
    if not isinstance(fstype, str):
        raise InvalidSpec(f"{where} {target} has the type {fstype!r}: expected a text")
    named = f"{where} {target}"
    if options.remount:
        return _remount(mount, target, fstype, options)
    if options.bind or fstype == "bind":
        return (_bind(mount, target, options, namespaces, bundle, named),)
    if options.idmap or mount.get("uidMappings") or mount.get("gidMappings"):
        raise NotSupported(f"{named} maps ids of a new file system: expected the option bind beside them")
    if fstype in ("cgroup", "cgroup2"):
        operation: MountOperation = _control_groups(target, options, namespaces, named)
    else:
        operation = _filesystem(mount, target, fstype, options, namespaces, label, named)
    if options.propagation:
        return operation, Change(target, propagation=options.propagation)
    return (operation,)


def compile_mounts(
    mounts: list[Mapping[str, Any]],
    namespaces: Namespaces,
    bundle: str,
    label: str,
    devices: tuple[MountOperation, ...] = (),
    first: int = 0,
) -> tuple[MountOperation, ...]:
    """All entries, in their order, and `devices`; a tmpfs that shall be read-only is so only when all below
    it is there. `first` is the number of the first of them in the config.
    """
    operations: list[MountOperation] = []
    sealed: list[MountOperation] = []
    targets = [str(mount.get("destination") or "") for mount in mounts]
    for index, mount in enumerate(mounts, first):
        compiled = compile_mount(
            mount, namespaces, bundle=bundle, label=label, where=f"config.mounts[{index}]"
        )
        made = compiled[0]
        if isinstance(made, Filesystem) and made.flags & syscalls.MS_RDONLY and _is_filled(made, targets):
            compiled = (_writable(made), *compiled[1:])
            sealed.append(Seal(made.target))
        operations += compiled
    return (*operations, *devices, *sealed)


def compile_paths(linux: Mapping[str, Any]) -> tuple[MountOperation, ...]:
    """`maskedPaths` and `readonlyPaths`. Raises InvalidSpec for a path that is not absolute."""
    operations: list[MountOperation] = []
    read_only, masked = (_absolute(linux, name) for name in ("readonlyPaths", "maskedPaths"))
    if read_only:
        operations.append(ReadOnly(read_only))
    if masked:
        operations.append(Mask(masked))
    return tuple(operations)


def _absolute(linux: Mapping[str, Any], name: str) -> tuple[str, ...]:
    paths = _texts(linux, name, "config.linux")
    for path in paths:
        if not path.startswith("/"):
            raise InvalidSpec(f"config.linux.{name} has {path!r}: expected an absolute path")
    return paths


def _remount(
    mount: Mapping[str, Any], target: str, fstype: str, options: MountOptions
) -> tuple[MountOperation, ...]:
    one = options.attributes
    if options.bind:
        return (Change(target, one.set, one.clear, one.tree_set, one.tree_clear, options.propagation),)
    flags = one.as_flags() | options.flags
    source = mount.get("source") or fstype or "none"
    return (Filesystem(fstype or "none", source, target, flags, ",".join(options.rest)),)


def _bind(
    mount: Mapping[str, Any],
    target: str,
    options: MountOptions,
    namespaces: Namespaces,
    bundle: str,
    named: str,
) -> Bind:
    source = mount.get("source")
    if not isinstance(source, str) or not source:
        raise InvalidSpec(f"{named} is a bind without a source: expected a path of the host")
    if not source.startswith("/"):
        source = os.path.join(bundle, source)
    one = options.attributes
    uids, gids = _mount_map(mount, options, namespaces, named)
    return Bind(
        source=source,
        target=target,
        set=one.set,
        clear=one.clear,
        tree_set=one.tree_set,
        tree_clear=one.tree_clear,
        recursive=options.recursive,
        propagation=options.propagation,
        uid_map=uids,
        gid_map=gids,
        map_tree=options.idmap.startswith("ridmap"),
        of_host=namespaces.has_own("user"),
        copy_symlink=options.copy_symlink,
        follow_source=options.follow_source,
        follow_target=options.follow_target,
    )


def _mount_map(
    mount: Mapping[str, Any], options: MountOptions, namespaces: Namespaces, named: str
) -> tuple[IdMap, IdMap]:
    if not options.idmap and "uidMappings" not in mount and "gidMappings" not in mount:
        return (), ()
    uids = compile_id_map(mount.get("uidMappings"), f"{named} uidMappings")
    gids = compile_id_map(mount.get("gidMappings"), f"{named} gidMappings")
    if bool(uids) != bool(gids):
        raise InvalidSpec(f"{named} has one of uidMappings and gidMappings: expected both or none")
    text = options.idmap.partition("=")[2]
    if text and not uids:
        uids, gids = _map_of_option(text, named)
    if options.idmap and not uids:
        uids, gids = namespaces.uids, namespaces.gids
        if not uids:
            raise InvalidSpec(
                f"{named} has {options.idmap} without a map: expected uidMappings and gidMappings there, or "
                "a user namespace with them"
            )
    return uids, gids


def _map_of_option(text: str, named: str) -> tuple[IdMap, IdMap]:
    """`uids=0-1000-10#…;gids=…`, as crun takes it with the option itself."""
    found: dict[str, IdMap] = {}
    for part in text.split(";"):
        kind, _, entries = part.partition("=")
        matches = [_MAP_ENTRY.fullmatch(entry) for entry in entries.split("#")]
        if kind not in ("uids", "gids") or not all(matches):
            raise InvalidSpec(
                f"{named} has the map {part!r}: expected such as uids=0-1000-10, which is inside, outside, "
                "count"
            )
        found[kind] = tuple((int(one[1]), int(one[2]), int(one[3])) for one in matches if one)
    if len(found) != 2:
        raise InvalidSpec(f"{named} has the map {text!r}: expected both uids= and gids=")
    return found["uids"], found["gids"]


def _control_groups(target: str, options: MountOptions, namespaces: Namespaces, named: str) -> ControlGroups:
    for option in options.rest:
        if option not in _OF_THE_HIERARCHY:
            raise NotSupported(
                f"{named} has the option {option!r}: expected flags such as ro for a cgroup mount, which "
                "shows all hierarchies that the container has a group in"
            )
    return ControlGroups(target, options.attributes.as_flags() | options.flags, namespaces.has_own("cgroup"))


def _filesystem(
    mount: Mapping[str, Any],
    target: str,
    fstype: str,
    options: MountOptions,
    namespaces: Namespaces,
    label: str,
    named: str,
) -> Filesystem:
    if not fstype or fstype == "none":
        raise InvalidSpec(f"{named} has neither a type nor the option bind: expected one of them")
    source = mount.get("source") or fstype
    if not isinstance(source, str):
        raise InvalidSpec(f"{named} has the source {source!r}: expected a text")
    if options.copy_up and (fstype != "tmpfs" or target == "/"):
        raise InvalidSpec(f"{named} has tmpcopyup: expected it on a tmpfs below the root")
    rest = options.rest
    if fstype in ("devpts", "tmpfs") and namespaces.uids:
        rest = tuple(
            mapped for option in rest if (mapped := _outside_option(option, namespaces, named)) is not None
        )
    if label and fstype in _LABELLED:
        rest = (*rest, f'context="{label}"')
    flags = options.attributes.as_flags() | options.flags
    return Filesystem(
        fstype,
        source,
        target,
        flags,
        ",".join(rest),
        fallback=_OF_THE_HOST.get(fstype, "") if namespaces.has_own("user") else "",
        keep_mode=fstype == "tmpfs" and not any(option.startswith("mode=") for option in rest),
        copy_up=options.copy_up,
    )


def _outside_option(option: str, namespaces: Namespaces, named: str) -> str | None:
    """An owner among the options, as the host knows it, of whose users the launcher still is when it mounts.

    None for the group of a devpts that has no place in the map: terminals then have their users'.
    """
    name, _, value = option.partition("=")
    if name not in ("uid", "gid") or not (value.isascii() and value.isdigit() and len(value) <= 10):
        return option
    ids = namespaces.uids if name == "uid" else namespaces.gids
    for first, host, count in ids:
        if first <= int(value) < first + count:
            return f"{name}={host + int(value) - first}"
    if name == "gid" and named.endswith("/dev/pts"):
        return None
    raise InvalidSpec(f"{named} has the option {option}: expected an id that the user namespace maps")


def _is_filled(filesystem: Filesystem, targets: list[str]) -> bool:
    """Whether anything else of the config is below a file system: mounts, or the devices of /dev."""
    below = filesystem.target.rstrip("/") + "/"
    return filesystem.target == "/dev" or filesystem.copy_up or any(one.startswith(below) for one in targets)


def _writable(one: Filesystem) -> Filesystem:
    arguments = {**vars(one), "flags": one.flags & ~syscalls.MS_RDONLY}
    return Filesystem(**arguments)


def _target(destination: Any, where: str) -> str:
    if not isinstance(destination, str) or not destination:
        raise InvalidSpec(
            f"{where} has the destination {destination!r}: expected a path inside the container"
        )
    if destination[0] == "/" != destination[-1] and "//" not in destination:
        return destination
    return "/" + "/".join(part for part in destination.split("/") if part)


def _texts(entry: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = entry.get(key) or ()
    if isinstance(value, list | tuple):
        for one in value:
            if not isinstance(one, str):
                break
        else:
            return tuple(value)
    raise InvalidSpec(f"{where}.{key} is {value!r}: expected a list of texts")
