# SPDX-License-Identifier: Apache-2.0
"""The syntax of seccomp profiles: from a document of unknown quality to typed rules. Pure.

Docker's format (github.com/moby/profiles, seccomp/seccomp.go), which is `linux.seccomp` of the OCI
runtime-spec with `archMap`, `includes` and `excludes` added. An unknown key is an error: a filter that is not
what its author meant is worse than none.
"""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidSpec, NotSupported
from ..linux import seccomp
from .capabilities import CAPABILITIES

ACTIONS = {
    "SCMP_ACT_ALLOW": seccomp.ALLOW,
    "SCMP_ACT_ERRNO": seccomp.ERRNO,
    "SCMP_ACT_KILL": seccomp.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": seccomp.KILL_PROCESS,
    "SCMP_ACT_KILL_THREAD": seccomp.KILL_THREAD,
    "SCMP_ACT_LOG": seccomp.LOG,
    "SCMP_ACT_NOTIFY": seccomp.NOTIFY,
    "SCMP_ACT_TRACE": seccomp.TRACE,
    "SCMP_ACT_TRAP": seccomp.TRAP,
}
_WITH_NUMBER = (seccomp.ERRNO, seccomp.TRACE)

OPERATIONS = {
    "SCMP_CMP_EQ": seccomp.EQUAL,
    "SCMP_CMP_GE": seccomp.GREATER_OR_EQUAL,
    "SCMP_CMP_GT": seccomp.GREATER,
    "SCMP_CMP_LE": seccomp.LESS_OR_EQUAL,
    "SCMP_CMP_LT": seccomp.LESS,
    "SCMP_CMP_MASKED_EQ": seccomp.MASKED_EQUAL,
    "SCMP_CMP_NE": seccomp.NOT_EQUAL,
}

_ARCHITECTURES = """
    AARCH64 ARM LOONGARCH64 M68K MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PARISC PARISC64 PPC PPC64
    PPC64LE RISCV64 S390 S390X SH SHEB X32 X86 X86_64
"""
ARCHITECTURES = {f"SCMP_ARCH_{name}": name for name in _ARCHITECTURES.split()}

# include/uapi/linux/seccomp.h
FLAGS = {
    "SECCOMP_FILTER_FLAG_TSYNC": 1 << 0,
    "SECCOMP_FILTER_FLAG_LOG": 1 << 1,
    "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 1 << 2,
    "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV": 1 << 5,
}
# The launcher itself makes these calls between the filter and the program: whoever is to answer for them
# would wait for the descriptor that they bring.
_OF_THE_LAUNCHER = ("sendmsg",)

# What `uname -m` says → the architecture in libseccomp's and in Go's name, the latter being what `arches` of
# a profile has.
MACHINES = {
    "x86_64": ("X86_64", "amd64"),
    "i686": ("X86", "x86"),
    "aarch64": ("AARCH64", "arm64"),
    "armv7l": ("ARM", "arm"),
    "loongarch64": ("LOONGARCH64", "loong64"),
    "ppc64le": ("PPC64LE", "ppc64le"),
    "riscv64": ("RISCV64", "riscv64"),
    "s390x": ("S390X", "s390x"),
}


@dataclass(frozen=True)
class Condition:
    """When an entry holds (`includes`) or does not (`excludes`)."""

    capabilities: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    kernel: tuple[int, int] | None = None


@dataclass(frozen=True)
class Rule:
    """The action for one system call, if all comparisons hold."""

    name: str
    action: int
    comparisons: tuple[seccomp.Comparison, ...] = ()
    includes: Condition = field(default=Condition())
    excludes: Condition = field(default=Condition())


@dataclass(frozen=True)
class Profile:
    """A profile. `architectures` (names without SCMP_ARCH_) come beside the machine's own."""

    default_action: int
    rules: tuple[Rule, ...]
    architectures: tuple[str, ...] = ()
    by_machine: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def permissive(self) -> bool:
        """Whether a call that no rule names goes through."""
        return (
            self.default_action in (seccomp.ALLOW, seccomp.LOG)
            or self.default_action & 0xFFFF0000 == seccomp.TRACE
        )

    def select(self, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]) -> Profile:
        """The part that holds for a process with these capabilities, on this machine (`uname -m`) and
        kernel."""
        native, go_name = MACHINES.get(machine, ("", machine))
        architectures = self.architectures
        for main, others in self.by_machine:
            if main == native:
                architectures = (main, *others)
        rules = (
            rule
            for rule in self.rules
            if _included(rule.includes, capabilities, go_name, kernel)
            and not _excluded(rule.excludes, capabilities, go_name, kernel)
        )
        return Profile(self.default_action, tuple(rules), architectures)


def _included(
    condition: Condition, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> bool:
    return (
        (not condition.architectures or machine in condition.architectures)
        and capabilities.issuperset(condition.capabilities)
        and (condition.kernel is None or kernel >= condition.kernel)
    )


def _excluded(
    condition: Condition, capabilities: frozenset[str], machine: str, kernel: tuple[int, int]
) -> bool:
    return (
        machine in condition.architectures
        or not capabilities.isdisjoint(condition.capabilities)
        or (condition.kernel is not None and kernel >= condition.kernel)
    )


def parse(document: Mapping[str, Any]) -> Profile:
    """The profile of a document. InvalidSpec says where it is malformed; NotSupported names what we do not
    have."""
    where = "seccomp profile"
    _keys(
        document,
        where,
        (
            "defaultAction",
            "defaultErrnoRet",
            "archMap",
            "architectures",
            "syscalls",
            "comment",
            "flags",
            "listenerPath",
            "listenerMetadata",
        ),
    )
    seccomp_flags(document)
    if notifies(document):
        _check_notifying(document, where)
    if document.get("architectures") and document.get("archMap"):
        raise InvalidSpec(f'{where} has both "architectures" and "archMap", expected one of them')
    default_action = _action(document, where, "defaultAction", "defaultErrnoRet")
    rules: list[Rule] = []
    for index, entry in enumerate(_list(document, where, "syscalls")):
        rules += _entry(entry, f"{where}, syscalls[{index}]")
    return Profile(
        default_action,
        tuple(rules),
        tuple(_architecture(name, where) for name in _list(document, where, "architectures")),
        tuple(
            _machine(entry, f"{where}, archMap[{index}]")
            for index, entry in enumerate(_list(document, where, "archMap"))
        ),
    )


def seccomp_flags(document: Mapping[str, Any]) -> int:
    """`flags` of a profile as seccomp(2) takes them. Raises InvalidSpec."""
    flags = 0
    for name in _list(document, "seccomp profile", "flags"):
        flags |= _one_of(FLAGS, name, "seccomp profile", "flags")
    return flags


def notifies(document: Mapping[str, Any]) -> bool:
    """Whether a listener is needed: some rule has SCMP_ACT_NOTIFY."""
    entries = _list(document, "seccomp profile", "syscalls")
    actions = [document.get("defaultAction")]
    actions += [entry.get("action") for entry in entries if isinstance(entry, Mapping)]
    return "SCMP_ACT_NOTIFY" in actions


def listener_of(document: Mapping[str, Any]) -> tuple[str, str]:
    """The socket of a profile's listener and what is sent along, runtime-spec `listenerPath`,
    `listenerMetadata`. Raises InvalidSpec.
    """
    path, metadata = document.get("listenerPath") or "", document.get("listenerMetadata") or ""
    for key, value in (("listenerPath", path), ("listenerMetadata", metadata)):
        if not isinstance(value, str):
            raise InvalidSpec(f'seccomp profile has {value!r} as "{key}", expected a text')
    if metadata and not path:
        raise InvalidSpec('seccomp profile has "listenerMetadata" without "listenerPath", expected both')
    return path, metadata


def _check_notifying(document: Mapping[str, Any], where: str) -> None:
    if not listener_of(document)[0].startswith("/"):
        raise InvalidSpec(
            f'{where} has the action SCMP_ACT_NOTIFY without a "listenerPath", expected the absolute path of '
            "a unix socket"
        )
    if document.get("defaultAction") == "SCMP_ACT_NOTIFY":
        raise NotSupported(f"{where} has SCMP_ACT_NOTIFY as default action; name the calls instead")
    for entry in _list(document, where, "syscalls"):
        if isinstance(entry, Mapping) and entry.get("action") == "SCMP_ACT_NOTIFY":
            for name in _list(entry, where, "names"):
                if isinstance(name, str) and name in _OF_THE_LAUNCHER:
                    raise NotSupported(
                        f"{where} has SCMP_ACT_NOTIFY for {name}, which hands the listener over; leave it out"
                    )


def _machine(entry: Any, where: str) -> tuple[str, tuple[str, ...]]:
    _keys(entry, where, ("architecture", "subArchitectures"))
    others = (_architecture(name, where) for name in _list(entry, where, "subArchitectures"))
    return _architecture(entry.get("architecture"), where), tuple(others)


def _entry(entry: Any, where: str) -> list[Rule]:
    _keys(entry, where, ("names", "name", "action", "errnoRet", "args", "comment", "includes", "excludes"))
    names = _list(entry, where, "names")
    if entry.get("name"):
        if names:
            raise InvalidSpec(f'{where} has both "name" and "names", expected one of them')
        names = [entry["name"]]
    if not names or not all(isinstance(name, str) and name and name.isascii() for name in names):
        raise InvalidSpec(f'{where} has the names {names!r}, expected a list of system calls under "names"')
    action = _action(entry, where, "action", "errnoRet")
    comparisons = tuple(_comparison(each, where) for each in _list(entry, where, "args"))
    includes, excludes = (_condition(entry.get(key), f"{where}.{key}") for key in ("includes", "excludes"))
    return [Rule(name, action, comparisons, includes, excludes) for name in names]


def _action(document: Mapping[str, Any], where: str, key: str, number_key: str) -> int:
    name = document.get(key)
    action = _one_of(ACTIONS, name, where, key)
    number = document.get(number_key)
    if number is None:
        return action | errno.EPERM if action in _WITH_NUMBER else action
    if action not in _WITH_NUMBER:
        raise InvalidSpec(
            f'{where} has "{number_key}" beside {name}, expected it with SCMP_ACT_ERRNO or _TRACE only'
        )
    # The kernel takes 4095 at most for an errno (MAX_ERRNO); what a tracer makes of its 16 bits is its own
    # affair.
    most = 4095 if action == seccomp.ERRNO else 65_535
    return action | _integer(number, where, number_key, most)


def _comparison(entry: Any, where: str) -> seccomp.Comparison:
    _keys(entry, f"{where}.args", ("index", "value", "valueTwo", "op"))
    return seccomp.Comparison(
        argument=_integer(entry.get("index"), where, "index", 5),
        operation=_one_of(OPERATIONS, entry.get("op"), where, "op"),
        value=_integer(entry.get("value"), where, "value", (1 << 64) - 1),
        value_two=_integer(entry.get("valueTwo") or 0, where, "valueTwo", (1 << 64) - 1),
    )


def _condition(entry: Any, where: str) -> Condition:
    if entry is None:
        return Condition()
    _keys(entry, where, ("caps", "arches", "minKernel"))
    capabilities = _list(entry, where, "caps")
    for name in capabilities:
        _one_of(CAPABILITIES, name, where, "caps")
    kernel = entry.get("minKernel")
    if kernel is None:
        return Condition(tuple(capabilities), tuple(_list(entry, where, "arches")))
    match = re.fullmatch(r"(\d{1,4})\.(\d{1,4})", kernel) if isinstance(kernel, str) else None
    if match is None:
        raise InvalidSpec(f'{where} has minKernel {kernel!r}, expected a text such as "4.8"')
    return Condition(
        tuple(capabilities), tuple(_list(entry, where, "arches")), (int(match[1]), int(match[2]))
    )


def _architecture(name: Any, where: str) -> str:
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise _unknown(ARCHITECTURES, name, where, "architecture")
    return ARCHITECTURES[name]


def _one_of(known: Mapping[str, int], name: Any, where: str, key: str) -> int:
    if not isinstance(name, str) or name not in known:
        raise _unknown(known, name, where, key)
    return known[name]


def _unknown(known: Collection[str], name: Any, where: str, key: str) -> InvalidSpec:
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f', did you mean "{near[0]}"' if near else ""
    return InvalidSpec(f"{where} has {key} {name!r}{hint}; expected one of {', '.join(sorted(known))}")


def _keys(entry: Any, where: str, known: Collection[str]) -> None:
    if not isinstance(entry, Mapping):
        raise InvalidSpec(f"{where} is {entry!r}, expected an object")
    for key in entry:
        if key not in known:
            raise _unknown(known, key, where, "the unknown key")


def _list(entry: Mapping[str, Any], where: str, key: str) -> list[Any]:
    value = entry.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidSpec(f'{where} has {value!r} as "{key}", expected a list')
    return value


def _integer(value: Any, where: str, key: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidSpec(f'{where} has {value!r} as "{key}", expected a number from 0 to {most}')
    return value
