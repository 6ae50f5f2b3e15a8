# SPDX-License-Identifier: Apache-2.0
"""The init that the host has for containers: a static program that reaps and passes signals on."""

from __future__ import annotations

import os
import shutil
import struct

from ..errors import MissingProgram

# The names under which distributions have one; a plain "tini" is often linked dynamically.
_NAMES = ("tini-static", "docker-init", "catatonit", "tini")
_PT_INTERP = 3  # elf(5): a segment that names the dynamic linker


def init_program() -> str:
    """The path of a program that runs in any container. Raises MissingProgram."""
    for name in _NAMES:
        path = shutil.which(name)
        if path is not None and is_static(os.path.realpath(path)):
            return os.path.realpath(path)
    raise MissingProgram(
        "init: true needs a static init on the host, one of " + ", ".join(_NAMES) + ": install the package "
        "tini (Debian and Ubuntu) or catatonit (Fedora and SUSE)"
    )


def is_static(path: str) -> bool:
    """Whether an ELF program of 64 bits needs nothing of the root directory that it runs in."""
    try:
        with open(path, "rb") as file:
            header = file.read(64)
            if len(header) < 64 or header[:5] != b"\x7fELF\x02":
                return False
            order = "<" if header[5] == 1 else ">"
            offset = struct.unpack_from(f"{order}Q", header, 32)[0]
            size, count = struct.unpack_from(f"{order}HH", header, 54)
            file.seek(offset)
            table = file.read(size * count)
    except OSError:
        return False
    kinds = (struct.unpack_from(f"{order}I", table, size * number)[0] for number in range(count))
    return _PT_INTERP not in kinds
