# SPDX-License-Identifier: Apache-2.0
"""What groups did on disks, as both versions write it."""

from __future__ import annotations

from mooring_agent.cgroups.accounts import parse_io_stat, parse_throttled
from mooring_agent.cgroups.resources import IoCount


def test_version_2_has_a_line_for_a_disk() -> None:
    text = (
        "8:16 rbytes=1459200 wbytes=314773504 rios=192 wios=353 dbytes=0 dios=0\n8:0\n254:1 rbytes=1 rios=1\n"
    )
    assert parse_io_stat(text) == (
        IoCount("8:16", "Read", 1459200, 192),
        IoCount("8:16", "Write", 314773504, 353),
        IoCount("8:16", "Discard", 0, 0),
        IoCount("254:1", "Read", 1, 1),
    )
    assert parse_io_stat("") == ()


def test_version_1_has_a_line_for_an_operation() -> None:
    moved = "8:0 Read 4096\n8:0 Write 8192\n8:0 Total 12288\nTotal 12288\n"
    done = "8:0 Read 1\n8:0 Write 2\n8:0 Total 3\nTotal 3\n"
    assert parse_throttled(moved, done) == (
        IoCount("8:0", "Read", 4096, 1),
        IoCount("8:0", "Write", 8192, 2),
        IoCount("8:0", "Total", 12288, 3),
    )
    assert parse_throttled("Total 0\n", "Total 0\n") == ()
