# SPDX-License-Identifier: Apache-2.0
"""Leads the questions of some containers to another port: those whose view is not that of one network.

A container asks the gateway of its network at port 53, like all others there. One that is in several
networks, or has resolvers of its own to ask, is told apart by the interface and the MAC that its questions
come from, and answered by the server of its own view. A table beside that of the networks, since it is there
only while somebody needs it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping

from ...errors import MooringError
from ...linux.nftables import Nftables
from ..neighbours import ASKING, between_hosts, dropping
from ..overlay import device_name
from .transfer import PORT

FAMILY = "inet"
Entries = Mapping[tuple[str, str], int]
"""The port by bridge and MAC."""


class Redirects:
    """The table; `prefix` is what the names of all bridges begin with."""

    def __init__(self, table: str, prefix: str) -> None:
        self.table = table
        self._prefix = prefix
        self._nftables = Nftables()
        self._changing = asyncio.Lock()
        self._present: dict[tuple[str, str], int] | None = None
        self._shown: list[str] = []

    async def make(self, entries: Entries, *, anew: bool = False) -> None:
        """Make the table what it should be, in one transaction; `anew` even if it seems to be so.

        Raises NftError, and MissingProgram without libnftables.
        """
        async with self._changing:
            wanted = dict(entries)
            if self._present != wanted or anew:
                await self._write(wanted)

    async def differences(self) -> list[str]:
        """What of the table is not as it should be, a sentence each."""
        async with self._changing:
            return await self._differences()

    async def repair(self) -> list[str]:
        """Make the table what it should be if it is not; what was wrong, or is, a sentence each."""
        async with self._changing:
            found = await self._differences()
            if found and self._present:
                try:
                    await self._write(self._present)
                except MooringError as error:
                    found.append(error.message)
            return found

    async def obstacles(self, version: int) -> list[str]:
        """A sentence for each firewall beside ours that drops what containers ask over this IP version."""
        return await asyncio.to_thread(dropping, self._nftables, self.table, self._prefix, ASKING, (version,))

    async def obstacles_between_hosts(self, version: int) -> list[str]:
        """The same of what agents of other hosts ask this one, on overlays."""
        try:
            prefix, what = device_name(self._prefix), between_hosts(PORT)
            return await asyncio.to_thread(dropping, self._nftables, self.table, prefix, what, (version,))
        except MooringError:
            return []  # the networks have no table either, and say so

    async def _write(self, wanted: dict[tuple[str, str], int]) -> None:
        self._present = None
        self._shown = await asyncio.to_thread(self._run, commands(self.table, self._prefix, wanted))
        self._present = wanted

    async def _differences(self) -> list[str]:
        if not self._present:
            return []
        name = f"nftables table {self.table} of names"
        try:
            shown = await asyncio.to_thread(self._show)
        except MooringError as error:
            return [error.message]
        if not shown:
            return [f"{name} is missing"]
        return [] if shown == self._shown else [f"{name} was changed"]

    def _run(self, text: str) -> list[str]:
        self._nftables.run(text)
        return self._show()

    def _show(self) -> list[str]:
        """All that the table holds, its elements in no order, as in the kernel."""
        held = self._nftables.table(FAMILY, self.table) or []
        elements = [element for item in held if "map" in item for element in item["map"].pop("elem", ())]
        return sorted(map(json.dumps, [*held, *elements]))


def commands(table: str, prefix: str, entries: Entries) -> str:
    """The commands for `Redirects.make`; without entries there is no table. Pure."""
    name = f"{FAMILY} {table}"
    lines = [f"add table {name}", f"delete table {name}"]
    if not entries:
        return "\n".join(lines)
    ports = ", ".join(map(str, sorted(set(entries.values()))))
    elements = ", ".join(f'"{bridge}" . {mac} : {port}' for (bridge, mac), port in sorted(entries.items()))
    theirs = [bridge for bridge in sorted({bridge for bridge, _ in entries}) if not bridge.startswith(prefix)]
    guards = "\n        ".join(
        f'iifname "{which}" meta l4proto {{ tcp, udp }} th dport {{ {ports} }} ct status & dnat == 0 drop '
        'comment "nobody asks for another\'s view"'
        for which in (f"{prefix}*", *theirs)
    )
    lines.append(f"""\
table {name} {{
    map views {{
        comment "who is answered at which port"
        type ifname . ether_addr : inet_service
        elements = {{ {elements} }}
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat - 1; policy accept;
        fib daddr type local meta l4proto {{ tcp, udp }} th dport 53 \
redirect to : iifname . ether saddr map @views
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        {guards}
    }}
}}""")
    return "\n".join(lines)
