# SPDX-License-Identifier: Apache-2.0
"""`python -m mooring_agent …` is the command `mooring …`."""

from __future__ import annotations

import sys

from mooring_agent.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
