# SPDX-License-Identifier: Apache-2.0
"""System call filters: from a profile in Docker's format to a BPF program that the launcher installs.

The format is that of `docker run --security-opt seccomp=FILE`, a superset of `linux.seccomp` of the OCI
runtime-spec 1.2: each entry of `syscalls` may say for which capabilities, architectures and kernels it holds
(`includes`, `excludes`).
"""

from __future__ import annotations

import errno
import functools
import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..errors import InvalidSpec, NotSupported
from ..linux import seccomp
from . import seccomp_default as default
from .seccomp_shrink import shrink
from .seccomp_stub import LARGEST_PROGRAM, unknown_calls_stub
from .seccomp_syntax import MACHINES, Profile, Rule, parse

ALLOW = "SCMP_ACT_ALLOW"
ERRNO = "SCMP_ACT_ERRNO"
"""Actions by name, see seccomp_syntax.ACTIONS."""

_FORMAT = "2"
"""Part of each cache key: another one when compile_profile() makes another program of the same profile."""


def default_profile() -> dict[str, Any]:
    """The profile of a container that names none, as a document in Docker's format."""
    syscalls: list[dict[str, Any]] = [_allow(" ".join(default.ALWAYS))]
    syscalls += [
        _allow(names, includes={"minKernel": kernel}) for kernel, names in default.SINCE_KERNEL.items()
    ]
    syscalls += _socket_rules()
    syscalls += [
        _allow("personality", args=[_argument(0, value, "SCMP_CMP_EQ")]) for value in default.PERSONALITIES
    ]
    syscalls += [
        _allow(names, includes={"arches": list(architectures)})
        for architectures, names in default.BY_ARCHITECTURE
    ]
    syscalls += [
        _allow(names, includes={"caps": [capability]}) for capability, names in default.BY_CAPABILITY.items()
    ]
    syscalls += _clone_rules()
    return {
        "defaultAction": ERRNO,
        "defaultErrnoRet": errno.EPERM,
        "archMap": [
            {"architecture": f"SCMP_ARCH_{name}", "subArchitectures": [f"SCMP_ARCH_{sub}" for sub in subs]}
            for name, subs in default.ARCHITECTURES.items()
        ],
        "syscalls": syscalls,
    }


def _allow(names: str, **more: Any) -> dict[str, Any]:
    return {"names": sorted(names.split()), "action": ALLOW, **more}


def _argument(index: int, value: int, operation: str, value_two: int = 0) -> dict[str, Any]:
    return {"index": index, "value": value, "valueTwo": value_two, "op": operation}


def _socket_rules() -> list[dict[str, Any]]:
    """Every address family but AF_ALG and AF_VSOCK: those below, between and above."""
    between = range(default.AF_ALG + 1, default.AF_VSOCK)
    return [
        _allow("socket", args=[_argument(0, default.AF_ALG, "SCMP_CMP_LT")]),
        *(_allow("socket", args=[_argument(0, family, "SCMP_CMP_EQ")]) for family in between),
        _allow("socket", args=[_argument(0, default.AF_VSOCK, "SCMP_CMP_GT")]),
    ]


def _clone_rules() -> list[dict[str, Any]]:
    """clone without new namespaces; clone3 as if the kernel had none, as its flags are behind a pointer."""
    without = {"caps": ["CAP_SYS_ADMIN"]}
    s390 = ["s390", "s390x"]
    return [
        _allow(
            "clone",
            args=[_argument(0, default.NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ")],
            excludes={**without, "arches": s390},
        ),
        _allow(
            "clone",
            args=[_argument(1, default.NAMESPACE_FLAGS, "SCMP_CMP_MASKED_EQ")],
            comment="on s390 the flags are the second argument",
            includes={"arches": s390},
            excludes=without,
        ),
        {"names": ["clone3"], "action": ERRNO, "errnoRet": errno.ENOSYS, "excludes": without},
    ]


def compile_profile(profile: Mapping[str, Any], capabilities: Iterable[str]) -> bytes:
    """The profile for a process with this bounding set, as a BPF program: an array of `struct sock_filter`.

    A system call whose name this libseccomp or this machine does not know is left out, as Docker does, and
    calls that are newer than all that the profile names fail with ENOSYS instead of the profile's default, as
    under runc: so that the C library falls back to what it used before. InvalidSpec for a malformed profile;
    NotSupported for one that wants what we do not have.
    """
    rules = parse(profile).select(frozenset(capabilities), platform.machine(), _kernel())
    try:
        with seccomp.Filter(rules.default_action) as under_construction:
            program = shrink(_build(under_construction, rules))
    except OSError as error:
        raise InvalidSpec(
            f"seccomp profile is refused by libseccomp {seccomp.version()}: {error.strerror}"
        ) from error
    if len(program) // 8 > LARGEST_PROGRAM:
        raise InvalidSpec(
            f"seccomp profile makes a program of {len(program) // 8} instructions, expected at most "
            f"{LARGEST_PROGRAM}, the kernel's limit; name fewer conditions on arguments"
        )
    return program


def unknown_calls(profile: Mapping[str, Any]) -> tuple[str, ...]:
    """The system calls of a profile that this libseccomp does not know at all, which a filter leaves out."""
    names = dict.fromkeys(rule.name for rule in parse(profile).rules)
    return tuple(name for name in names if seccomp.syscall(name) == seccomp.UNKNOWN_SYSCALL)


def _build(under_construction: seccomp.Filter, profile: Profile) -> bytes:
    tokens = {name: _architecture(name) for name in (_native(), *profile.architectures)}
    for token in tokens.values():
        under_construction.add_architecture(token)
    if len(profile.rules) > 32:
        # Older libraries have no binary tree (2.5.0), and up to 2.5.4 it misbehaves with few rules.
        with suppress(OSError):
            under_construction.set_attribute(seccomp.OPTIMIZE, seccomp.BINARY_TREE)
    for rule in profile.rules:
        number = seccomp.syscall(rule.name)
        # The library refuses a rule that says what holds anyway.
        if number != seccomp.UNKNOWN_SYSCALL and rule.action != profile.default_action:
            _add(under_construction, rule, number)
    program = under_construction.export()
    if profile.permissive:
        return program
    names = {rule.name for rule in profile.rules}
    largest = {
        name: max((seccomp.syscall_on(token, call) for call in names), default=-1)
        for name, token in tokens.items()
    }
    return unknown_calls_stub(largest, tokens) + program


def _add(under_construction: seccomp.Filter, rule: Rule, number: int) -> None:
    for comparisons in _alternatives(rule):
        try:
            under_construction.add_rule(rule.action, number, comparisons)
        except OSError as error:
            raise InvalidSpec(
                f"seccomp profile has a rule for {rule.name} that libseccomp refuses: "
                f"{os.strerror(error.errno or 0)}; most likely another rule for the same call contradicts "
                "it"
            ) from error


def _alternatives(rule: Rule) -> list[tuple[seccomp.Comparison, ...]]:
    """Several conditions on one argument are alternatives, as in Docker and runc; else all have to hold at
    once."""
    arguments = [comparison.argument for comparison in rule.comparisons]
    if len(set(arguments)) < len(arguments):
        return [(comparison,) for comparison in rule.comparisons]
    return [rule.comparisons]


def _architecture(name: str) -> int:
    token = seccomp.architecture(name.lower())
    if token == 0:
        raise NotSupported(
            f"seccomp profile is for SCMP_ARCH_{name}, which libseccomp {seccomp.version()} does not know; "
            "use a newer one"
        )
    return token


def _native() -> str:
    machine = platform.machine()
    if machine not in MACHINES:
        raise NotSupported(
            f"seccomp profiles cannot be compiled on {machine}, expected one of {', '.join(MACHINES)}"
        )
    return MACHINES[machine][0]


def _kernel() -> tuple[int, int]:
    match = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _key(profile: Mapping[str, Any] | None, capabilities: frozenset[str]) -> str:
    if profile is None:
        return _default_key(capabilities)
    return _hash(json.dumps(profile, sort_keys=True, separators=(",", ":")), capabilities)


@functools.cache
def _default_key(capabilities: frozenset[str]) -> str:
    return _key(default_profile(), capabilities)


def _hash(profile: str, capabilities: frozenset[str]) -> str:
    """Of all that the program depends on: change one of these and it is another file."""
    parts = (
        profile,
        ",".join(sorted(capabilities)),
        seccomp.version(),
        platform.machine(),
        ".".join(str(number) for number in _kernel()),
        _FORMAT,
    )
    return hashlib.sha256("\n".join(parts).encode("utf-8")).hexdigest()


class SeccompCache:
    """Compiled profiles as files, so that libseccomp is needed once for each, and a launcher has nothing to
    do but to read.

    The directory is made when it is needed, readable by root alone. Safe for several processes and threads: a
    file appears whole or not at all.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path_for(self, profile: Mapping[str, Any] | None, capabilities: Iterable[str]) -> Path:
        """The file with the program for a process with this bounding set; None is the default profile.

        Raises as compile_profile(). What was asked for before costs one look at the file system.
        """
        names = frozenset(capabilities)
        key = _key(profile, names)
        path = self.directory / f"{key}.bpf"
        if not path.exists():
            self._write(path, compile_profile(default_profile() if profile is None else profile, names))
        return path

    def _write(self, path: Path, program: bytes) -> None:
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(program)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
