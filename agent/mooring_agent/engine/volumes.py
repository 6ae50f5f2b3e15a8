# SPDX-License-Identifier: Apache-2.0
"""Named volumes: directories below the data root that outlive containers."""

from __future__ import annotations

import asyncio
import builtins
import json
import logging
import os
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..cgroups.mountinfo import unescape
from ..errors import Conflict, NotFound
from ..failpoints import reached
from ..state.database import Database
from .container import rfc3339
from .events import EventBus
from .outcome import Action, outcome
from .registry import Registry
from .resources import VolumeSpec, check_name, compare

_log = logging.getLogger(__name__)

# Volumes that are being removed: this, a token and the name. No volume's name begins with a dot.
_DOOMED = ".removed-"
_TOKEN = 16  # characters


@dataclass
class Volume:
    """One volume. An anonymous one was made for a container and may go with it."""

    name: str
    spec: VolumeSpec
    anonymous: bool
    managed: bool
    created_at: float
    path: Path

    def view(self) -> dict[str, Any]:
        """The volume as the APIs show it."""
        return {
            "name": self.name,
            "labels": dict(self.spec.labels),
            "driver_opts": dict(self.spec.driver_opts),
            "path": str(self.path),
            "anonymous": self.anonymous,
            "managed": self.managed,
            "created_at": rfc3339(self.created_at),
        }


@dataclass(frozen=True)
class _Doomed:
    """A volume that is set aside at `place` until it is forgotten."""

    volume: Volume
    place: Path

    def put_back(self) -> None:
        """It is not removed after all."""
        with suppress(FileNotFoundError):
            self.place.rename(self.volume.path.parent)


class Volumes:
    """All volumes. `users_of(name)` gives the names of the containers that have a volume."""

    def __init__(
        self, database: Database, directory: Path, events: EventBus, users_of: Callable[[str], list[str]]
    ) -> None:
        self._connection = database.connection
        self._directory = directory
        self._events = events
        self._users_of = users_of
        self._volumes: dict[str, Volume] = {}
        self._unmade: set[str] = set()
        self._load()

    def _load(self) -> None:
        self._volumes = {
            row["name"]: Volume(
                row["name"],
                VolumeSpec.parse(json.loads(row["spec"])),
                bool(row["anonymous"]),
                bool(row["managed"]),
                row["created_at"],
                self._path(row["name"]),
            )
            for row in self._connection.execute("SELECT * FROM volumes ORDER BY name")
        }

    def get(self, name: str) -> dict[str, Any]:
        """The view of one. Raises NotFound."""
        return self._get(name).view()

    def list(self) -> builtins.list[dict[str, Any]]:
        """The views of all."""
        return [volume.view() for volume in self._volumes.values()]

    async def put(self, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Declare a volume; its labels may change, its content never does. Where it is mounted from changes
        only while no container has it: else Conflict.
        """
        check_name("volume", name)
        wanted = VolumeSpec.parse(spec, name=name)
        existing = self._volumes.get(name)
        if existing is None:
            if not dry_run:
                self._make(name, wanted, anonymous=False, managed=True)
            return outcome(
                [Action("create", "volume", name, "it does not exist")],
                None,
                wanted.given,
                None if dry_run else self.get(name),
            )
        changes = compare(existing.spec, wanted)
        before = existing.spec.given
        if any(change.field == "driver_opts" for change in changes) and (users := self._users_of(name)):
            raise Conflict(
                f"volume {name} is in use by container {', '.join(users)}, and its driver_opts are to "
                "change: remove the container first, or declare a volume with another name"
            )
        if changes and not dry_run:
            existing.spec = wanted
            self._connection.execute(
                "UPDATE volumes SET spec = ?, managed = 1 WHERE name = ?", (json.dumps(wanted.given), name)
            )
        actions = [Action("update", "volume", name, str(change)) for change in changes]
        return outcome(actions, before, wanted.given, None if dry_run else existing.view())

    async def delete(
        self, name: str, *, dry_run: bool = False, leaving: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """Remove a volume and what is in it. Raises Conflict while a container has it, but for those that are
        `leaving`.
        """
        volume = self._volumes.get(name)
        if volume is None:
            return outcome([], None, None, None)
        users = [user for user in self._users_of(name) if user not in leaving]
        if users:
            raise Conflict(
                f"volume {name} is in use by container {', '.join(users)}: remove the container first"
            )
        if not dry_run:
            await self._remove(volume)
        return outcome([Action("remove", "volume", name, "it is not wanted")], volume.spec.given, None, None)

    def name_anonymous(self) -> str:
        """A name under which `ensure` will make an anonymous volume."""
        name = secrets.token_hex(32)
        self._unmade.add(name)
        return name

    def ensure(self, name: str | None) -> str:
        """The name of an existing volume, made where it is missing; None stands for a new anonymous one."""
        name = name or self.name_anonymous()
        if name not in self._volumes:
            check_name("volume", name)
            self._make(name, VolumeSpec.parse({}), anonymous=name in self._unmade, managed=False)
            self._unmade.discard(name)
        return name

    def path(self, name: str) -> Path:
        """Its directory below the data root. Raises NotFound."""
        return self._get(name).path

    def driver_opts(self, name: str) -> Mapping[str, str]:
        """Where it is mounted from; empty for one that is a directory. Raises NotFound."""
        return self._get(name).spec.driver_opts

    @contextmanager
    def made_with(self, registry: Registry) -> Iterator[None]:
        """What is made by `ensure` within is there with what is added to `registry`, or not at all."""
        try:
            with registry.transaction():
                yield
        except BaseException:
            self._load()
            raise

    async def drop_anonymous(self, names: Iterable[str]) -> None:
        """Remove those of the volumes that were made for a container, and that none has."""
        async with self.removed_with(names) as forget:
            forget()

    @asynccontextmanager
    async def removed_with(self, names: Iterable[str], *, of: str = "") -> AsyncIterator[Callable[[], None]]:
        """Remove those of the volumes that were made for a container and that none has but `of`. What is
        yielded is to be called in the transaction that removes that one: they go with it, or stay.
        """
        doomed: builtins.list[_Doomed] = []
        try:
            for name in names:
                self._unmade.discard(name)
                volume = self._volumes.get(name)
                if volume is not None and volume.anonymous and not {*self._users_of(name)} - {of}:
                    try:
                        doomed.append(self._set_aside(volume))
                    except Conflict as error:  # its container goes all the same
                        _log.warning("%s", error.message)
            yield lambda: self._forget(doomed)
        except BaseException:
            for one in doomed:
                one.put_back()
            self._load()
            raise
        await self._clear_away(doomed)

    def sweep(self) -> None:
        """Go on with what a killed agent was about to remove, unless a container that was to go with it is
        still there, and remove the directory of a volume that it was about to make. Nothing is in that yet.
        """
        if not self._directory.is_dir():
            return
        doomed = []
        for entry in self._directory.iterdir():
            if entry.name.startswith(_DOOMED):
                volume = self._volumes.get(entry.name[len(_DOOMED) + _TOKEN + 1 :])
                if volume is not None and not volume.path.exists():
                    one = _Doomed(volume, entry)
                    if self._users_of(volume.name):
                        one.put_back()
                        continue
                    self._forget([one])
                doomed.append(entry)
            elif entry.name not in self._volumes:
                with suppress(OSError):  # what has content stays: somebody has put it there
                    (entry / "_data").rmdir()
                    entry.rmdir()
        if doomed:
            threading.Thread(target=_clear_away, args=doomed, name="mooring-volumes", daemon=True).start()

    def managed(self) -> builtins.list[str]:
        """Names of those that were declared."""
        return [volume.name for volume in self._volumes.values() if volume.managed]

    def _get(self, name: str) -> Volume:
        try:
            return self._volumes[name]
        except KeyError:
            raise NotFound(
                f"no such volume: {name}; list those that there are with 'mooring volume ls'"
            ) from None

    def _make(self, name: str, spec: VolumeSpec, *, anonymous: bool, managed: bool) -> None:
        path = self._path(name)
        path.mkdir(parents=True, exist_ok=True)
        moment = time.time()
        self._connection.execute(
            "INSERT INTO volumes VALUES (?, ?, ?, ?, ?)",
            (name, json.dumps(spec.given), int(anonymous), int(managed), moment),
        )
        self._volumes[name] = Volume(name, spec, anonymous, managed, moment, path)
        self._events.publish("volume", "create", name, {"driver": "local"})

    async def _remove(self, volume: Volume) -> None:
        """Raises Conflict while the host has something mounted there, whose content would go too."""
        doomed = self._set_aside(volume)
        try:
            self._forget([doomed])
        except BaseException:
            doomed.put_back()
            raise
        await self._clear_away([doomed])

    def _set_aside(self, volume: Volume) -> _Doomed:
        """Under another name it is in no new volume's way, and a killed agent's successor goes on with it.
        Raises Conflict.
        """
        place = volume.path.parent
        mounted = _mounted_below(place)
        if mounted:
            raise Conflict(
                f"volume {volume.name}: the host has something mounted at {mounted[0]}, whose content is not "
                "the volume's: unmount it first"
            )
        doomed = self._directory / f"{_DOOMED}{secrets.token_hex(_TOKEN // 2)}-{volume.name}"
        with suppress(FileNotFoundError):  # somebody has removed it by hand
            place.rename(doomed)
        reached("volume.doomed")
        return _Doomed(volume, doomed)

    def _forget(self, doomed: Iterable[_Doomed]) -> None:
        for one in doomed:
            self._connection.execute("DELETE FROM volumes WHERE name = ?", (one.volume.name,))
            del self._volumes[one.volume.name]

    async def _clear_away(self, doomed: builtins.list[_Doomed]) -> None:
        if doomed:
            await asyncio.to_thread(_clear_away, *(one.place for one in doomed))
        for one in doomed:
            self._events.publish("volume", "destroy", one.volume.name, {"driver": "local"})

    def _path(self, name: str) -> Path:
        return self._directory / name / "_data"


def _mounted_below(directory: Path) -> builtins.list[str]:
    """Where the host has something mounted there."""
    top = f"{os.path.realpath(directory)}/"
    lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [point for point in (unescape(line.split(" ")[4]) for line in lines) if point.startswith(top)]


def _clear_away(*directories: Path) -> None:
    for directory in directories:
        try:
            shutil.rmtree(directory)
        except FileNotFoundError:
            pass
        except OSError as error:  # a file that may not be changed, chattr(1)
            _log.warning("what is left of a removed volume stays in %s: %s", directory, error)
