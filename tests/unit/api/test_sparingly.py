# SPDX-License-Identifier: Apache-2.0
"""Log lines that somebody else can cause."""

from __future__ import annotations

import logging
import time

import pytest

from mooring_agent.api.sparingly import LINES, SECONDS, SparingLog


def test_what_is_left_out_is_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    log = SparingLog(logging.getLogger("test"))
    for number in range(LINES + 5):
        log.warning("refused number=%d", number)
    assert len(caplog.records) == LINES
    now[0] += SECONDS
    log.warning("refused number=%d", 99)
    log.warning("refused number=%d", 100)
    assert [record.getMessage() for record in caplog.records[LINES:]] == [
        "refused number=99 left_out_before=5",
        "refused number=100",
    ]
