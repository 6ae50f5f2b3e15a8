# SPDX-License-Identifier: Apache-2.0
"""The types of a runtime-spec config (1.2, config.md and config-linux.md): what is checked before it is read.

A config comes from outside, and what compiles it takes for granted that a list is a list. What the
specification does not know is passed over, as it wants (config.md, Extensibility); null counts as absent.
"""

from __future__ import annotations

from typing import Any

from ..errors import InvalidSpec

_TEXTS = [str]
_IDS = [{"containerID": int, "hostID": int, "size": int}]
_HOOKS = [{"path": str, "args": _TEXTS, "env": _TEXTS, "timeout": int}]
_DEVICE = {"major": int, "minor": int}
_RATES = [{**_DEVICE, "rate": int}]
_CLOCK = {"secs": int, "nanosecs": int}

_PROCESS: dict[str, Any] = {
    "terminal": bool,
    "consoleSize": {"height": int, "width": int},
    "user": {"uid": int, "gid": int, "umask": int, "additionalGids": [int], "username": str},
    "args": _TEXTS,
    "commandLine": str,
    "env": _TEXTS,
    "cwd": str,
    "capabilities": dict.fromkeys(("bounding", "effective", "permitted", "inheritable", "ambient"), _TEXTS),
    "rlimits": [{"type": str, "soft": int, "hard": int}],
    "noNewPrivileges": bool,
    "apparmorProfile": str,
    "selinuxLabel": str,
    "oomScoreAdj": int,
    "scheduler": {
        "policy": str,
        "nice": int,
        "priority": int,
        "flags": _TEXTS,
        "runtime": int,
        "deadline": int,
        "period": int,
    },
    "ioPriority": {"class": str, "priority": int},
    "execCPUAffinity": {"initial": str, "final": str},
}
_RESOURCES: dict[str, Any] = {
    "devices": [{"allow": bool, "type": str, "access": str, **_DEVICE}],
    "memory": {
        **dict.fromkeys(("limit", "reservation", "swap", "kernel", "kernelTCP", "swappiness"), int),
        **dict.fromkeys(("disableOOMKiller", "useHierarchy", "checkBeforeUpdate"), bool),
    },
    "cpu": {
        **dict.fromkeys(
            ("shares", "quota", "burst", "period", "realtimeRuntime", "realtimePeriod", "idle"), int
        ),
        "cpus": str,
        "mems": str,
    },
    "pids": {"limit": int},
    "blockIO": {
        "weight": int,
        "leafWeight": int,
        "weightDevice": [{**_DEVICE, "weight": int, "leafWeight": int}],
        **dict.fromkeys(
            (
                "throttleReadBpsDevice",
                "throttleWriteBpsDevice",
                "throttleReadIOPSDevice",
                "throttleWriteIOPSDevice",
            ),
            _RATES,
        ),
    },
    "hugepageLimits": [{"pageSize": str, "limit": int}],
    "network": {"classID": int, "priorities": [{"name": str, "priority": int}]},
    "rdma": {"*": {"hcaHandles": int, "hcaObjects": int}},
    "unified": {"*": str},
}
_SECCOMP: dict[str, Any] = {
    "defaultAction": str,
    "defaultErrnoRet": int,
    "architectures": _TEXTS,
    "flags": _TEXTS,
    "listenerPath": str,
    "listenerMetadata": str,
    "syscalls": [
        {
            "names": _TEXTS,
            "action": str,
            "errnoRet": int,
            "args": [{"index": int, "value": int, "valueTwo": int, "op": str}],
        }
    ],
}
_CONFIG: dict[str, Any] = {
    "ociVersion": str,
    "root": {"path": str, "readonly": bool},
    "mounts": [
        {
            "destination": str,
            "type": str,
            "source": str,
            "options": _TEXTS,
            "uidMappings": _IDS,
            "gidMappings": _IDS,
        }
    ],
    "process": _PROCESS,
    "hostname": str,
    "domainname": str,
    "hooks": dict.fromkeys(
        ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"), _HOOKS
    ),
    "annotations": {"*": str},
    "linux": {
        "namespaces": [{"type": str, "path": str}],
        "uidMappings": _IDS,
        "gidMappings": _IDS,
        "timeOffsets": {"*": _CLOCK},
        "devices": [{"type": str, "path": str, **_DEVICE, "fileMode": int, "uid": int, "gid": int}],
        "netDevices": {"*": {"name": str}},
        "cgroupsPath": str,
        "resources": _RESOURCES,
        "intelRdt": dict,
        "memoryPolicy": {"mode": str, "nodes": str, "flags": _TEXTS},
        "sysctl": {"*": str},
        "seccomp": _SECCOMP,
        "rootfsPropagation": str,
        "maskedPaths": _TEXTS,
        "readonlyPaths": _TEXTS,
        "mountLabel": str,
        "personality": {"domain": str, "flags": _TEXTS},
    },
}
_WORDS: dict[Any, str] = {str: "a text", int: "a whole number", bool: "true or false", dict: "an object"}


def check_config(config: Any) -> None:
    """Raise InvalidSpec that names the first part of a config that is of another type than it should be.

    Members that are null are taken out.
    """
    _check(config, _CONFIG, "config")


def check_process(process: Any) -> None:
    """The same for a `process` alone, as an exec takes it."""
    _check(process, _PROCESS, "process")


def _check(value: Any, expected: Any, where: str) -> None:
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            raise _refusal(where, value, "an object")
        each = expected.get("*")
        for name in [name for name, part in value.items() if part is None]:
            del value[name]
        for name, part in value.items():
            wanted = each or expected.get(name)
            if wanted is not None:
                _check(part, wanted, f"{where}.{name}")
    elif isinstance(expected, list):
        if not isinstance(value, list):
            raise _refusal(where, value, "a list")
        for number, part in enumerate(value):
            _check(part, expected[0], f"{where}[{number}]")
    elif type(value) is not expected:
        raise _refusal(where, value, _WORDS[expected])
    elif expected is str:
        _check_text(value, where)


def _check_text(text: str, where: str) -> None:
    """What goes to the kernel is bytes that end at the first NUL."""
    if "\0" in text:
        raise InvalidSpec(f"{where} has a NUL character in it, which no path, name or argument can have")
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise InvalidSpec(f"{where} has half a surrogate pair in it, which is no character") from None


def _refusal(where: str, value: Any, expected: str) -> InvalidSpec:
    shown = repr(value)
    return InvalidSpec(f"{where} is {shown[:60]}{'…' if len(shown) > 60 else ''}, expected {expected}")
