# SPDX-License-Identifier: Apache-2.0
"""The process of a config. Pure. runtime-spec 1.2, config.md Process, POSIX process, Linux Process, User."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from ..errors import InvalidSpec
from .capabilities import CAPABILITIES
from .compile_scheduling import (
    compile_affinity,
    compile_io_priority,
    compile_memory_policy,
    compile_personality,
    compile_scheduler,
)
from .plan import Capabilities, Process
from .seccomp_syntax import listener_of, notifies, seccomp_flags

# The annotation that carries a user by name; the runtime-spec has only numbers for Linux. Such a process is
# what setuid(2) makes of root's: a user other than root keeps of its capabilities the ambient ones alone.
# Without it the five sets hold as they are given.
USER_ANNOTATION = "org.mooring.user"
# Further groups of the process, by name or number, with commas between.
GROUPS_ANNOTATION = "org.mooring.groups"
# crun's: the process has the supplementary groups of whoever runs the runtime.
_KEEP_GROUPS_ANNOTATION = "run.oci.keep_original_groups"
_SETS = ("bounding", "effective", "permitted", "inheritable", "ambient")
# include/uapi/asm-generic/resource.h
_RLIMIT_NAMES = """
    CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME
"""
_RLIMITS = {f"RLIMIT_{name}": number for number, name in enumerate(_RLIMIT_NAMES.split())}
_UNLIMITED = (1 << 64) - 1
_HIGHEST_ID = (1 << 32) - 2  # setresuid(2) takes the one above for "as it is"
_LOG = logging.getLogger(__name__)


def compile_process(
    process: Mapping[str, Any],
    annotations: Mapping[str, str],
    seccomp: str | None,
    linux: Mapping[str, Any] | None = None,
) -> Process:
    """The process part of a config; `linux` is the part of that name, for what it says about the process.

    Raises InvalidSpec that names the field.
    """
    if not isinstance(process, Mapping):
        raise InvalidSpec(f"config.process is {process!r}: expected an object")
    linux = linux or {}
    profile = linux.get("seccomp") or {}
    user = _object(process, "user")
    console = process.get("consoleSize")
    by_name = annotations.get(USER_ANNOTATION)
    affinity = compile_affinity(process.get("execCPUAffinity"))
    listener, metadata = listener_of(profile) if profile and notifies(profile) else ("", "")
    return Process(
        args=compile_arguments(process),
        env=_texts(process, "env"),
        cwd=_working_directory(process),
        user=by_name or _user(user),
        additional_gids=tuple(
            _id(number, "config.process.user.additionalGids") for number in _list(user, "additionalGids")
        ),
        additional_groups=tuple(annotations[GROUPS_ANNOTATION].split(","))
        if GROUPS_ANNOTATION in annotations
        else (),
        umask=_umask(user.get("umask")),
        terminal=bool(process.get("terminal", False)),
        console_size=_console_size(console),
        capabilities=_capabilities(_object(process, "capabilities")),
        exact_capabilities=not by_name,
        keep_groups=annotations.get(_KEEP_GROUPS_ANNOTATION) == "1",
        rlimits=_rlimits(_list(process, "rlimits")),
        no_new_privileges=bool(process.get("noNewPrivileges", False)),
        seccomp=seccomp,
        seccomp_flags=seccomp_flags(profile) if profile.get("flags") else 0,
        listener=listener,
        listener_metadata=metadata,
        oom_score_adj=_oom_score(process.get("oomScoreAdj")),
        apparmor_profile=_text(process, "apparmorProfile"),
        selinux_label=_text(process, "selinuxLabel"),
        scheduler=compile_scheduler(process.get("scheduler")),
        io_priority=compile_io_priority(process.get("ioPriority")),
        personality=compile_personality(linux.get("personality")),
        memory_policy=compile_memory_policy(linux.get("memoryPolicy")),
        initial_cpus=affinity[0],
        final_cpus=affinity[1],
    )


def compile_arguments(process: Mapping[str, Any]) -> tuple[str, ...]:
    """The `args` of a config's process. Raises InvalidSpec that names the field."""
    arguments = _texts(process, "args")
    if not arguments:
        raise InvalidSpec("config.process.args is empty: expected a program and its arguments")
    return arguments


def _working_directory(process: Mapping[str, Any]) -> str:
    path = process.get("cwd")
    if not isinstance(path, str) or not path.startswith("/"):
        raise InvalidSpec(f"config.process.cwd is {path!r}: expected an absolute path")
    return path


def _user(user: Mapping[str, Any]) -> str:
    name = user.get("username")
    if name and "uid" not in user:
        return str(name)
    uid = _id(user.get("uid", 0), "config.process.user.uid")
    return f"{uid}:{_id(user.get('gid', 0), 'config.process.user.gid')}"


def _id(number: Any, where: str) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= _HIGHEST_ID:
        raise InvalidSpec(f"{where} has {number!r}: expected a number from 0 to {_HIGHEST_ID}")
    return number


def _umask(umask: Any) -> int | None:
    if umask is not None and (not isinstance(umask, int) or not 0 <= umask <= 0o777):
        raise InvalidSpec(f"config.process.user.umask is {umask!r}: expected a number from 0 to 511 (0777)")
    return umask


def _console_size(console: Any) -> tuple[int, int]:
    if not console:
        return 0, 0
    sizes = [console.get(name) if isinstance(console, Mapping) else None for name in ("height", "width")]
    for size in sizes:
        if not isinstance(size, int) or not 0 <= size < 1 << 16:
            raise InvalidSpec(
                f"config.process.consoleSize is {console!r}: expected height and width in characters"
            )
    return sizes[0] or 0, sizes[1] or 0


def _capabilities(sets: Mapping[str, Any]) -> Capabilities:
    masks = {}
    for name in sets:
        if name not in _SETS:
            continue
        mask, unknown = _mask(tuple(map(str, _list(sets, name))))
        for capability in unknown:
            # The runtime-spec wants a warning here and no failure.
            _LOG.warning(
                "config.process.capabilities.%s has %r, which is no capability: it is left out",
                name,
                capability,
            )
        masks[name] = mask
    return Capabilities(**masks)


@lru_cache(maxsize=64)
def _mask(names: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    """The mask of capabilities, and the names that are none. Remembered: most containers have the same."""
    mask = 0
    for name in names:
        mask |= 1 << CAPABILITIES[name] if name in CAPABILITIES else 0
    return mask, tuple(name for name in names if name not in CAPABILITIES)


def _rlimits(limits: list[Any]) -> tuple[tuple[int, int, int], ...]:
    found: dict[int, tuple[int, int, int]] = {}
    for limit in limits:
        name = limit.get("type") if isinstance(limit, dict) else None
        if name not in _RLIMITS:
            raise InvalidSpec(
                f"config.process.rlimits has type {name!r}: expected a name such as RLIMIT_NOFILE"
            )
        number = _RLIMITS[name]
        if number in found:
            raise InvalidSpec(f"config.process.rlimits has {name} twice: expected it once")
        soft, hard = (_limit(limit, key, name) for key in ("soft", "hard"))
        if soft > hard:
            raise InvalidSpec(
                f"config.process.rlimits has a soft {name} of {soft} above the hard one of {hard}: expected "
                "at most as much"
            )
        found[number] = (number, *(-1 if value == _UNLIMITED else value for value in (soft, hard)))  # type: ignore[assignment]
    return tuple(found.values())


def _limit(limit: Mapping[str, Any], key: str, name: str) -> int:
    value = limit.get(key)
    if value == -1:  # how RLIM_INFINITY is written where numbers have signs
        return _UNLIMITED
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _UNLIMITED:
        raise InvalidSpec(
            f"config.process.rlimits has {value!r} as {key} of {name}: expected a number from 0"
        )
    return value


def _oom_score(score: Any) -> int | None:
    if score is not None and (not isinstance(score, int) or not -1000 <= score <= 1000):
        raise InvalidSpec(f"config.process.oomScoreAdj is {score!r}: expected a number from -1000 to 1000")
    return score


def _object(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = entry.get(name) or {}
    if not isinstance(value, dict):
        raise InvalidSpec(f"config.process.{name} is {value!r}: expected an object")
    return value


def _list(entry: Mapping[str, Any], name: str) -> list[Any]:
    value = entry.get(name) or []
    if not isinstance(value, list):
        raise InvalidSpec(f"config.process has {value!r} as {name}: expected a list")
    return value


def _text(process: Mapping[str, Any], name: str) -> str:
    value = process.get(name) or ""
    if not isinstance(value, str):
        raise InvalidSpec(f"config.process.{name} is {value!r}: expected a text")
    return value


def _texts(process: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = process.get(name) or ()
    try:
        if not isinstance(value, list | tuple) or "\0" in "".join(value):
            raise InvalidSpec(f"config.process.{name} is {value!r}: expected a list of texts without NUL")
    except TypeError:
        raise InvalidSpec(f"config.process.{name} is {value!r}: expected a list of texts") from None
    return tuple(value)
