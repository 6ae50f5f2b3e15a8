# SPDX-License-Identifier: Apache-2.0
"""How fast a container sends and receives on its networks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import ClassVar

from mooring_agent.engine.resources import names
from mooring_agent.engine.resources.attachments import is_alone
from mooring_agent.engine.resources.declared import Declared, Part, option
from mooring_agent.engine.resources.options import Items, Size, Text, Type, refusal
from mooring_agent.errors import InvalidSpec
from mooring_agent.network.shaping import FASTEST, SLOWEST, SMALLEST_BURST

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_CLASS = re.compile(r"([0-9a-f]{1,4}):([0-9a-f]{1,4})")
_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmg]?)(?:bit(?:/s|ps)?)?", re.IGNORECASE)


class Rate(Type[int]):
    """Bits a second: an integer, or text such as "10mbit" or "1.5gbit" (powers of 1000, as tc(8) has them).

    0 means that nothing is set.
    """

    _EXPECTED = (
        f'bits a second from {SLOWEST} to {FASTEST}, as a number or such as "10mbit", or 0 for no limit'
    )

    def parse(self, value: object, where: str) -> int | None:
        """See `Type.parse`."""
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise refusal(where, value, self._EXPECTED)
        match = _RATE.fullmatch(str(value).strip())
        if match is None:
            raise refusal(where, value, self._EXPECTED)
        bits = int(Decimal(match[1]) * _UNITS[match[2].lower()])
        if bits and not SLOWEST <= bits <= FASTEST:
            raise refusal(where, value, self._EXPECTED)
        return bits or None

    def show(self, value: int) -> str:
        """See `Type.show`."""
        for unit, factor in reversed(_UNITS.items()):
            if value % factor == 0:
                return f"{value // factor}{unit}bit"
        return f"{value}bit"


def _network(text: str, where: str) -> str:
    return names.network_name(text, where)


@dataclass(frozen=True, kw_only=True)
class NetworkLimit(Declared):
    """Rates on one network, or without its name on all that have none of their own.

    `rate_in` is what the container receives, `rate_out` what it sends; `burst` bytes may go at once.
    """

    KIND: ClassVar[str] = "network limit"

    network: str | None = option(Text("the name of a network", _network))
    rate_in: int | None = option(Rate())
    rate_out: int | None = option(Rate())
    burst: int | None = option(Size(SMALLEST_BURST))

    def check(self, prefix: str) -> None:
        """A burst alone limits nothing."""
        if self.rate_in is None and self.rate_out is None:
            raise InvalidSpec(f"{prefix}rate_in and rate_out are not set, expected at least one of them")

    def __str__(self) -> str:
        """Return "in 10mbit, out 5mbit on front"."""
        parts = [
            f"{word} {Rate().show(rate)}"
            for word, rate in (("in", self.rate_in), ("out", self.rate_out))
            if rate is not None
        ]
        if self.burst is not None:
            parts.append(f"burst {Size().show(self.burst)}")
        return ", ".join(parts) + (f" on {self.network}" if self.network else "")


class NetworkLimits(Items[NetworkLimit]):
    """Limits, at most one for each network and one for the others; a mapping is a list of one.

    Text is "in=10mbit,out=5mbit,burst=64k,network=front", as the command line has it.
    """

    def __init__(self) -> None:
        super().__init__(
            Part(NetworkLimit, _short),
            unique=lambda limit: limit.network or "",
            order=lambda limit: limit.network or "",
        )

    def parse(self, value: object, where: str) -> tuple[NetworkLimit, ...] | None:
        """See `Type.parse`."""
        return super().parse([value] if isinstance(value, str | Mapping) else value, where)


def traffic_class(text: str, where: str) -> str:
    """A class of the host's queueing disciplines, tc(8): two hexadecimal numbers, "1:10"."""
    match = _CLASS.fullmatch(text.lower())
    numbers = [int(part, 16) for part in match.groups()] if match else []
    if not numbers or not numbers[0] or numbers == [0xFFFF, 0xFFFF]:
        raise refusal(where, text, 'a class of tc(8) such as "1:10", two hexadecimal numbers')
    return f"{numbers[0]:x}:{numbers[1]:x}"


def check_traffic(
    limits: Sequence[NetworkLimit], wanted_class: str | None, attached: Sequence[str], prefix: str
) -> None:
    """Refuse limits on networks to which the container, on these networks, is not attached, and limits and
    classes where it has no addresses of its own.
    """
    for name, value in (("network_limits", limits), ("network_class", wanted_class)):
        if value and is_alone(attached[0]):
            raise InvalidSpec(
                f'{prefix}{name} is set with the network "{attached[0]}", on which the container has no '
                "interface of its own; remove it or attach a bridge network"
            )
    for limit in limits:
        if limit.network is not None and limit.network not in attached:
            raise InvalidSpec(
                f'{prefix}network_limits names the network "{limit.network}", to which the container is '
                f"not attached, expected one of {', '.join(attached)}; attach it, or remove the limit"
            )


def _short(text: str, where: str) -> Mapping[str, str]:
    words = {"in": "rate_in", "out": "rate_out", "burst": "burst", "network": "network"}
    found: dict[str, str] = {}
    for part in text.split(","):
        word, mark, value = part.partition("=")
        if not mark or word not in words or words[word] in found:
            raise refusal(where, text, 'limits such as "in=10mbit,out=5mbit,burst=64k,network=front"')
        found[words[word]] = value
    return found
