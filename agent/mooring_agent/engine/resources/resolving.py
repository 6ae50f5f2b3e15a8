# SPDX-License-Identifier: Apache-2.0
"""Whom a container asks for names, and names that it is told: resolv.conf(5), hosts(5)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping

from mooring_agent.engine.resources import names
from mooring_agent.engine.resources.options import Pairs, refusal

HOST_GATEWAY = "host-gateway"
"""The word for the address under which a container reaches its host."""

MOST_RESOLVERS = 3  # MAXNS of <resolv.h>
_OPTION = re.compile(r"[a-z0-9][a-z0-9-]{0,31}(?::[0-9]{1,5})?")
_DOMAIN_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_LONGEST_DOMAIN = 253


def resolver(text: str, where: str) -> str:
    """Check the address of a resolver."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        address = None
    if address is None or "%" in text:
        raise refusal(where, text, 'the address of a resolver such as "192.0.2.53" or "2001:db8::53"')
    return str(address)


def search_domain(text: str, where: str) -> str:
    """Check a domain in which names are looked for; "." alone is none at all."""
    name = text.removesuffix(".")
    labels = name.split(".")
    if text != "." and (len(name) > _LONGEST_DOMAIN or not all(map(_DOMAIN_LABEL.fullmatch, labels))):
        raise refusal(where, text, 'a domain such as "example.org", or "." for none')
    return text


def resolver_option(text: str, where: str) -> str:
    """Check one of the options of resolv.conf(5), such as ndots:2."""
    if not _OPTION.fullmatch(text):
        raise refusal(where, text, 'an option of resolv.conf such as "ndots:2" or "use-vc"')
    return text


class ExtraHosts(Pairs):
    """Names with the address that each stands for, as a mapping or as "NAME:ADDRESS", "NAME=ADDRESS"."""

    def __init__(self) -> None:
        super().__init__("host names")

    def parse(self, value: object, where: str) -> Mapping[str, str] | None:
        """See `Type.parse`."""
        given = super().parse(value, where) or {}
        return {
            names.hostname(name, f"a name in {where}"): _address(address, f"{where}.{name}")
            for name, address in given.items()
        }

    def _split(self, item: object, where: str) -> tuple[str, str]:
        name, mark, address = "", "", ""
        if isinstance(item, str):
            name, mark, address = item.partition("=") if "=" in item else item.partition(":")
        if not mark:
            raise refusal(f"an item of {where}", item, '"NAME:ADDRESS"')
        return name, address


def _address(text: str, where: str) -> str:
    if text == HOST_GATEWAY:
        return text
    try:
        address = ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if address is None or "%" in text:
        raise refusal(where, text, f'an IP address or "{HOST_GATEWAY}"')
    return str(address)
