# SPDX-License-Identifier: Apache-2.0
"""What a network's declaration says of others: rules, and the hosts of an overlay."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mooring_agent.engine.resources.options import Type, changed_keys, refusal
from mooring_agent.network.rules import Rule, parse_rules


class Rules(Type[tuple[Rule, ...]]):
    """Rules of a network, in the order in which they are asked."""

    def parse(self, value: object, where: str) -> tuple[Rule, ...] | None:
        """See `Type.parse`."""
        return parse_rules(value, where)

    def dump(self, value: tuple[Rule, ...]) -> list[dict[str, Any]]:
        """See `Type.dump`."""
        return [rule.dump() for rule in value]

    def show(self, value: tuple[Rule, ...]) -> str:
        """See `Type.show`."""
        return "[" + ", ".join(map(str, value)) + "]"


class OverlayHosts(Type[Mapping[str, Any]]):
    """The hosts of an overlay: a mapping of names to addresses, or to mappings with an address; what these
    mean is held by `network.overlay`.
    """

    def parse(self, value: object, where: str) -> Mapping[str, Any] | None:
        """See `Type.parse`."""
        if not isinstance(value, Mapping):
            raise refusal(where, value, "a mapping of names of hosts to their addresses")
        return {
            str(name): {"address": said} if isinstance(said, str) else said
            for name, said in sorted(value.items())
        }

    def difference(self, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> str:
        """See `Type.difference`: the hosts that come, go and change."""
        return changed_keys(before or {}, after or {})
