# SPDX-License-Identifier: Apache-2.0
"""Published ports: "[[IP:]HOST:]CONTAINER[/PROTOCOL]", ranges of them, or mappings."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mooring_agent.engine.resources.declared import suggestion
from mooring_agent.engine.resources.options import Choice, Integer, Items, Type, quoted, refusal
from mooring_agent.errors import InvalidSpec

EVERY_ADDRESS = ""
_EXPECTED = '"[[IP:]HOST:]CONTAINER[/tcp|udp|sctp]", each port from 1 to 65535, HOST one or a range'
_PORT = Integer(1, 65535, what="a port")
_HOST_PORT = Integer(1, 65535, unset=(0,), what="a port")
_PROTOCOL = Choice("tcp", "udp", "sctp")
_BALANCE = Choice("round_robin", "source")
_WEIGHT = Integer(0, 100, what="a share of the connections")
_KEYS = ("container", "host", "host_ip", "protocol", "balance", "weight")
_GROUPS = {"container": "container", "host": "host", "host_ip": "ip", "protocol": "protocol"}
_TEXT = re.compile(
    r"(?:(?:(?P<ip>\[[0-9a-fA-F:.]+\]|[0-9.]+):)?(?P<host>[0-9]{1,5}(?:-[0-9]{1,5})?)?:)?"
    r"(?P<container>[0-9]{1,5}(?:-[0-9]{1,5})?)(?:/(?P<protocol>[a-zA-Z]+))?"
)


@dataclass(frozen=True)
class PortMapping:
    """A port of a container that answers on the host; without `host` the agent chooses a free one, with
    `among` from these, the first and the last.

    Without `host_ip` it is every address of the host. With `balance` other containers may publish the same
    port, and new connections are spread over them by `weight`; one of weight 0 gets none.
    """

    container: int
    host: int | None = None
    host_ip: str = EVERY_ADDRESS
    protocol: str = "tcp"
    balance: str | None = None
    weight: int = 1
    among: tuple[int, int] | None = None

    @property
    def place(self) -> tuple[int, str, int, str]:
        """By what published ports are listed in one order, whoever has noted them."""
        return self.container, self.protocol, self.host or 0, self.host_ip

    @property
    def asked(self) -> str:
        """The port of the host or the range as it is written, "" if it is any."""
        if self.among is not None:
            return f"{self.among[0]}-{self.among[1]}"
        return "" if self.host is None else str(self.host)

    def __str__(self) -> str:
        """Return the short spelling, without what is a default."""
        host = "" if self.asked == "" else f"{self.asked}:"
        address = f"[{self.host_ip}]" if ":" in self.host_ip else self.host_ip
        prefix = host if not address else f"{address}:{host or ':'}"
        shared = "" if self.balance is None else f" {self.balance} weight {self.weight}"
        return f"{prefix}{self.container}/{self.protocol}{shared}"


class Port(Type[PortMapping]):
    """One published port, as text, as the container's number or as a mapping."""

    def parse(self, value: object, where: str) -> PortMapping | None:
        """See `Type.parse`."""
        if isinstance(value, str):
            value = _fields(value, where)
        elif isinstance(value, int) and not isinstance(value, bool):
            value = {"container": value}
        if not isinstance(value, Mapping):
            raise refusal(where, value, _EXPECTED)
        for key in value:
            if key not in _KEYS:
                raise InvalidSpec(f"{where} has no option {quoted(key)}; {suggestion(str(key), _KEYS)}")
        container = _read(_PORT, value, "container", where)
        if container is None:
            raise InvalidSpec(f"{where} needs the option container; add the port inside the container")
        host, among = _host(value.get("host"), f"{where}.host")
        balance = _read(_BALANCE, value, "balance", where)
        weight = _read(_WEIGHT, value, "weight", where)
        if balance is not None and host is None:
            raise InvalidSpec(f"{where} has balance {balance} but no host: name the port that is shared")
        if weight is not None and balance is None:
            raise InvalidSpec(
                f"{where} has a weight but no balance: say how its connections are spread, "
                "round_robin or source"
            )
        return PortMapping(
            container,
            host,
            _address(value.get("host_ip"), f"{where}.host_ip"),
            _read(_PROTOCOL, value, "protocol", where) or "tcp",
            balance,
            1 if weight is None else weight,
            among,
        )

    def dump(self, value: PortMapping) -> dict[str, Any]:
        """See `Type.dump`: what equals a default is left out."""
        normal: dict[str, Any] = {"container": value.container}
        if value.among is not None:
            normal["host"] = value.asked
        elif value.host is not None:
            normal["host"] = value.host
        if value.host_ip != EVERY_ADDRESS:
            normal["host_ip"] = value.host_ip
        normal["protocol"] = value.protocol
        if value.balance is not None:
            normal["balance"] = value.balance
            if value.weight != 1:
                normal["weight"] = value.weight
        return normal

    def show(self, value: PortMapping) -> str:
        """See `Type.show`."""
        return str(value)


def _read(kind: Type[Any], fields: Mapping[str, Any], key: str, where: str) -> Any:
    value = fields.get(key)
    if isinstance(value, str) and key == "protocol":
        value = value.lower()
    return None if value is None else kind.parse(value, f"{where}.{key}")


def _host(value: object, where: str) -> tuple[int | None, tuple[int, int] | None]:
    """A port of the host, or the range that one is chosen from."""
    if isinstance(value, str) and "-" in value:
        first, _, last = value.partition("-")
        numbers = range(0)
        if all(digits.isascii() and digits.isdigit() and len(digits) <= 5 for digits in (first, last)):
            numbers = _range(value)
        if not numbers or not numbers[0]:
            raise refusal(where, value, '"FIRST-LAST", ports from 1 to 65535 that run upwards')
        return (numbers[0], None) if len(numbers) == 1 else (None, (numbers[0], numbers[-1]))
    return None if value is None else _HOST_PORT.parse(value, where), None


def _address(value: object, where: str) -> str:
    if value is None or value == "":
        return EVERY_ADDRESS
    try:
        if not isinstance(value, str):
            raise ValueError
        address = ipaddress.ip_address(value.removeprefix("[").removesuffix("]"))
    except ValueError:
        raise refusal(where, value, "an IPv4 or IPv6 address of the host") from None
    if isinstance(address, ipaddress.IPv6Address) and (address.scope_id or address.ipv4_mapped):
        raise refusal(where, value, "an address without a scope that is no IPv4 address written as IPv6")
    return str(address)


def _fields(text: str, where: str) -> dict[str, Any]:
    match = _TEXT.fullmatch(text)
    if match is None or "-" in match["container"]:
        raise refusal(where, text, _EXPECTED)
    return {key: match[group] for key, group in _GROUPS.items() if match[group]}


def spread_range(value: object, where: str) -> Sequence[object]:
    """Return the single mappings that "8000-8002:80-82" stands for; anything else stands for itself, and so
    does "8000-8002:80", a port of the host that is chosen from these.
    """
    match = _TEXT.fullmatch(value) if isinstance(value, str) else None
    if match is None or "-" not in match["container"]:
        return (value,)
    container = _range(match["container"])
    host: Sequence[int | None] = _range(match["host"]) if match["host"] else [None] * len(container)
    if not container or len(container) != len(host):
        raise refusal(where, value, "ranges that run upwards and are equally long on both sides")
    rest = {key: match[key] for key in ("protocol",) if match[key]} | (
        {"host_ip": match["ip"]} if match["ip"] else {}
    )
    return [{"container": inner, "host": outer, **rest} for inner, outer in zip(container, host, strict=True)]


def _range(text: str) -> range:
    first, _, last = text.partition("-")
    if int(last or first) > 65535:
        return range(0)
    return range(int(first), int(last or first) + 1)


class Ports(Items[PortMapping]):
    """The published ports of a container, sorted, each port of the host once."""

    def __init__(self) -> None:
        super().__init__(
            Port(),
            order=lambda port: (
                port.container,
                port.protocol,
                port.host_ip,
                port.host or 0,
                port.among or (),
            ),
            spread=spread_range,
        )

    def parse(self, value: object, where: str) -> tuple[PortMapping, ...] | None:
        """See `Type.parse`."""
        ports = super().parse(value, where) or ()
        seen: set[tuple[object, ...]] = set()
        for port in ports:
            open_side = () if port.host else (port.container, port.among)
            key = (port.host, port.host_ip, port.protocol, *open_side)
            if key in seen:
                raise InvalidSpec(
                    f"{where} publishes {port} although that port is taken by another entry; remove one"
                )
            seen.add(key)
        return ports
