# SPDX-License-Identifier: Apache-2.0
"""One agent for all cases of a module, restarted only where a case has killed it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest

from .site import Site


@pytest.fixture(scope="module")
def site(switched: tuple[AgentUnderTest, Path]) -> Iterator[Site]:
    """Return an agent with fail points, a container that writes, and an exec that runs."""
    made = Site(*switched)
    yield made
    made.disarm()
    made.close()
