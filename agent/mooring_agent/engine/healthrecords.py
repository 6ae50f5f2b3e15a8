# SPDX-License-Identifier: Apache-2.0
"""What is known of a container's health, for the next agent: a file a container below the run root.

Nothing is flushed: what a power cut takes is of no use after it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from .health import STATUSES, Health, Probe


@dataclass(frozen=True, slots=True)
class HealthRecord:
    """The health of the run `run` of a container. `began` is when that started and `due` when the next probe
    is, in seconds of CLOCK_MONOTONIC, which one boot has in common.
    """

    run: str
    began: float
    due: float
    health: Health


class HealthRecords:
    """The files. A record that cannot be read is none."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, id: str) -> HealthRecord | None:
        """What was saved of a container."""
        try:
            text = (self._directory / id).read_text(encoding="utf-8")
        except OSError:
            return None
        return decoded(text)

    def save(self, id: str, record: HealthRecord) -> None:
        """Replace what is there."""
        new = self._directory / f"{id}.new"
        new.write_text(encoded(record), encoding="utf-8")
        os.replace(new, self._directory / id)

    def remove(self, id: str) -> None:
        """Forget a container."""
        (self._directory / id).unlink(missing_ok=True)

    def sweep(self, known: Collection[str]) -> None:
        """Have a directory, and in it nothing but what is of these containers."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for entry in self._directory.iterdir():
            if entry.name not in known:
                entry.unlink()


def encoded(record: HealthRecord) -> str:
    """A record as text, which `decoded` turns back into the same."""
    health = record.health
    log = [[probe.start, probe.end, probe.exit_code, probe.output] for probe in health.log]
    return json.dumps(
        [record.run, record.began, record.due, health.status, health.failing_streak, health.served, log]
    )


def decoded(text: str) -> HealthRecord | None:
    """The record, or None for what is none: a file that was being written when the host went down."""
    try:
        run, began, due, status, streak, served, log = json.loads(text)
        if status not in STATUSES:
            return None
        probes = tuple(Probe(int(one), int(two), int(code), str(said)) for one, two, code, said in log)
        return HealthRecord(
            str(run), float(began), float(due), Health(status, int(streak), probes, served is True)
        )
    except (ValueError, TypeError, RecursionError):
        return None
