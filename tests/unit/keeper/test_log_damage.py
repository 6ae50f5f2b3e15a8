# SPDX-License-Identifier: Apache-2.0
"""A log after a power cut: its index is whatever the disk has kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from mooring_agent.engine.logs import LogReader
from mooring_agent.keeper.logs import INDEX, Log, OpenFiles


@pytest.mark.parametrize(
    "damage",
    [bytes(32), INDEX.pack(1, 1 << 31, 1), INDEX.pack(1, 5, 9), b"\xff" * 20],
    ids=["zeros", "more than there is", "no such stream", "noise"],
)
def test_an_index_that_a_power_cut_has_damaged_is_mended(tmp_path: Path, damage: bytes) -> None:
    directory = str(tmp_path / "log")
    first = Log(directory, 0, 3, OpenFiles())
    first.append(b"before\n", 1)
    first.close()
    with open(f"{directory}/0.idx", "ab") as index:
        index.write(damage)
    LogReader(directory).skip_to_end()
    again = Log(directory, 0, 3, OpenFiles())
    again.mend()
    again.append(b"after\n", 2)
    again.close()
    reader = LogReader(directory)
    assert [(chunk.stream, chunk.data) for chunk in reader.read()] == [(1, b"before\n"), (2, b"after\n")]
    reader.close()
