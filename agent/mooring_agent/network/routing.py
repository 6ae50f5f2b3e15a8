# SPDX-License-Identifier: Apache-2.0
"""Which of a container's networks carries its default route, of each IP version. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from .records import Endpoint, Network


def default_routes(
    endpoints: Sequence[Endpoint], networks: Mapping[str, Network], preferred: Collection[str] = ()
) -> dict[str, tuple[int, ...]]:
    """The IP versions (4, 6) whose default route leads through each network, by its name.

    It is the first one of the endpoints with a gateway to the outside, of those in `preferred` if any of them
    has one. So a container that is on an internal network and on another one is led out through the other.
    """
    found: dict[str, list[int]] = {endpoint.network: [] for endpoint in endpoints}
    ordered = sorted(endpoints, key=lambda endpoint: endpoint.network not in preferred)
    for version in (4, 6):
        for endpoint in ordered:
            if _leads_out(endpoint, networks[endpoint.network], version):
                found[endpoint.network].append(version)
                break
    return {network: tuple(versions) for network, versions in found.items()}


def _leads_out(endpoint: Endpoint, network: Network, version: int) -> bool:
    gateway = endpoint.gateway if version == 4 else endpoint.gateway6
    return gateway is not None and not network.internal
