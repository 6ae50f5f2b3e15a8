# SPDX-License-Identifier: Apache-2.0
"""Processor architectures and operating systems, named as the OCI image-spec does (Go's GOARCH and GOOS)."""

from __future__ import annotations

import os
from functools import cache

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
