# SPDX-License-Identifier: Apache-2.0
"""Devices of the host in a container, "HOST[:CONTAINER][:ACCESS]" or mappings; rules of the white list."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from mooring_agent.engine.resources import names
from mooring_agent.engine.resources.declared import Declared, Part, option
from mooring_agent.engine.resources.options import Items, Text, refusal

_ACCESS = "rwm"
# Documentation/admin-guide/cgroup-v1/devices.rst, "Interface".
_RULE = re.compile(r"([abc])\s+([0-9]{1,9}|\*):([0-9]{1,9}|\*)\s+([rwm]{1,3})")


def _access(text: str, where: str) -> str:
    if not text or set(text) - set(_ACCESS) or len(set(text)) < len(text):
        raise refusal(where, text, 'some of "r" (read), "w" (write) and "m" (mknod), each once')
    return "".join(sorted(text, key=_ACCESS.index))


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceMapping(Declared):
    """A device node of the host, or all below a directory of its, at `container` inside the container."""

    KIND: ClassVar[str] = "device"

    host: str = option(Text("the absolute path of a device", names.absolute_path), required=True)
    container: str = option(Text("an absolute path inside the container", names.absolute_path), required=True)
    access: str = option(Text("some of r, w and m", _access), default=_ACCESS)

    def __str__(self) -> str:
        """Return the short spelling, without what is a default."""
        target = "" if self.container == self.host else f":{self.container}"
        return f"{self.host}{target}{'' if self.access == _ACCESS else f':{self.access}'}"


def _shorthand(text: str, where: str) -> Mapping[str, Any]:
    host, *rest = text.split(":")
    fields: dict[str, Any] = {"host": host}
    if rest and not rest[-1].startswith("/"):
        fields["access"] = rest.pop()
    if rest:
        fields["container"] = rest.pop()
    if rest:
        raise refusal(where, text, '"HOST", "HOST:CONTAINER" or "HOST:CONTAINER:rwm"')
    return fields


class Device(Part[DeviceMapping]):
    """One device; without `container` it has the path that it has on the host."""

    def __init__(self) -> None:
        super().__init__(DeviceMapping, _shorthand)

    def parse(self, value: object, where: str) -> DeviceMapping | None:
        """See `Type.parse`."""
        if isinstance(value, str):
            value = _shorthand(value, where)
        if isinstance(value, Mapping) and value.get("container") is None:
            value = {**value, "container": value.get("host")}
        return super().parse(value, where)


class Devices(Items[DeviceMapping]):
    """The devices of a container, sorted by where they are in it."""

    def __init__(self) -> None:
        super().__init__(
            Device(), unique=lambda device: device.container, order=lambda device: device.container
        )


def device_rule(text: str, where: str) -> str:
    """Check a rule of the white list, such as "c 10:200 rwm"; the normal form has its access in order."""
    match = _RULE.fullmatch(text.strip())
    if match is None or len(set(match[4])) < len(match[4]):
        raise refusal(where, text, 'a rule such as "c 10:200 rwm" or "b 8:* r"')
    numbers = ":".join(part if part == "*" else str(int(part)) for part in (match[2], match[3]))
    return f"{match[1]} {numbers} {''.join(sorted(match[4], key=_ACCESS.index))}"
