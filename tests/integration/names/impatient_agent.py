# SPDX-License-Identifier: Apache-2.0
"""`mooring` with an agent that forgets hosts which are gone after some seconds, instead of half a minute.

As many as the tests are patient: what is still known of such a host is looked up in between.
"""

from __future__ import annotations

import os
import sys

from mooring_agent.cli.main import main
from mooring_agent.network.naming import service, transfer

PATIENCE = float(os.environ.get("MOORING_TEST_PATIENCE", "1"))
FORGET = 2.0 * PATIENCE


def _pace() -> transfer.Pace:
    return transfer.Pace(
        heartbeat=0.2, silence=0.6 * PATIENCE, forget=FORGET, again_most=0.5, answer=0.5 * PATIENCE
    )


if __name__ == "__main__":
    service.Pace = _pace  # type: ignore[assignment, misc]
    sys.exit(main())
