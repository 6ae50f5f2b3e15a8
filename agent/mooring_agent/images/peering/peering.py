# SPDX-License-Identifier: Apache-2.0
"""A host among its peers: it serves what it holds to them, and pulls through them."""

from __future__ import annotations

from dataclasses import replace

from mooring_agent.images.peering.client import Patience, PeerClient
from mooring_agent.images.peering.flights import Flights
from mooring_agent.images.peering.server import PeerServer
from mooring_agent.images.peering.settings import PeerSettings
from mooring_agent.images.peering.source import PeerSource
from mooring_agent.images.store import ImageStore
from mooring_agent.images.transfer import Source


class Peering:
    """One setting of peers, from the moment that it is made until it is closed."""

    def __init__(self, store: ImageStore, settings: PeerSettings, patience: Patience | None = None) -> None:
        """Serve. Raises Conflict for an address in use, InvalidSpec for settings that are no use here."""
        self.settings = settings
        self._flights = Flights()
        self._server = PeerServer(store.shelf(self._flights), settings)
        self._client = PeerClient(settings.tls, patience or Patience())

    def source(self, origin: Source, name: str) -> PeerSource:
        """What a pull of the repository `name`, a path without its registry, is to read from; close it."""
        return PeerSource(origin, name, self.settings, self._client, self._flights)

    def takes(self, settings: PeerSettings) -> bool:
        """Take on other members, for the pulls to come; False if the settings differ in more than that."""
        own = self.settings
        if replace(settings, members=own.members, address=own.address) != own:
            return False
        self.settings = settings
        return True

    def close(self) -> None:
        """Serve no more, and ask nobody; pulls that are under way go on with the registry."""
        self._client.close()
        self._server.close()
