# SPDX-License-Identifier: Apache-2.0
"""The seccomp filter of a config, compiled into a memory file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSpec


def compile_filter(profile: Mapping[str, Any] | None, *, fail_unknown: bool = False) -> str | None:
    """A path of the compiled filter that this process and those it forks can open; None without a profile.

    Calls that libseccomp does not know are left out of it, unless `fail_unknown`: then InvalidSpec.
    """
    if not profile:
        return None
    # Imported here: most of what is run for a container has nothing to do with it.
    from ..runtime.seccomp_profile import compile_profile, unknown_calls

    unknown = unknown_calls(profile) if fail_unknown else ()
    if unknown:
        raise InvalidSpec(
            f"config.linux.seccomp names {', '.join(unknown)}, which this libseccomp does not know, and the "
            "annotation run.oci.seccomp_fail_unknown_syscall wants that refused: leave them out"
        )
    file = os.memfd_create("mooring-seccomp", os.MFD_CLOEXEC)
    os.write(file, compile_profile(profile, frozenset()))
    return f"/proc/self/fd/{file}"
