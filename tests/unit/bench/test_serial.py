# SPDX-License-Identifier: Apache-2.0
"""The table and the plot of the serial starts."""

from __future__ import annotations

from bench.serial import Outcome, drawn, table
from bench.timeline import Sample, Timeline


def _outcome(name: str, scale: float) -> Outcome:
    samples = [Sample(0, 0, 0.1, 0, 0), Sample(scale, int(scale) << 20, 0.5, scale / 2, 2)]
    return Outcome(name, [0.01 * scale, 0.03 * scale], [0.02 * scale], Timeline(samples))


def test_the_table_has_ratios_to_the_first() -> None:
    head, ours, theirs = table([_outcome("mooring", 1), _outcome("docker", 10)])

    assert head.split()[:2] == ["start,", "all"]
    assert ours.split()[0] == "mooring"
    assert ours.count("1.0x") == 2
    assert theirs.count("10.0x") == 2
    assert "10 MiB" in theirs


def test_the_plot_has_a_line_for_each_in_every_panel() -> None:
    document = drawn([_outcome("mooring", 1), _outcome("docker", 10)])

    assert document.count("<polyline") == 2 * 4
    assert "2 serial starts and removals" in document


def test_nothing_measured_is_an_empty_table_and_plot() -> None:
    assert len(table([])) == 1
    assert "<polyline" not in drawn([])
