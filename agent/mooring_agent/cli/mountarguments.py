# SPDX-License-Identifier: Apache-2.0
"""`--mount type=…,source=…,target=…` of `mooring run`, as docker's client has it. Pure."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Mapping
from typing import Any

from ..engine.resources.options import Size
from ..errors import InvalidSpec
from .images import pair

_ALIASES = {
    "src": "source", "dst": "target", "destination": "target", "ro": "readonly",
}  # fmt: skip
_FLAGS = {"true": True, "1": True, "false": False, "0": False}


def mounts(given: list[str]) -> list[dict[str, Any]]:
    """The `Mounts` of a HostConfig. Raises InvalidSpec."""
    return [_mount(text) for text in given]


def _mount(text: str) -> dict[str, Any]:
    mount: dict[str, Any] = {"Type": "volume"}
    try:
        (words,) = csv.reader([text], strict=True)
    except (csv.Error, ValueError) as error:
        raise InvalidSpec(f"--mount {text} cannot be read ({error}): expected KEY=VALUE,…") from None
    for word in words:
        key, mark, value = word.partition("=")
        key = _ALIASES.get(key.lower(), key.lower())
        taken = _KEYS.get(key)
        if taken is None or not (mark or key in _WITHOUT_VALUE):
            raise InvalidSpec(
                f"--mount {text} has {word!r}: expected KEY=VALUE with one of {', '.join(_KEYS)} as the key"
            )
        taken(mount, value if mark else "true", f"--mount {text}: {key}")
    if mount["Type"] == "bind" and "Source" in mount:
        mount["Source"] = os.path.abspath(os.path.expanduser(mount["Source"]))
    return mount


_Taken = Callable[[dict[str, Any], str, str], None]


def _flag(*path: str) -> _Taken:
    def take(mount: dict[str, Any], value: str, where: str) -> None:
        if value.lower() not in _FLAGS:
            raise InvalidSpec(f"{where} is {value!r}: expected true or false")
        _below(mount, path)[path[-1]] = _FLAGS[value.lower()]

    return take


def _inner(*path: str) -> _Taken:
    def take(mount: dict[str, Any], value: str, where: str) -> None:
        _below(mount, path)[path[-1]] = value

    return take


def _size(mount: dict[str, Any], value: str, where: str) -> None:
    mount.setdefault("TmpfsOptions", {})["SizeBytes"] = Size().parse(value, where)


def _mode(mount: dict[str, Any], value: str, where: str) -> None:
    try:
        mount.setdefault("TmpfsOptions", {})["Mode"] = int(value, 8)
    except ValueError:
        raise InvalidSpec(f"{where} is {value!r}: expected an octal number such as 1777") from None


def _option(mount: dict[str, Any], value: str, where: str) -> None:
    key, said = pair(value, where)
    _below(mount, ("VolumeOptions", "DriverConfig", "Options", key))[key] = said


def _below(mount: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for part in path[:-1]:
        mount = mount.setdefault(part, {})
    return mount


_KEYS: Mapping[str, _Taken] = {
    "type": _inner("Type"),
    "source": _inner("Source"),
    "target": _inner("Target"),
    "readonly": _flag("ReadOnly"),
    "bind-propagation": _inner("BindOptions", "Propagation"),
    "volume-nocopy": _flag("VolumeOptions", "NoCopy"),
    "volume-subpath": _inner("VolumeOptions", "Subpath"),
    "volume-driver": _inner("VolumeOptions", "DriverConfig", "Name"),
    "volume-opt": _option,
    "image-subpath": _inner("ImageOptions", "Subpath"),
    "tmpfs-size": _size,
    "tmpfs-mode": _mode,
}
_WITHOUT_VALUE = ("readonly", "volume-nocopy")
