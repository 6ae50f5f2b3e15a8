# SPDX-License-Identifier: Apache-2.0
"""Which code a keeper runs: versions alone do not tell two builds of one version apart."""

from __future__ import annotations

import hashlib
from importlib import resources

_PARTS = ("keeper", "runtime", "linux")
_LENGTH = 16


def code_hash() -> str:
    """A hash of the sources of all that a keeper runs, as this process would load them now."""
    found = hashlib.sha256()
    package = resources.files("mooring_agent")
    for directory in (package, *(package / part for part in _PARTS)):
        for entry in sorted(directory.iterdir(), key=lambda one: one.name):
            if entry.name.endswith((".py", ".json")):
                found.update(f"{directory.name}/{entry.name}\0".encode())
                found.update(entry.read_bytes())
    return found.hexdigest()[:_LENGTH]
