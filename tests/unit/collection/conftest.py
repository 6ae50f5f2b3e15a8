# SPDX-License-Identifier: Apache-2.0
"""Let the collection be imported under its name."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(sys.prefix) / "collections"))
