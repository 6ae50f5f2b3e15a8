# SPDX-License-Identifier: Apache-2.0
"""The peers of this host, configured or declared: with neither nothing is served and nobody is asked."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import threading
from contextlib import AbstractContextManager
from typing import Any

from ..errors import Conflict, MooringError
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
    """One declaration, which outlives the agent, or in its place what the agent's configuration says."""

    def __init__(self, store: ImageStore, database: Database, configured: PeerSettings | None = None) -> None:
        """Serve nothing yet; see `start`."""
        self._store = store
        self._configured = configured
        self._connection = database.connection
        self._peering: Peering | None = None
        self._failure = ""
        self._changing = asyncio.Lock()
        self._becoming = threading.Lock()  # held to the end even when the caller is cancelled

    async def start(self) -> None:
        """Take up what is configured or declared. What stands against it is told by `view`, and in the log.

        What was declared is forgotten when the configuration has peers: it must not come back with its end.
        """
        if self._configured is not None and self._forget():
            logger.warning("peers of the configuration take the place of those that were declared")
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
        """{declared, configured (whether by the configuration), serving (an address, or null), failure}.

        `failure` is a message, or null.
        """
        serving = self._peering.settings.listen if self._peering is not None else None
        return {
            "declared": self._declared(),
            "configured": self._configured is not None,
            "serving": serving,
            "failure": self._failure or None,
        }

    async def put(self, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Have these peers. Raises Conflict for an address in use, InvalidSpec; then all is as before.

        Conflict as well if the configuration has others.
        """
        wanted = PeerSettings.parse(spec)
        after = wanted.to_spec()
        async with self._changing:
            before = self._declared()
            if before == after and self._peering is not None:
                return outcome([], before, after, None if dry_run else self.view())
            self._refuse_configured()
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
        """Have no peers. Raises Conflict if the configuration has some."""
        async with self._changing:
            before = self._declared()
            if before is None:
                return outcome([], None, None, None)
            self._refuse_configured()
            if not dry_run:
                await self._become(None)
                self._forget()
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

    def _refuse_configured(self) -> None:
        if self._configured is not None:
            raise Conflict(
                "peers cannot be declared beside those of the agent's configuration: change peers in its "
                "file, and restart the agent"
            )

    def _forget(self) -> bool:
        """Whether something was declared."""
        return self._connection.execute("DELETE FROM declared WHERE kind = ?", (_KIND,)).rowcount > 0

    def _declared(self) -> dict[str, Any] | None:
        if self._configured is not None:
            return self._configured.to_spec()
        row = self._connection.execute("SELECT spec FROM declared WHERE kind = ?", (_KIND,)).fetchone()
        return None if row is None else dict(json.loads(row["spec"]))
