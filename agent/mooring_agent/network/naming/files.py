# SPDX-License-Identifier: Apache-2.0
"""The files below the run root from which name servers learn who is where: a file a container and network.

A file appears whole, by a rename into a directory that dnsmasq watches, so each change is one event for it,
costs the same however many names there are, and no question meets half of it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from .dnsmasq import Place

_FOR_READING = 0o644
_DIRECTORY = 0o755
_USERS = ("dnsmasq", "nobody")


class NameFiles:
    """The directory `root`, which its user has to be able to read whom dnsmasq runs as."""

    def __init__(self, root: Path, user: str) -> None:
        self.root = root
        self._user = user
        self._networks = root / "networks"
        self._servers = root / "servers"
        self._draft = str(root / "draft")
        self._drafting = threading.Lock()  # `retain` has a thread of its own
        self._made: set[str] = set()
        self._reserved: dict[str, str] = {}

    def open(self) -> None:
        """Make what is missing of the directories."""
        for directory in (self.root, self._networks, self._servers):
            directory.mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)

    def place(self, key: str) -> Place:
        """Where the server of a view has its files."""
        return Place(self._servers / key, self._networks, self._user)

    def open_place(self, place: Place, bridges: Iterable[str]) -> None:
        """Make what a server expects to be there."""
        self.open()
        place.directory.mkdir(mode=_DIRECTORY, exist_ok=True)
        if not place.local.exists():
            place.local.touch(_FOR_READING)
        for bridge in bridges:
            self._open_network(bridge)

    def places(self) -> list[Place]:
        """All servers that have left files."""
        if not self._servers.exists():
            return []
        return [self.place(entry.name) for entry in self._servers.iterdir()]

    def set_names(self, bridge: str, container_id: str, text: str) -> None:
        """Have a container be known by what `text` says, hosts(5); "" is not at all."""
        path = f"{self._networks}/{bridge}/hosts/{container_id}"
        if text:
            self._open_network(bridge)
            self._write(path, text)
        else:
            with suppress(FileNotFoundError):
                os.unlink(path)

    def names(self, bridge: str, name: str) -> str:
        """What `set_names` has written."""
        return _read(self._networks / bridge / "hosts" / name) or ""

    def reserve(self, bridge: str, address: str, text: str) -> bool:
        """Reserve an address; whether it was reserved for somebody else until now."""
        path = f"{self._networks}/{bridge}/dhcp/{address}"
        before = self._reserved.get(path) or _read(path)
        if before != text:
            self._open_network(bridge)
            self._write(path, text)
        self._reserved[path] = text
        return before is not None and before != text

    def set_local(self, place: Place, text: str) -> bool:
        """Write the names that the server of `place` asks nobody about; whether they are others now."""
        if _read(place.local) == text:
            return False
        self._write(place.local, text)
        return True

    def retain(self, wanted: Mapping[tuple[str, str], str]) -> None:
        """Make the names of all networks those that are `wanted`, by bridge and container."""
        self.open()
        for network in self._networks.iterdir():
            with suppress(FileNotFoundError):
                for entry in (network / "hosts").iterdir():
                    if not wanted.get((network.name, entry.name)):
                        entry.unlink(missing_ok=True)
        for (bridge, container_id), text in wanted.items():
            if (_read(self._networks / bridge / "hosts" / container_id) or "") != text:
                self.set_names(bridge, container_id, text)

    def remove_network(self, bridge: str) -> None:
        """Forget a network."""
        self._made.discard(bridge)
        beginning = f"{self._networks}/{bridge}/"
        self._reserved = {
            path: text for path, text in self._reserved.items() if not path.startswith(beginning)
        }
        shutil.rmtree(self._networks / bridge, ignore_errors=True)

    def networks(self) -> list[str]:
        """The bridges of all networks that have left files."""
        return [entry.name for entry in self._networks.iterdir()] if self._networks.exists() else []

    def _open_network(self, bridge: str) -> None:
        if bridge in self._made:
            return
        self.open()
        for name in ("hosts", "dhcp"):
            (self._networks / bridge / name).mkdir(mode=_DIRECTORY, parents=True, exist_ok=True)
        self._made.add(bridge)

    def _write(self, path: Path | str, text: str) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        with self._drafting:
            descriptor = os.open(self._draft, flags, _FOR_READING)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
            os.rename(self._draft, path)


def reading_user() -> str:
    """Whom name servers run as."""
    for name in _USERS:
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    return "root"


def _read(path: Path | str) -> str | None:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except FileNotFoundError:
        return None
