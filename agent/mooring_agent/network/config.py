# SPDX-License-Identifier: Apache-2.0
"""What the network part needs to be told."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol


class NetworkConfig(Protocol):
    """What is needed of `config.AgentConfig`."""

    @property
    def instance(self) -> str:
        """The agent's name among several on a host."""

    @property
    def data_root(self) -> Path:
        """Where the agent keeps what must survive."""

    @property
    def network_prefix(self) -> str:
        """Where networks take their subnets from, CIDR."""

    @property
    def nft_table(self) -> str:
        """Name of the agent's nftables table."""

    @property
    def bridge_prefix(self) -> str:
        """What the names of the agent's bridges begin with."""
