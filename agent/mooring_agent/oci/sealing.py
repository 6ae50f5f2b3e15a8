# SPDX-License-Identifier: Apache-2.0
"""Running from an interpreter that nothing in a container can write to.

A launcher is in the container before its execve, and an image may have it execute /proc/self/exe, which is
the host's python: who keeps that open can write to it once nobody runs it any more (CVE-2019-5736). So the
commands that enter a container begin again from a clone of the interpreter on a read-only mount of its own,
which is in no namespace.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from ..linux import syscalls

_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); sys.argv[0] = {name!r}; "
    "from mooring_agent.oci.main import main; sys.exit(main())"
)


def seal(arguments: Sequence[str]) -> None:
    """Begin again, sealed; returns where this process is so already, or cannot mount."""
    if os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY or os.geteuid() != 0:
        return
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    tree = syscalls.open_tree(syscalls.AT_FDCWD, os.path.realpath(sys.executable), flags)
    syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    boot = _BOOT.format(root=package, name=sys.argv[0])
    os.execve(f"/proc/self/fd/{tree}", [sys.executable, "-I", "-S", "-c", boot, *arguments], os.environ)
