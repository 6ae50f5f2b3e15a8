# SPDX-License-Identifier: Apache-2.0
"""What opens or closes a container to be created, from Docker's words to ours.

SecurityOpt, devices, limits of processes, and the modes of namespaces.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...errors import InvalidSpec
from ...runtime.standard import MASKED_PATHS, READ_ONLY_PATHS
from .rules import Draft, Rule, asks, integer, objects, refused, text, texts, unsupported

_TRUTH = {"": True, "true": True, "false": False}


def security_options(draft: Draft, value: Any, where: str) -> None:
    """HostConfig.SecurityOpt: "NAME=VALUE", or "NAME:VALUE" as older clients write it."""
    for item in texts(value, where) or []:
        mark = min((item.find(sign) for sign in "=:" if sign in item), default=len(item))
        name, setting = item[:mark], item[mark + 1 :]
        rule = _SECURITY.get(name)
        if rule is None:
            raise unsupported(where, item, f"expected one of {', '.join(sorted(_SECURITY))}")
        rule(draft, setting, where)


def _no_new_privileges(draft: Draft, setting: str, where: str) -> None:
    if setting not in _TRUTH:
        raise refused(where, f"no-new-privileges={setting}", "true or false")
    draft.spec["no_new_privileges"] = _TRUTH[setting]


def _seccomp(draft: Draft, setting: str, where: str) -> None:
    if setting == "builtin":
        setting = "default"
    if setting not in ("default", "unconfined") and not setting.lstrip().startswith("{"):
        raise refused(where, f"seccomp={setting}", "unconfined, builtin or the JSON of a profile")
    draft.spec["seccomp"] = setting


def _apparmor(draft: Draft, setting: str, where: str) -> None:
    if not setting:
        raise refused(where, "apparmor=", "the name of a profile, or unconfined")
    draft.spec["apparmor"] = setting


def _label(draft: Draft, setting: str, where: str) -> None:
    draft.spec.setdefault("selinux", []).append(setting)


def _system_paths(draft: Draft, setting: str, where: str) -> None:
    if setting != "unconfined":
        raise refused(where, f"systempaths={setting}", "unconfined")
    draft.spec["masked_paths"], draft.spec["readonly_paths"] = [], []


def _mask(draft: Draft, setting: str, where: str) -> None:
    masked = draft.spec.setdefault("masked_paths", list(MASKED_PATHS))
    masked += [path for path in setting.split(":") if path]


def _unmask(draft: Draft, setting: str, where: str) -> None:
    """As podman has it: paths, or ALL, that are neither hidden nor read-only."""
    for option, standard in (("masked_paths", MASKED_PATHS), ("readonly_paths", READ_ONLY_PATHS)):
        paths = draft.spec.get(option, list(standard))
        kept = [] if setting == "ALL" else [path for path in paths if path not in setting.split(":")]
        draft.spec[option] = kept


_SECURITY: dict[str, Callable[[Draft, str, str], None]] = {
    "apparmor": _apparmor,
    "label": _label,
    "mask": _mask,
    "no-new-privileges": _no_new_privileges,
    "seccomp": _seccomp,
    "systempaths": _system_paths,
    "unmask": _unmask,
}


def paths(option: str) -> Rule:
    """MaskedPaths and ReadonlyPaths: an empty list asks for none, null for the usual ones."""

    def rule(draft: Draft, value: Any, where: str) -> None:
        texts(value, where)
        if value is not None:
            draft.spec[option] = value

    return rule


def devices(draft: Draft, value: Any, where: str) -> None:
    """HostConfig.Devices."""
    for number, device in enumerate(objects(value, where) or []):
        mapped: dict[str, Any] = {}
        for key, setting in device.items():
            inner = f"{where}[{number}].{key}"
            if key not in _DEVICE_KEYS:
                if asks(setting):
                    raise unsupported(inner, setting)
            elif found := text(setting, inner):
                mapped[_DEVICE_KEYS[key]] = found
        if "host" not in mapped:
            raise InvalidSpec(f"option {where}[{number}].PathOnHost is missing: name the device of the host")
        draft.spec.setdefault("devices", []).append(mapped)


_DEVICE_KEYS = {"PathOnHost": "host", "PathInContainer": "container", "CgroupPermissions": "access"}


def ulimits(draft: Draft, value: Any, where: str) -> None:
    """HostConfig.Ulimits."""
    for number, limit in enumerate(objects(value, where) or []):
        here = f"{where}[{number}]"
        if set(limit) - {"Name", "Soft", "Hard"}:
            raise refused(here, limit, "an object with Name, Soft and Hard")
        name = text(limit.get("Name"), f"{here}.Name")
        if name is None:
            raise InvalidSpec(f"option {here}.Name is missing: name the limit, such as nofile")
        soft, hard = (integer(limit.get(key), f"{here}.{key}") or 0 for key in ("Soft", "Hard"))
        draft.spec.setdefault("ulimits", {})[name] = {"soft": soft, "hard": hard}


def mode(option: str, *plain: str) -> Rule:
    """The mode of a namespace; those of `plain` say what holds anyway."""

    def rule(draft: Draft, value: Any, where: str) -> None:
        given = text(value, where)
        if given is not None and given not in plain:
            draft.spec[option] = given

    return rule
