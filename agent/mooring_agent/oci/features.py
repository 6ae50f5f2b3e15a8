# SPDX-License-Identifier: Apache-2.0
"""`features`: what this runtime can do, in the runtime-spec's form (features.md)."""

from __future__ import annotations

import json
import os
from typing import Any

from ..runtime.capabilities import CAPABILITIES
from ..runtime.compile import NAMESPACE_TYPES
from .bundles import HOOKS
from .options import Parsed
from .runtime import Runtime


def show(runtime: Runtime, options: Parsed) -> int:
    """The command."""
    from ..runtime.mount_attributes import known_options
    from ..runtime.seccomp_syntax import ACTIONS, OPERATIONS

    document: dict[str, Any] = {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.0",
        "hooks": list(HOOKS),
        "mountOptions": sorted(known_options()),
        "linux": {
            "namespaces": sorted(NAMESPACE_TYPES),
            "capabilities": sorted(CAPABILITIES),
            "cgroup": {
                "v1": True,
                "v2": True,
                "systemd": False,
                "systemdUser": False,
                "rdma": True,
            },
            "seccomp": {"enabled": True, "actions": sorted(ACTIONS), "operators": sorted(OPERATIONS)},
            "apparmor": {"enabled": os.path.isdir("/sys/kernel/security/apparmor")},
            "selinux": {"enabled": os.path.isdir("/sys/fs/selinux")},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {"org.mooring.version": _version()},
    }
    print(json.dumps(document, indent=2))
    return 0


def _version() -> str:
    from .. import __version__

    return __version__
