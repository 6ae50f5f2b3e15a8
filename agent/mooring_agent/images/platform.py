# SPDX-License-Identifier: Apache-2.0
"""Processor architectures and operating systems, named as the OCI image-spec does (Go's GOARCH and GOOS)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mooring_agent.errors import InvalidSpec

OS = "linux"

_MACHINES = {  # uname(2) machine → GOARCH
    "x86_64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armv6l": "arm",
    "armv7l": "arm",
    "armv8l": "arm",
    "riscv64": "riscv64",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "loongarch64": "loong64",
    "mips64": "mips64le",
}
_ALSO_RUNS = {
    "amd64": frozenset(("386",)),
    "arm64": frozenset(("arm",)),
}  # what these processors execute besides
_ELF_MACHINES = {
    3: "386",
    21: "ppc64le",
    22: "s390x",
    40: "arm",
    62: "amd64",
    183: "arm64",
    243: "riscv64",
    258: "loong64",
}
_ALIASES = {  # other names of architectures that people and indexes write → architecture and variant
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "i386": ("386", ""),
    "i686": ("386", ""),
    "aarch64": ("arm64", ""),
    "armhf": ("arm", "v7"),
    "armel": ("arm", "v6"),
    "armv6l": ("arm", "v6"),
    "armv7l": ("arm", "v7"),
    "armv8l": ("arm", "v8"),
    "loongarch64": ("loong64", ""),
}
_USUAL = {("arm64", "v8"): "", ("amd64", "v1"): "", ("arm", ""): "v7"}  # what a variant means if not told
_ARM_VARIANTS = {"armv6l": "v6", "armv7l": "v7", "armv8l": "v8"}
_AMD64_LEVELS = (  # x86-64 psABI, "Micro-Architecture Levels", as /proc/cpuinfo spells the features
    frozenset(["cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3"]),
    frozenset(["abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"]),
    frozenset(["avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"]),
)
_WORD = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True, order=True)
class Platform:
    """What an image runs on (image-spec, image-index.md); an empty variant is the usual one."""

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """Read `OS/ARCHITECTURE[/VARIANT]` or an architecture alone; raises InvalidSpec."""
        parts = text.split("/")
        if len(parts) > 3 or not all(_WORD.fullmatch(part) for part in parts):
            raise InvalidSpec(
                f"platform {text!r} is not valid: expected OS/ARCHITECTURE[/VARIANT], as linux/arm64"
            )
        system, *rest = parts if len(parts) > 1 else (OS, parts[0])
        return cls(system.lower(), rest[0].lower(), rest[1].lower() if len(rest) > 1 else "").normal()

    @classmethod
    def from_json(cls, value: object) -> Platform:
        """Read the `platform` of a descriptor; raises InvalidSpec for what is none."""
        if not isinstance(value, dict):
            raise InvalidSpec(f"platform {value!r} is no JSON object")
        texts = [value.get(key) or "" for key in ("os", "architecture", "variant", "os.version")]
        if not all(isinstance(text, str) for text in texts):
            raise InvalidSpec(f"platform {value!r} is not made of words")
        return cls(*texts)

    def to_json(self) -> dict[str, str]:
        """Return the JSON form."""
        found = {"architecture": self.architecture, "os": self.os}
        found |= {"os.version": self.os_version} if self.os_version else {}
        return found | ({"variant": self.variant} if self.variant else {})

    def normal(self) -> Platform:
        """The same platform in the names of the specification, a usual variant left out."""
        architecture, variant = _ALIASES.get(self.architecture, (self.architecture, ""))
        variant = self.variant or variant
        return Platform(self.os, architecture, _USUAL.get((architecture, variant), variant), self.os_version)

    def runs(self) -> tuple[Platform, ...]:
        """The platforms whose images this one runs, best first: itself, lesser variants, 32 bit."""
        own = self.normal()
        found = [own]
        if own.architecture == "amd64":
            level = int(own.variant[1:]) if own.variant in ("v2", "v3", "v4") else 1
            names = [f"v{lesser}" for lesser in range(level - 1, 0, -1)]
            found += [Platform(own.os, "amd64", name).normal() for name in names]
            found.append(Platform(own.os, "386"))
        elif own.architecture in ("arm", "arm64"):
            known = own.architecture == "arm" and own.variant in ("v5", "v6", "v7", "v8")
            if own.architecture == "arm64" and own.variant:
                found.append(Platform(own.os, "arm64"))
            level = int(own.variant[1:]) if known else 9 if own.architecture == "arm64" else 5
            found += [Platform(own.os, "arm", f"v{lesser}") for lesser in range(level - 1, 4, -1)]
        return tuple(found)

    def takes(self, system: str, architecture: str) -> bool:
        """Whether this one runs images for an operating system and an architecture."""
        return any((system, architecture) == (each.os, each.architecture) for each in self.runs())

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@cache
def host_platform() -> Platform:
    """What this host runs best."""
    architecture = host_architecture()
    variant = _ARM_VARIANTS.get(os.uname().machine, "")
    if architecture == "amd64":
        variant = amd64_variant(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    return Platform(OS, architecture, variant).normal()


def amd64_variant(cpuinfo: str) -> str:
    """The micro-architecture level of the first processor in the text of /proc/cpuinfo."""
    found = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    level = 1
    for needed in _AMD64_LEVELS:
        if not needed <= flags:
            break
        level += 1
    return f"v{level}"


def listed(platforms: Iterable[Platform]) -> str:
    """Platforms for a message, each once."""
    return ", ".join(dict.fromkeys(str(platform) for platform in platforms)) or "none"


@cache
def host_architecture() -> str:
    """The architecture of this host."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def elf_architecture(machine: int) -> str:
    """The architecture of an ELF header's e_machine (System V ABI)."""
    return _ELF_MACHINES.get(machine, f"ELF machine {machine}")


def check_platform(name: str, architecture: str, operating_system: str) -> None:
    """Raise InvalidSpec naming both sides when an image is for another operating system or processor."""
    host = host_architecture()
    if operating_system == OS and (architecture == host or architecture in _ALSO_RUNS.get(host, ())):
        return
    raise InvalidSpec(
        f"image {name} is for {operating_system}/{architecture} and this host is {OS}/{host}: "
        f"use an image for {OS}/{host}, or a host that runs {operating_system}/{architecture}"
    )
