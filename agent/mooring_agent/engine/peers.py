# SPDX-License-Identifier: Apache-2.0
"""The peers of this host as a declared thing: asked for by nobody, nothing is served and nobody is asked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
from contextlib import AbstractContextManager
from typing import Any

from ..errors import MooringError
from ..images.peering.peering import Peering
from ..images.peering.settings import PeerSettings
from ..images.reference import Reference
from ..images.store import ImageStore
from ..images.transfer import Source
from ..state.database import Database
from .outcome import Action, outcome

logger = logging.getLogger(__name__)

_KIND = _NAME = "peers"  # of the one row in the table of declared things


class Peers:
    """One declaration, which outlives the agent."""

    def __init__(self, store: ImageStore, database: Database) -> None:
        """Serve nothing yet; see `start`."""
        self._store = store
        self._connection = database.connection
        self._peering: Peering | None = None
        self._failure = ""
        self._changing = asyncio.Lock()
        self._becoming = threading.Lock()  # held to the end even when the caller is cancelled

    async def start(self) -> None:
        """Take up what is declared. What stands against it is told by `view`, and in the log."""
        declared = self._declared()
        if declared is not None:
            try:
                await self._become(PeerSettings.parse(declared))
            except MooringError as error:
                self._failure = error.message
                logger.error("peers failed error=%r", error.message)

    async def close(self) -> None:
        """Serve no more; the declaration stays."""
        await self._become(None)

    def view(self) -> dict[str, Any]:
        """{declared, serving (an address, or null), failure (a message, or null)}."""
        serving = self._peering.settings.listen if self._peering is not None else None
        return {"declared": self._declared(), "serving": serving, "failure": self._failure or None}

    async def put(self, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Have these peers. Raises Conflict for an address in use, InvalidSpec; then all is as before."""
        wanted = PeerSettings.parse(spec)
        after = wanted.to_spec()
        async with self._changing:
            before = self._declared()
            if before == after and self._peering is not None:
                return outcome([], before, after, None if dry_run else self.view())
            reason = "there are none" if before is None else self._failure or "they are declared otherwise"
            action = Action("create" if before is None else "update", _KIND, _NAME, reason)
            if dry_run:
                return outcome([action], before, after, None)
            await self._become(wanted)
            text = json.dumps(after)
            self._connection.execute(
                "INSERT OR REPLACE INTO declared VALUES (?, ?, ?, ?, '{}')",
                (_KIND, _NAME, text, hashlib.sha256(text.encode()).hexdigest()),
            )
            return outcome([action], before, after, self.view())

    async def delete(self, *, dry_run: bool = False) -> dict[str, Any]:
        """Have no peers."""
        async with self._changing:
            before = self._declared()
            if before is None:
                return outcome([], None, None, None)
            if not dry_run:
                await self._become(None)
                self._connection.execute("DELETE FROM declared WHERE kind = ?", (_KIND,))
            return outcome([Action("remove", _KIND, _NAME, "they are not wanted")], before, None, None)

    def source(self, origin: Source, reference: Reference) -> AbstractContextManager[Source]:
        """What a pull of `reference` reads from: the repository `origin`, with peers ahead if there are."""
        peering = self._peering  # another thread may change it
        if peering is None:
            return contextlib.nullcontext(origin)
        return peering.source(origin, reference.path)

    async def _become(self, settings: PeerSettings | None) -> None:
        """Change over; raises what stands against it, with the peers of before back in their place."""
        # In a thread: certificates are read, names looked up, and the server of before is waited for.
        await asyncio.to_thread(self._change_over, settings)

    def _change_over(self, settings: PeerSettings | None) -> None:
        with self._becoming:
            before = self._peering
            if before is not None and settings is not None and before.takes(settings):
                return
            self._peering = None
            if before is not None:
                before.close()
            try:
                if settings is not None:
                    self._peering = Peering(self._store, settings)
            except MooringError:
                if before is not None:
                    self._peering = Peering(self._store, before.settings)
                raise
            self._failure = ""

    def _declared(self) -> dict[str, Any] | None:
        row = self._connection.execute("SELECT spec FROM declared WHERE kind = ?", (_KIND,)).fetchone()
        return None if row is None else dict(json.loads(row["spec"]))
