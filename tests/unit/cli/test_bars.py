# SPDX-License-Identifier: Apache-2.0
"""The lines that show layers on their way."""

from __future__ import annotations

import pytest

from mooring_agent.cli.progress import LayerBars, bar


def test_a_bar_tells_bytes_and_rate() -> None:
    assert (
        bar("aabb", "download", 50, 100, 10)
        == f"aabb           download  [{'=' * 12}{' ' * 12}] 50B of 100B  10B/s"
    )
    assert bar("aabb", "load", 50, None, None) == "aabb           load      50B"
    assert bar("aabb", "download", 300, 100, None).count("=") == 24


def test_beside_a_terminal_each_step_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with LayerBars() as bars:
        for step, current in (("download", 1), ("download", 2), ("unpack", 1), ("unpack", 2)):
            bars.take({"step": step, "current": current, "total": 2, "detail": "aabb"})
    assert capsys.readouterr().err == "aabb: download\naabb: unpack\n"
