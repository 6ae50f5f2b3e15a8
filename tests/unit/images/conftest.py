# SPDX-License-Identifier: Apache-2.0
"""Stores for the tests of what is done with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.images.houses import House, opened


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """Return an empty store, of which everything is looked at in the end."""
    with opened(tmp_path / "house") as house:
        yield house


@pytest.fixture
def other(tmp_path: Path) -> Iterator[House]:
    """Return another one."""
    with opened(tmp_path / "other") as house:
        yield house
