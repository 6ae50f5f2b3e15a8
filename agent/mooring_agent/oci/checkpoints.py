# SPDX-License-Identifier: Apache-2.0
"""`checkpoint` and `restore`: what of them this host can do is said, and nothing is pretended."""

from __future__ import annotations

import shutil
import subprocess

from ..errors import MissingProgram, NotSupported
from .options import Parsed
from .runtime import Runtime
from .states import Directory


def checkpoint(runtime: Runtime, options: Parsed) -> int:
    """The command. Raises MissingProgram or NotSupported."""
    Directory(runtime.root, options.words[0]).load()
    raise _refusal(runtime, "checkpointed")


def restore(runtime: Runtime, options: Parsed) -> int:
    """The command. Raises MissingProgram or NotSupported."""
    raise _refusal(runtime, "restored")


def _refusal(runtime: Runtime, what: str) -> NotSupported:
    if shutil.which(runtime.criu) is None:
        return MissingProgram(
            f"no container can be {what}: the program {runtime.criu} is not there; install the package criu, "
            "or name it with --criu"
        )
    check = subprocess.run([runtime.criu, "check"], capture_output=True, text=True, check=False)
    if check.returncode:
        reason = (check.stderr or check.stdout).strip().rpartition("\n")[2]
        return NotSupported(f"no container can be {what}: criu does not work on this kernel: {reason}")
    return NotSupported(
        f"no container can be {what}: criu works on this host, but this version of the runtime does not "
        "drive it; use a runtime that does for containers that are to be moved"
    )
