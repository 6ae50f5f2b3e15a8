# SPDX-License-Identifier: Apache-2.0
"""`spec`: a config.json to begin with."""

from __future__ import annotations

import json
import os
from typing import Any

from ..errors import Conflict
from ..runtime.compile import STANDARD_MOUNTS
from ..runtime.standard import MASKED_PATHS, READ_ONLY_PATHS
from .main import SPEC_VERSION
from .options import Parsed
from .runtime import Runtime

_CAPABILITIES = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]


def write(runtime: Runtime, options: Parsed) -> int:
    """The command. Raises Conflict where there is one already."""
    path = os.path.join(options.bundle, "config.json")
    text = json.dumps(template(rootless=options.rootless), indent=4) + "\n"
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise Conflict(f"{path} is there already; remove it or choose another bundle") from None
    return 0


def template(*, rootless: bool) -> dict[str, Any]:
    """A shell in namespaces of its own, as other runtimes' templates have it."""
    namespaces = ["pid", "ipc", "uts", "mount"]
    mounts = [dict(mount) for mount in STANDARD_MOUNTS]
    config: dict[str, Any] = {
        "ociVersion": SPEC_VERSION,
        "process": {
            "terminal": True,
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}],
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs", "readonly": True},
        "hostname": "mooring",
        "mounts": mounts,
        "linux": {
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READ_ONLY_PATHS),
        },
    }
    if rootless:
        namespaces.append("user")
        config["linux"]["uidMappings"] = [{"containerID": 0, "hostID": os.geteuid(), "size": 1}]
        config["linux"]["gidMappings"] = [{"containerID": 0, "hostID": os.getegid(), "size": 1}]
        for mount in mounts:
            mount["options"] = [option for option in mount["options"] if not option.startswith("gid=")]
    else:
        namespaces += ["network", "cgroup"]
        config["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    config["linux"]["namespaces"] = [{"type": kind} for kind in namespaces]
    return config
