# SPDX-License-Identifier: Apache-2.0
"""The namespaces of a config: which are new, which are joined, and what the new ones are like. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import InvalidSpec
from .idmaps import IdMap

# runtime-spec namespace types and the short names of clone(2)'s flags.
NAMESPACE_TYPES = {
    "mount": "mnt",
    "pid": "pid",
    "network": "net",
    "uts": "uts",
    "ipc": "ipc",
    "cgroup": "cgroup",
    "user": "user",
    "time": "time",
}
_CLOCKS = ("monotonic", "boottime")
_IDS = 1 << 32
# A user namespace has to have a root for the rest to be done; without maps in the config that is the host's.
_ROOT_ALONE: IdMap = ((0, 0, 1),)


@dataclass(frozen=True)
class Namespaces:
    """What the rest of a config's meaning depends on: its namespaces, by short name, and its id maps."""

    new: tuple[str, ...] = ()
    joined: tuple[tuple[str, str], ...] = ()
    uids: IdMap = ()
    gids: IdMap = ()

    def has_own(self, name: str) -> bool:
        """Whether the namespace is not simply the runtime's."""
        if name in self.new:
            return True
        return bool(self.joined) and any(name == joined for joined, _ in self.joined)


def compile_namespaces(config: Mapping[str, Any]) -> Namespaces:
    """All of it. Raises InvalidSpec."""
    new, joined = _kinds(config)
    linux = config.get("linux") or {}
    if "user" not in new and not linux.get("uidMappings") and not linux.get("gidMappings"):
        return Namespaces(new, joined)
    return Namespaces(new, joined, *id_maps(config))


def new_namespaces(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The namespaces that `config` wants new, under their short names, in a fixed order. InvalidSpec for an
    unknown type, and for one that is named twice.
    """
    return _kinds(config)[0]


def joined_namespaces(config: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """(short name, path) of the namespaces that `config` joins. InvalidSpec as from `new_namespaces`."""
    return _kinds(config)[1]


def id_maps(config: Mapping[str, Any]) -> tuple[IdMap, IdMap]:
    """The maps of a user namespace, for users and groups; empty ones without one. Raises InvalidSpec."""
    linux = config.get("linux") or {}
    uids, gids = (
        compile_id_map(linux.get(name), f"config.linux.{name}") for name in ("uidMappings", "gidMappings")
    )
    new, joined = _kinds(config)
    if not uids and not gids and "user" in new:
        return _ROOT_ALONE, _ROOT_ALONE
    if (uids or gids) and "user" not in new and not any(name == "user" for name, _ in joined):
        raise InvalidSpec(
            "config.linux.uidMappings and gidMappings are there without a namespace of type user: expected "
            "one in config.linux.namespaces"
        )
    if bool(uids) != bool(gids):
        raise InvalidSpec("config.linux has one of uidMappings and gidMappings: expected both or none")
    return uids, gids


def time_offsets(config: Mapping[str, Any]) -> tuple[tuple[str, int, int], ...]:
    """(clock, seconds, nanoseconds) for a new time namespace, time_namespaces(7). Raises InvalidSpec."""
    offsets = (config.get("linux") or {}).get("timeOffsets") or {}
    if not isinstance(offsets, Mapping):
        raise InvalidSpec("config.linux.timeOffsets: expected an object of clocks")
    if offsets and "time" not in new_namespaces(config):
        raise InvalidSpec("config.linux.timeOffsets: expected a new namespace of type time beside them")
    found = []
    for clock, offset in offsets.items():
        where = f"config.linux.timeOffsets.{clock}"
        if clock not in _CLOCKS:
            raise InvalidSpec(f"{where} is not known: expected one of {', '.join(_CLOCKS)}")
        if not isinstance(offset, Mapping):
            raise InvalidSpec(f"{where}: expected an object with secs and nanosecs")
        seconds, nanoseconds = offset.get("secs") or 0, offset.get("nanosecs") or 0
        if not isinstance(seconds, int) or not isinstance(nanoseconds, int):
            raise InvalidSpec(f"{where}: expected whole numbers as secs and nanosecs")
        if not 0 <= nanoseconds < 1_000_000_000:
            raise InvalidSpec(f"{where}.nanosecs is {nanoseconds}: expected less than a second")
        found.append((clock, seconds, nanoseconds))
    return tuple(found)


def compile_id_map(entries: Any, where: str) -> IdMap:
    """A list of LinuxIDMapping as (inside, outside, count). Raises InvalidSpec that names `where`."""
    if entries is None:
        return ()
    if not isinstance(entries, list):
        raise InvalidSpec(f"{where}: expected a list")
    found = []
    for entry in entries:
        values: list[Any] = [entry.get(key) if isinstance(entry, Mapping) else None for key in _MAPPING_KEYS]
        if not all(isinstance(value, int) and 0 <= value < _IDS for value in values) or not values[2]:
            raise InvalidSpec(
                f"{where} has {entry!r}: expected containerID, hostID and size, each a number below 2^32"
            )
        found.append((values[0], values[1], values[2]))
    return tuple(found)


_MAPPING_KEYS = ("containerID", "hostID", "size")


def _kinds(config: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """The new ones and the joined ones."""
    entries = (config.get("linux") or {}).get("namespaces") or ()
    try:
        return _sorted(tuple([(one["type"], one.get("path") or "") for one in entries]))
    except (TypeError, KeyError, AttributeError):
        raise InvalidSpec(
            f"config.linux.namespaces is {entries!r}: expected a list of objects with a type"
        ) from None


@lru_cache(maxsize=64)
def _sorted(entries: tuple[tuple[str, Any], ...]) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Remembered, since nearly all containers have the same."""
    seen = set()
    joined = []
    for kind, path in entries:
        if kind not in NAMESPACE_TYPES:
            raise InvalidSpec(
                f"config.linux.namespaces has the type {kind!r}: expected one of {', '.join(NAMESPACE_TYPES)}"
            )
        if kind in seen:
            raise InvalidSpec(f"config.linux.namespaces has the type {kind} twice: expected it once")
        seen.add(kind)
        if path:
            if not isinstance(path, str) or not path.startswith("/"):
                raise InvalidSpec(
                    f"config.linux.namespaces has {path!r} as path of {kind}: expected an absolute one"
                )
            joined.append((NAMESPACE_TYPES[kind], path))
    there = {name for name, _ in joined}
    new = tuple(short for kind, short in NAMESPACE_TYPES.items() if kind in seen and short not in there)
    return new, tuple(joined)
