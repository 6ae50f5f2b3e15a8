# SPDX-License-Identifier: Apache-2.0
"""What a container's spec allows it on its networks."""

from __future__ import annotations

from ..network.shaping import Limits
from ..network.traffic import PLAIN_TERMS, Terms
from .resources import ContainerSpec


def terms_of(spec: ContainerSpec) -> Terms:
    """Its limits by network, and the networks on which it may speak as anybody."""
    trusted = frozenset(network.name for network in spec.networks if network.spoofing == "allowed")
    link_local = {network.name: network.link_local for network in spec.networks if network.link_local}
    if not (spec.network_limits or trusted or link_local or spec.network_class):
        return PLAIN_TERMS
    given = {limit.network: limit for limit in spec.network_limits}
    limits = {}
    for network in spec.networks:
        limit = given.get(network.name) or given.get(None)
        if limit is not None:
            limits[network.name] = Limits(limit.rate_in, limit.rate_out, limit.burst)
    return Terms(limits, trusted, spec.network_class or "", link_local)
