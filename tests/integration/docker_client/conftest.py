# SPDX-License-Identifier: Apache-2.0
"""What the tests with docker's clients share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.agent import AgentUnderTest


@pytest.fixture
def tidy(agent: AgentUnderTest) -> Iterator[None]:
    """Leave the agent without containers, and without networks of a test's own."""
    yield
    left = agent.docker("ps", "-aq").stdout.split()
    if left:
        agent.docker("rm", "-f", "-v", *left)
    agent.docker("network", "prune", "-f")
