# SPDX-License-Identifier: Apache-2.0
"""Where the agent keeps what of containers outlives the host: a directory each, with one for the log."""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from ..storage.spares import Spares

LOG = "log"


class Homes:
    """The directories of containers below `root`. Some are made ahead, below `spare`, on the same file
    system.
    """

    def __init__(self, root: Path, spare: Path) -> None:
        self._root = root
        self._spare = spare
        self._spares = Spares(self._make)

    def of(self, id: str) -> Path:
        """The directory of a container."""
        return self._root / id

    def make(self, id: str) -> None:
        """Make that of a container. Raises OSError."""
        os.rename(self._spares.take(), self._root / id)

    def sweep(self) -> None:
        """Remove what a former agent had made ahead. To be called before anything is made."""
        shutil.rmtree(self._spare, ignore_errors=True)
        self._spare.mkdir(mode=0o700, exist_ok=True)

    def close(self) -> None:
        """Make nothing ahead any more."""
        self._spares.close()

    def _make(self) -> str:
        path = f"{self._spare}/{secrets.token_hex(8)}"
        os.makedirs(f"{path}/{LOG}", mode=0o700)
        return path
