# SPDX-License-Identifier: Apache-2.0
"""A network as it is declared. Keys and types only: what the addresses mean is held by `network`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mooring_agent.engine.resources.declared import Declared, option
from mooring_agent.engine.resources.options import Bool, Choice, Pairs, Text


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkSpec(Declared):
    """What a network should be; without `subnet` a free one of the agent's prefix is chosen and kept."""

    KIND: ClassVar[str] = "network"

    driver: str = option(Choice("bridge"), default="bridge")
    subnet: str | None = option(Text('a subnet such as "10.210.7.0/24"'))
    gateway: str | None = option(Text('an address of the subnet such as "10.210.7.1"'))
    nat: bool = option(Bool(), default=True, live=True)
    internal: bool = option(Bool(), default=False)
    labels: Mapping[str, str] = option(Pairs("labels"), default={}, live=True)
