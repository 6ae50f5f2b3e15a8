# SPDX-License-Identifier: Apache-2.0
"""BuildKit's session is taken over and asked for nothing; the build beside it is refused with what to do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring_agent.api.docker.sessions import SessionCalls

from .served import Served, served

UPGRADE = {"Connection": "Upgrade", "Upgrade": "h2c"}


@pytest.fixture
def sessions(tmp_path: Path) -> Iterator[Served]:
    with served(tmp_path / "s" / "a.sock", list(SessionCalls(seconds=0.2).routes())) as running:
        yield running


def test_a_session_ends_with_its_client(api: Served) -> None:
    with api.wire() as wire:
        wire.ask("POST", "/v1.41/session", **UPGRADE)
        head = wire.head()
        assert (head.status, head.headers["upgrade"]) == (101, "h2c")
        wire.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        wire.end_input()
        assert wire.rest() == b""


def test_a_session_ends_by_itself(sessions: Served) -> None:
    with sessions.wire() as wire:
        wire.ask("POST", "/session", **UPGRADE)
        assert wire.head().status == 101
        assert wire.rest() == b""


def test_a_session_that_is_no_upgrade_is_refused(api: Served) -> None:
    answer = api.call("POST", "/session")
    assert answer.status == 501
    assert "DOCKER_BUILDKIT=0" in answer.json()["message"]


def test_a_build_in_a_session_says_what_to_do_first(api: Served) -> None:
    answer = api.call("POST", "/build?version=2", X_Registry_Config="bm9uc2Vuc2U=")
    assert answer.status == 501
    assert "build with DOCKER_BUILDKIT=0 or 'mooring build'" in answer.json()["message"]
