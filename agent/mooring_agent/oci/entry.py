# SPDX-License-Identifier: Apache-2.0
"""The executable `mooring-oci`: what has to begin again from a sealed interpreter does so before anything is
loaded that it would load twice.
"""

from __future__ import annotations

import sys

# Commands whose children enter a container. Where such a word is an argument nothing is lost but time.
_ENTERING = frozenset(("create", "run", "exec"))


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = sys.argv[1:] if arguments is None else arguments
    if not _ENTERING.isdisjoint(given):
        from .sealing import seal

        seal(given)
    from .main import main as run

    return run(given)
