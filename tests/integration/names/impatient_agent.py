# SPDX-License-Identifier: Apache-2.0
"""`mooring` with an agent that forgets hosts which are gone after two seconds, instead of half a minute."""

from __future__ import annotations

import sys

from mooring_agent.cli.main import main
from mooring_agent.network.naming import service, transfer


def _pace() -> transfer.Pace:
    return transfer.Pace(heartbeat=0.2, silence=0.6, forget=2.0, again_most=0.5, answer=0.5)


if __name__ == "__main__":
    service.Pace = _pace  # type: ignore[assignment, misc]
    sys.exit(main())
