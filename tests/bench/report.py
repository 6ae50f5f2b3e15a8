# SPDX-License-Identifier: Apache-2.0
"""Figures and how they are printed: medians, and the ratio to each peer of the same run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One figure of ours beside a peer's. `target` is the ratio to reach; larger is better where `more`."""

    name: str
    ours: float
    peer: str
    theirs: float
    unit: str
    more: bool = False
    target: float | None = None

    @property
    def ratio(self) -> float:
        """How many times better we are."""
        if not self.ours or not self.theirs:
            return float("inf")
        return self.ours / self.theirs if self.more else self.theirs / self.ours

    def __str__(self) -> str:
        """Return the line of the table."""
        verdict = ""
        if self.target is not None:
            verdict = f"target {self.target:g}x: {'reached' if self.ratio >= self.target else 'MISSED'}"
        return (
            f"{self.name:<38}{self.ours:>10.2f} {self.unit:<8}{self.peer:>12} {self.theirs:>10.2f} "
            f"{self.unit:<8}{self.ratio:>8.1f}x  {verdict}"
        )


def milliseconds(samples: Sequence[float]) -> float:
    """The median of durations in seconds, in milliseconds."""
    return statistics.median(samples) * 1e3


def print_table(title: str, rows: Sequence[Row]) -> None:
    """Print the rows; the ratio says how many times better Mooring is."""
    print(f"\n{title}")
    print(f"{'':<38}{'mooring':>10} {'':<8}{'peer':>12} {'':>10} {'':<8}{'ratio':>8}")
    for row in rows:
        print(row)
