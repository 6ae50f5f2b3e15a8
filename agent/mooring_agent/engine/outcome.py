# SPDX-License-Identifier: Apache-2.0
"""What a declaration answers: what was, or would be, done, and the resource before and after."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Action:
    """One step of a plan: create, start, stop, update, replace, remove, with the reason."""

    action: str
    kind: str
    name: str
    reason: str


def outcome(
    actions: Sequence[Action],
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
    result: dict[str, Any] | None,
) -> dict[str, Any]:
    """The Outcome of the Mooring API. Nothing to do means nothing changed."""
    return {
        "changed": bool(actions),
        "actions": [vars(action) for action in actions],
        "before": before,
        "after": after,
        "result": result,
    }
