# SPDX-License-Identifier: Apache-2.0
"""The seccomp filter of a config, compiled into a memory file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any


def compile_filter(profile: Mapping[str, Any] | None) -> str | None:
    """A path of the compiled filter that this process and those it forks can open; None without a profile."""
    if not profile:
        return None
    # Imported here: most of what is run for a container has nothing to do with it.
    from ..runtime.seccomp_profile import compile_profile

    file = os.memfd_create("mooring-seccomp", os.MFD_CLOEXEC)
    os.write(file, compile_profile(profile, frozenset()))
    return f"/proc/self/fd/{file}"
