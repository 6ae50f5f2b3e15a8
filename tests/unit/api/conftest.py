# SPDX-License-Identifier: Apache-2.0
"""An agent's API on an engine in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from mooring_agent.api import docker, fleet

from .fake_engine import FakeEngine
from .served import Served, served


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    return FakeEngine(tmp_path)


@pytest.fixture
def api(tmp_path: Path, engine: FakeEngine) -> Iterator[Served]:
    real = cast(Any, engine)
    with served(tmp_path / "s" / "a.sock", [*docker.routes(real), *fleet.routes(real)]) as running:
        yield running
