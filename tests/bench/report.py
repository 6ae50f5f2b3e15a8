# SPDX-License-Identifier: Apache-2.0
"""Figures and how they are printed: medians with their spread, the ratio to each peer of the same run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")

# What of the samples lies within the spread that is printed: a tenth is left out at either end.
_TENTHS = 10


@dataclass(frozen=True)
class Row:
    """One figure of ours beside a peer's. `target` is the ratio to reach; larger is better where `more`.

    The spreads are (10th, 90th) percentiles in the same unit, None where there is a single sample. `pairs`
    are the ratios of samples that were taken one right after the other.
    """

    name: str
    ours: float
    peer: str
    theirs: float
    unit: str
    more: bool = False
    target: float | None = None
    our_spread: tuple[float, float] | None = None
    their_spread: tuple[float, float] | None = None
    pairs: Sequence[float] = ()

    @property
    def ratio(self) -> float:
        """How many times better we are: in the median of the pairs, where samples were taken in pairs."""
        if self.pairs:
            return statistics.median(self.pairs)
        if not self.ours or not self.theirs:
            return float("inf")
        return self.ours / self.theirs if self.more else self.theirs / self.ours

    @property
    def reached(self) -> bool:
        """Whether there is no target, or it is reached."""
        return self.target is None or self.ratio >= self.target

    def __str__(self) -> str:
        """Return the line of the table."""
        ours, theirs = _spread(self.our_spread), _spread(self.their_spread)
        ratio = f"{self.ratio:>8.2f}x"
        if self.pairs:
            lowest, highest = interval_of_median(self.pairs)
            ratio = f"{self.ratio:>9.3f}x ({lowest:.3f}..{highest:.3f})"
        return (
            f"{self.name:<34}{self.ours:>9.2f} {ours:<18}{self.peer:>10} {self.theirs:>9.2f} {theirs:<19}"
            f"{self.unit:<4}{ratio}  {_verdict(self.target, self.reached, 'x')}".rstrip()
        )


@dataclass(frozen=True)
class Bound:
    """One figure of ours with a limit of its own and no peer; at least that much where `more`."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    more: bool = False

    @property
    def reached(self) -> bool:
        """Whether there is no limit, or it is kept."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.more else self.value <= self.limit

    def __str__(self) -> str:
        """Return the line of the table."""
        sign = ">=" if self.more else "<="
        verdict = _verdict(self.limit, self.reached, "", sign)
        return f"{self.name:<52}{self.value:>12.2f} {self.unit:<10}{verdict}".rstrip()


def _verdict(target: float | None, reached: bool, unit: str, sign: str = ">=") -> str:
    if target is None:
        return ""
    return f"target {sign} {target:g}{unit}: {'reached' if reached else 'MISSED'}"


def _spread(spread: tuple[float, float] | None) -> str:
    return "" if spread is None else f"({spread[0]:.2f}..{spread[1]:.2f})"


def milliseconds(samples: Sequence[float]) -> float:
    """The median of durations in seconds, in milliseconds."""
    return statistics.median(samples) * 1e3


def spread(samples: Sequence[float], scale: float = 1.0) -> tuple[float, float] | None:
    """The 10th and 90th percentile times `scale`, None for fewer than two samples."""
    if len(samples) < 2:
        return None
    cuts = statistics.quantiles(samples, n=_TENTHS, method="inclusive")
    return cuts[0] * scale, cuts[-1] * scale


def interval_of_median(samples: Sequence[float]) -> tuple[float, float]:
    """Between what the median lies with a confidence of 95 %, whatever the distribution: by the sign test."""
    ordered = sorted(samples)
    aside = max(0, math.floor((len(ordered) - 1.96 * math.sqrt(len(ordered))) / 2))
    return ordered[aside], ordered[-1 - aside]


def paired(
    name: str,
    samples: Sequence[tuple[float, float]],
    peer: str,
    show: Callable[[float], float],
    unit: str,
    *,
    more: bool = False,
    target: float | None = None,
) -> Row:
    """The row of durations, ours and the peer's, taken in pairs; `show` makes figures in `unit` of them."""
    ours, theirs = ([show(pair[side]) for pair in samples] for side in (0, 1))
    return Row(
        name,
        statistics.median(ours),
        peer,
        statistics.median(theirs),
        unit,
        more=more,
        target=target,
        our_spread=spread(ours),
        their_spread=spread(theirs),
        pairs=[other / own for own, other in samples],
    )


def latency(
    name: str, ours: Sequence[float], peer: str, theirs: Sequence[float], target: float | None = None
) -> Row:
    """The row of two lots of durations in seconds: medians and spreads in milliseconds."""
    return Row(
        name,
        milliseconds(ours),
        peer,
        milliseconds(theirs),
        "ms",
        target=target,
        our_spread=spread(ours, 1e3),
        their_spread=spread(theirs, 1e3),
    )


def timed(work: Callable[[], Any]) -> float:
    """The seconds that a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def alternate(count: int, *contenders: Callable[[], T], pause: float = 0.0) -> list[list[T]]:
    """Call each in turn, `count` times round, every second round backwards; what each returned.

    So a machine that slows down, or somebody else's work on it, hits all of them alike. `pause` seconds go by
    before each call: serial work of a user, not a flood.
    """
    results: list[list[T]] = [[] for _ in contenders]
    for turn in range(count):
        order = list(zip(results, contenders, strict=True))
        for found, contender in reversed(order) if turn % 2 else order:
            time.sleep(pause)
            found.append(contender())
    return results


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)


def print_table(title: str, rows: Sequence[Row | Bound]) -> None:
    """Print the rows, and how many targets were reached. A ratio says how many times better we are."""
    print(f"\n{title}")
    if any(isinstance(row, Row) for row in rows):
        print(f"{'':<34}{'mooring':>9} {'(10%..90%)':<18}{'peer':>10} {'':>9} {'(10%..90%)':<23}{'ratio':>9}")
    for row in rows:
        print(row)
    aims = [row for row in rows if (row.target if isinstance(row, Row) else row.limit) is not None]
    if aims:
        print(f"targets reached: {sum(row.reached for row in aims)} of {len(aims)}", flush=True)
