# SPDX-License-Identifier: Apache-2.0
"""A named volume as it is declared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from mooring_agent.engine.resources.declared import Declared, option, suggestion
from mooring_agent.engine.resources.options import Pairs, refusal
from mooring_agent.errors import InvalidSpec, NotSupported

# Those of docker's driver `local`, each with those that it needs.
_DRIVER_OPTS = {"type": ("device",), "device": ("type",), "o": ("type", "device")}
# What makes another kind of mount of it than one that can be shared and let go of again.
_NOT_OF_A_VOLUME = (
    "remount", "idmap", "ridmap", "tmpcopyup", "copy-symlink", "src-nofollow", "dest-nofollow",
)  # fmt: skip
_PROPAGATIONS = ("shared", "slave", "unbindable", "rshared", "rslave", "runbindable")


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeSpec(Declared):
    """What a volume should be: it exists, and has labels.

    Without `driver_opts` it is a directory below the data root. With them it is a file system that is mounted
    while containers use it: `type` and `device` as mount(2) has them, `o` the options of mount(8) with commas
    between; a directory of the host has the type none and the option bind.
    """

    KIND: ClassVar[str] = "volume"

    labels: Mapping[str, str] = option(Pairs("labels"), default={}, live=True)
    driver_opts: Mapping[str, str] = option(Pairs("options of the driver local"), default={})

    def check(self, prefix: str) -> None:
        """Hold the options of the driver together."""
        where = f"{prefix}driver_opts"
        given = self.driver_opts
        for name in given:
            if name == "size":
                raise NotSupported(
                    f"{where} has the option size, which bounds a directory by a quota: bound a tmpfs by "
                    "its o (size=100m), or leave it out"
                )
            if name not in _DRIVER_OPTS:
                raise InvalidSpec(f'invalid option: "{name}"; {where}: {suggestion(name, _DRIVER_OPTS)}')
        for name in given:
            for needed in _DRIVER_OPTS[name]:
                if not given.get(needed):
                    raise InvalidSpec(
                        f'missing required option: "{needed}"; {where} has {name}, which needs '
                        f"{' and '.join(_DRIVER_OPTS[name])} beside it"
                    )
        if given:
            self._check_mount(where)

    def _check_mount(self, where: str) -> None:
        words = self.driver_opts.get("o", "").split(",")
        for word in words:
            if word.partition("=")[0] in _NOT_OF_A_VOLUME:
                raise refusal(f"{where}.o", word, "options of a mount that is made anew")
            if word in _PROPAGATIONS:
                raise refusal(
                    f"{where}.o", word, "no propagation: what is mounted in a volume is its containers' alone"
                )
        kind, device = self.driver_opts["type"], self.driver_opts["device"]
        binds = "bind" in words or "rbind" in words or kind == "bind"
        if kind == "none" and not binds:
            raise refusal(f"{where}.type", kind, "a file system, or the option bind in o")
        if binds and not device.startswith("/"):
            raise refusal(f"{where}.device", device, "the absolute path of a directory of the host to bind")
