# SPDX-License-Identifier: Apache-2.0
"""The networks of a container: names or mappings; "host", "none" and "container:NAME" stand alone."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from mooring_agent.engine.resources import names
from mooring_agent.engine.resources.declared import Declared, Part, option
from mooring_agent.engine.resources.namespaces import CONTAINER, joined
from mooring_agent.engine.resources.options import Choice, Items, Text, WordSet, refusal
from mooring_agent.errors import InvalidSpec


def is_alone(name: str) -> bool:
    """Whether a container with this network has no address of its own: it has the host's, another
    container's, or none.
    """
    return name in ("host", "none") or name.startswith(CONTAINER)


def _network(text: str, where: str) -> str:
    if text.startswith(CONTAINER):
        return joined(text, where)
    return names.resource_name("network", text, where)


def _ipv4(text: str, where: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError:
        raise refusal(where, text, 'an IPv4 address such as "10.210.0.7"') from None


@dataclass(frozen=True, kw_only=True)
class NetworkAttachment(Declared):
    """One network that a container is attached to; the first one carries the default route."""

    KIND: ClassVar[str] = "network"

    name: str = option(Text("the name of a network", _network), required=True)
    ipv4_address: str | None = option(Text("an IPv4 address", _ipv4))
    aliases: tuple[str, ...] = option(WordSet(Text("a host name", names.hostname)), default=())
    spoofing: str = option(Choice("refused", "allowed"), default="refused")

    def check(self, prefix: str) -> None:
        """Refuse addresses and names on networks that have none to give."""
        if is_alone(self.name) and (self.ipv4_address or self.aliases or self.spoofing != "refused"):
            raise InvalidSpec(
                f"{prefix}name is {self.name}, which has no addresses and names to give; "
                f"remove ipv4_address, aliases and spoofing, or attach a network of your own"
            )

    def __str__(self) -> str:
        """Return the network's name, and the address if one is asked for."""
        return self.name + (f"={self.ipv4_address}" if self.ipv4_address else "")


class Attachments(Items[NetworkAttachment]):
    """The networks of a container, in order; none at all is the same as "none"."""

    def __init__(self) -> None:
        item = Part(NetworkAttachment, lambda text, where: {"name": text})
        super().__init__(item, unique=lambda network: network.name)

    def parse(self, value: object, where: str) -> tuple[NetworkAttachment, ...] | None:
        """See `Type.parse`."""
        networks = super().parse([value] if isinstance(value, str) else value, where) or (
            attached_to("none"),
        )
        alone = next((network.name for network in networks if is_alone(network.name)), None)
        if alone is not None and len(networks) > 1:
            raise InvalidSpec(
                f'{where} names "{alone}" beside other networks, expected it alone; remove one of them'
            )
        return networks


def attached_to(name: str) -> NetworkAttachment:
    """Return the attachment to a network with nothing else asked for."""
    return NetworkAttachment.parse({"name": name})
