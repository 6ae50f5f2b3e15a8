# SPDX-License-Identifier: Apache-2.0
"""A named volume as it is declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mooring_agent.engine.resources.declared import Declared, option
from mooring_agent.engine.resources.options import Pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeSpec(Declared):
    """What a volume should be: it exists, and has labels."""

    KIND: ClassVar[str] = "volume"

    labels: Mapping[str, str] = option(Pairs("labels"), default={}, live=True)
