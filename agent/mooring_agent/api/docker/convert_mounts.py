# SPDX-License-Identifier: Apache-2.0
"""The volumes of a container to be created: Binds, Mounts, Tmpfs and Volumes become our `volumes`."""

from __future__ import annotations

from typing import Any

from ...engine.resources.mounts import PROPAGATIONS
from ...errors import InvalidSpec
from .rules import Draft, asks, boolean, integer, mapping, objects, pairs, refused, text, texts, unsupported

# Modes of a bind that ask for what holds anyway: consistency means something on macOS only.
_PLAIN_MODES = frozenset({"", "rw", "consistent", "cached", "delegated", "default"})
# Every tmpfs of ours is mounted so unless its options say otherwise.
_TMPFS_FLAGS = frozenset({"", "rw", "nosuid", "nodev", "noexec"})
RELABEL = {"z": "shared", "Z": "private"}
_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


def binds(draft: Draft, value: Any, where: str) -> None:
    """HostConfig.Binds: "SOURCE:TARGET[:MODE,…]", or "TARGET" for a volume without a name."""
    for bind in texts(value, where) or []:
        parts = bind.split(":")
        if len(parts) == 1:
            draft.volumes.append({"type": "volume", "target": bind})
            continue
        if len(parts) > 3 or not parts[0] or not parts[1]:
            raise refused(where, bind, '"SOURCE:TARGET" or "SOURCE:TARGET:MODE"')
        source, target = parts[:2]
        volume: dict[str, Any] = {
            "type": "bind" if source.startswith("/") else "volume",
            "source": source,
            "target": target,
        }
        if volume["type"] == "bind":
            volume["create_host_path"] = True
        for flag in parts[2].split(",") if len(parts) == 3 else []:
            if flag == "ro":
                volume["read_only"] = True
            elif flag in PROPAGATIONS and volume["type"] == "bind":
                volume["propagation"] = flag
            elif flag == "nocopy" and volume["type"] == "volume":
                volume["nocopy"] = True
            elif flag in RELABEL:
                volume["relabel"] = RELABEL[flag]
            elif flag not in _PLAIN_MODES:
                raise unsupported(where, bind, f"leave the mode {flag} out")
        draft.volumes.append(volume)


def mounts(draft: Draft, value: Any, where: str) -> None:
    """HostConfig.Mounts."""
    for number, mount in enumerate(objects(value, where) or []):
        volume, spec = _mount(mount, f"{where}[{number}]")
        draft.volumes.append(volume)
        if spec:
            if "source" not in volume:
                raise unsupported(
                    f"{where}[{number}].VolumeOptions", spec, "name the volume that is to have them"
                )
            draft.volume_specs[volume["source"]] = spec


def _mount(mount: dict[str, Any], where: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The volume, and the spec that it is made with if it is not there yet."""
    volume: dict[str, Any] = {}
    spec: dict[str, Any] = {}
    for key, value in mount.items():
        inner = f"{where}.{key}"
        if key == "Type":
            volume["type"] = text(value, inner)
        elif key in ("Source", "Target"):
            if found := text(value, inner):
                volume[key.lower()] = found
        elif key == "ReadOnly":
            if value not in (None, True, False):
                raise refused(inner, value, "true or false")
            if value:
                volume["read_only"] = True
        elif key == "TmpfsOptions":
            _tmpfs_options(volume, mapping(value, inner) or {}, inner)
        elif key == "BindOptions":
            _bind_options(volume, mapping(value, inner) or {}, inner)
        elif key == "VolumeOptions":
            spec = _volume_options(volume, mapping(value, inner) or {}, inner)
        elif key == "ImageOptions":
            _image_options(volume, mapping(value, inner) or {}, inner)
        elif key == "Consistency":
            if value not in (None, *_PLAIN_MODES):
                raise unsupported(inner, value)
        elif asks(value):
            raise unsupported(inner, value)
    if volume.get("type") not in ("bind", "volume", "tmpfs", "image"):
        raise refused(f"{where}.Type", volume.get("type"), "bind, volume, tmpfs or image")
    if "target" not in volume:
        raise InvalidSpec(f"option {where}.Target is missing: give the path inside the container")
    return volume, spec


def _bind_options(volume: dict[str, Any], options: dict[str, Any], where: str) -> None:
    for key, value in options.items():
        if key == "Propagation":
            if found := text(value, f"{where}.{key}"):
                volume["propagation"] = found
        elif key == "NonRecursive":
            if boolean(value, f"{where}.{key}"):
                volume["recursive"] = False
        elif key == "CreateMountpoint":
            if boolean(value, f"{where}.{key}"):
                volume["create_host_path"] = True
        elif asks(value):
            raise unsupported(f"{where}.{key}", value)


def _volume_options(volume: dict[str, Any], options: dict[str, Any], where: str) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for key, value in options.items():
        inner = f"{where}.{key}"
        if key == "DriverConfig":
            spec |= _driver_config(mapping(value, inner) or {}, inner)
        elif key == "Labels":
            if labels := pairs(value, inner):
                spec["labels"] = labels
        elif key == "NoCopy":
            if boolean(value, inner):
                volume["nocopy"] = True
        elif key == "Subpath":
            if path := text(value, inner):
                volume["subpath"] = path
        elif asks(value):
            raise unsupported(inner, value)
    return spec


def _image_options(volume: dict[str, Any], options: dict[str, Any], where: str) -> None:
    for key, value in options.items():
        if key == "Subpath":
            if path := text(value, f"{where}.{key}"):
                volume["subpath"] = path
        elif asks(value):
            raise unsupported(f"{where}.{key}", value)


def _driver_config(driver: dict[str, Any], where: str) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for key, value in driver.items():
        if key == "Options":
            if options := pairs(value, f"{where}.{key}"):
                spec["driver_opts"] = options
        elif asks(value) and not (key == "Name" and value == "local"):
            raise unsupported(f"{where}.{key}", value)
    return spec


def _tmpfs_options(volume: dict[str, Any], options: dict[str, Any], where: str) -> None:
    for key, value in options.items():
        if key == "SizeBytes":
            if size := integer(value, f"{where}.{key}"):
                volume["size"] = size
        elif key == "Mode":
            if (mode := integer(value, f"{where}.{key}")) is not None:
                volume.setdefault("options", []).append(f"mode={mode:o}")
        elif key == "Options":
            if value is not None and not isinstance(value, list):
                raise refused(f"{where}.{key}", value, "a list of lists of strings")
            for option in value or []:
                words = texts(option, f"{where}.{key}") or []
                if words and words != ["rw"]:
                    volume.setdefault("options", []).append("=".join(words))
        elif asks(value):
            raise unsupported(f"{where}.{key}", value)


def tmpfs(draft: Draft, value: Any, where: str) -> None:
    """HostConfig.Tmpfs: {"/run": "size=64m,…"}."""
    for target, options in (pairs(value, where) or {}).items():
        volume: dict[str, Any] = {"type": "tmpfs", "target": target}
        for option in options.split(","):
            name, mark, setting = option.partition("=")
            if name == "size" and mark:
                volume["size"] = _tmpfs_size(setting, f"{where}.{target}")
            elif option == "ro":
                volume["read_only"] = True
            elif option not in _TMPFS_FLAGS:
                volume.setdefault("options", []).append(option)
        draft.volumes.append(volume)


def _tmpfs_size(given: str, where: str) -> int | str:
    """A size as tmpfs(5) takes it."""
    if given.endswith("%"):
        return given
    factor = _UNITS.get(given[-1:].lower(), 1)
    digits = given if factor == 1 else given[:-1]
    if not digits.isascii() or not digits.isdigit():
        raise refused(where, f"size={given}", "size=BYTES, or with k, m, g or %")
    return int(digits) * factor


def anonymous(draft: Draft, value: Any, where: str) -> None:
    """Volumes: paths that are to be volumes without a name."""
    for target, options in (mapping(value, where) or {}).items():
        if asks(options):
            raise unsupported(f"{where}.{target}", options)
        draft.volumes.append({"type": "volume", "target": target})


def settled(draft: Draft) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The volumes, and the targets of those that still need a name. A bind wins over an anonymous volume."""
    named = [volume for volume in draft.volumes if "source" in volume or volume["type"] != "volume"]
    taken = {volume["target"] for volume in named}
    wanted = [volume for volume in draft.volumes if volume not in named]
    for volume in wanted:
        if volume.get("read_only"):
            raise unsupported("Mounts.ReadOnly", True, "name the volume that is to be read-only")
    return named, tuple(dict.fromkeys(volume["target"] for volume in wanted if volume["target"] not in taken))
