# SPDX-License-Identifier: Apache-2.0
"""Names for containers that were given none."""

from __future__ import annotations

import secrets
from collections.abc import Callable

_ATTEMPTS = 8

_ADJECTIVES = (
    "able", "brave", "calm", "deep", "eager", "fair", "gentle", "handy", "keen", "lively", "mellow",
    "neat", "proud", "quiet", "ready", "steady", "tidy", "vivid",
)  # fmt: skip
_NOUNS = (
    "anchor", "beacon", "buoy", "cleat", "dinghy", "ferry", "gale", "harbour", "inlet", "jetty",
    "keel", "lagoon", "mast", "oar", "pier", "quay", "reef", "tide",
)  # fmt: skip


def free_name(is_free: Callable[[str], bool]) -> str:
    """Two words that name nothing yet, with a number where that takes too long."""
    for _ in range(_ATTEMPTS):
        name = f"{secrets.choice(_ADJECTIVES)}_{secrets.choice(_NOUNS)}"
        if is_free(name):
            return name
    return f"{name}_{secrets.token_hex(3)}"
