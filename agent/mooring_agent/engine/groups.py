# SPDX-License-Identifier: Apache-2.0
"""Control groups that are declared for themselves, with containers inside or none."""

from __future__ import annotations

import asyncio
import builtins
import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..errors import Conflict, InvalidSpec, MooringError, NotFound
from ..state.database import Database
from .container import rfc3339
from .launching import Launching, resources_of
from .outcome import Action, outcome
from .resources import CgroupSpec, check_name, compare

logger = logging.getLogger(__name__)

# Names that the containers' own groups and the launchers' have.
_RESERVED = re.compile(r"[0-9a-f]{64}|slot-.*")
_REMOVE_TIMEOUT = 5.0


@dataclass
class Declared:
    """One declared group. Its limits are not all `in_force` when the host no longer has what they need."""

    name: str
    spec: CgroupSpec
    created_at: float
    in_force: bool = True


class Groups:
    """All declared control groups. `users_of(name)` gives the names of the containers inside one."""

    def __init__(
        self,
        database: Database,
        launching: Launching,
        parent: str,
        users_of: Callable[[str], list[str]],
    ) -> None:
        self._connection = database.connection
        self._launching = launching
        self._parent = parent
        self._users_of = users_of
        self._groups = {
            row["name"]: Declared(row["name"], CgroupSpec.parse(json.loads(row["spec"])), row["created_at"])
            for row in self._connection.execute("SELECT * FROM cgroups ORDER BY name")
        }

    def restore(self) -> None:
        """Make again what a reboot has taken, and put right what somebody has changed.

        A limit that the host cannot give any more, such as that of a disk that is gone, is logged, since it
        must not keep the agent from starting. Who declares the group again is told, or gets it.
        """
        for declared in self._groups.values():
            try:
                group = self._group(declared.name)
                group.create()
                group.apply(resources_of(declared.spec, passed_over=partial(_not_in_force, declared)))
            except MooringError as error:
                _not_in_force(declared, error)

    def exists(self, name: str) -> bool:
        """Whether a group of this name is declared."""
        return name in self._groups

    def get(self, name: str) -> dict[str, Any]:
        """The view of one. Raises NotFound."""
        declared = self._groups.get(name)
        if declared is None:
            raise NotFound(f"no such cgroup: {name}; list those that there are with 'mooring cgroup ls'")
        group = self._group(name)
        usage = group.usage()
        return {
            "name": name,
            "spec": declared.spec.given,
            "path": f"/{self._path(name)}",
            "created_at": rfc3339(declared.created_at),
            "usage": {key: value for key, value in vars(usage).items() if isinstance(value, (int, float))},
            "containers": self._users_of(name),
        }

    def list(self) -> builtins.list[dict[str, Any]]:
        """The views of all."""
        return [self.get(name) for name in self._groups]

    def names(self) -> builtins.list[str]:
        """The names of all."""
        return list(self._groups)

    async def put(self, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> dict[str, Any]:
        """Declare a group; every limit is changed live."""
        check_name("cgroup", name)
        if _RESERVED.fullmatch(name):
            raise InvalidSpec(f"cgroup name {name} is reserved for the groups of containers: choose another")
        wanted = CgroupSpec.parse(spec, name=name)
        self._launching.hierarchy.settings(resources_of(wanted))
        existing = self._groups.get(name)
        if existing is None:
            if not dry_run:
                self._create(name, wanted)
            actions = [Action("create", "cgroup", name, "it does not exist")]
            return outcome(actions, None, wanted.given, None if dry_run else self.get(name))
        changes = compare(existing.spec, wanted)
        before = existing.spec.given
        actions = [Action("update", "cgroup", name, str(change)) for change in changes]
        if not changes and not self._group(name).exists():
            actions = [Action("create", "cgroup", name, "it is declared, but was gone")]
        elif not changes and not existing.in_force:
            actions = [Action("update", "cgroup", name, "its limits were not all in force")]
        if actions and not dry_run:
            self._apply(name, wanted)
            existing.spec, existing.in_force = wanted, True
            self._connection.execute(
                "UPDATE cgroups SET spec = ? WHERE name = ?", (json.dumps(wanted.given), name)
            )
        return outcome(actions, before, wanted.given, None if dry_run else self.get(name))

    async def delete(
        self, name: str, *, dry_run: bool = False, leaving: frozenset[str] = frozenset()
    ) -> dict[str, Any]:
        """Remove a group. Raises Conflict while containers are in it, but for those that are `leaving`."""
        existing = self._groups.get(name)
        if existing is None:
            return outcome([], None, None, None)
        users = [user for user in self._users_of(name) if user not in leaving]
        if users:
            raise Conflict(f"cgroup {name} holds container {', '.join(users)}: remove or move it first")
        if not dry_run:
            try:
                await asyncio.to_thread(self._group(name).remove, _REMOVE_TIMEOUT)
            except NotFound:
                pass
            self._launching.forget_group(self._path(name))
            del self._groups[name]
            self._connection.execute("DELETE FROM cgroups WHERE name = ?", (name,))
        return outcome(
            [Action("remove", "cgroup", name, "it is not wanted")], existing.spec.given, None, None
        )

    def _create(self, name: str, spec: CgroupSpec) -> None:
        moment = time.time()
        self._apply(name, spec)
        self._connection.execute(
            "INSERT INTO cgroups VALUES (?, ?, 1, ?)", (name, json.dumps(spec.given), moment)
        )
        self._groups[name] = Declared(name, spec, moment)

    def _apply(self, name: str, spec: CgroupSpec) -> None:
        group = self._group(name)
        made = not group.exists()
        try:
            group.create()
            group.apply(resources_of(spec))
        except MooringError:
            if made:
                group.remove(0)
            raise

    def _path(self, name: str) -> str:
        return f"{self._parent}/{name}"

    def _group(self, name: str) -> Any:
        return self._launching.hierarchy.group(self._path(name))


def _not_in_force(declared: Declared, error: MooringError) -> None:
    declared.in_force = False
    logger.error("cgroup limit not in force name=%s error=%r", declared.name, error.message)
