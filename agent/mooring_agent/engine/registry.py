# SPDX-License-Identifier: Apache-2.0
"""Which containers there are, by id and by name, in memory and in the state file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from ..errors import Conflict, NotFound
from ..state.containers import ContainerRows
from ..state.database import Database
from .container import Container
from .resources import ContainerSpec

_SHORTEST_PREFIX = 3
_ID_LENGTH = 64


class Registry:
    """Every container of this agent. `followers` are told of each that runs otherwise, is called something
    else, or is there no more.
    """

    def __init__(self, database: Database) -> None:
        self._rows = ContainerRows(database)
        self.followers: list[Callable[[Container], None]] = []
        self._by_id: dict[str, Container] = {}
        self._by_name: dict[str, Container] = {}
        self._linking: dict[str, Container] = {}  # those whose networks have links
        for row in self._rows.all():
            self._remember(Container.from_row(row))

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(list(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def transaction(self) -> AbstractContextManager[object]:
        """What is changed in the state file within is there as a whole, or not at all."""
        return self._rows.transaction()

    def find(self, reference: str) -> Container | None:
        """The container with this name, id or unique beginning of an id; None if there is none.

        Raises Conflict when several ids begin so.
        """
        found = self._by_name.get(reference) or self._by_id.get(reference)
        if found is not None or not _SHORTEST_PREFIX <= len(reference) < _ID_LENGTH:
            return found  # every end of an exec asks for a whole id that is not here: no search then
        matches = [one for id, one in self._by_id.items() if id.startswith(reference)]
        if len(matches) > 1:
            names = ", ".join(sorted(one.name for one in matches[:5]))
            raise Conflict(f"container id {reference} is the beginning of several ({names}): give more of it")
        return matches[0] if matches else None

    def get(self, reference: str) -> Container:
        """Like `find`, but raises NotFound."""
        found = self.find(reference.removeprefix("/"))
        if found is None:
            raise NotFound(f"no such container: {reference}; list those that there are with 'mooring ps -a'")
        return found

    def require_free(self, name: str) -> None:
        """Raise Conflict if a container has this name."""
        holder = self._by_name.get(name)
        if holder is not None:
            raise Conflict(
                f"container name {name} is in use by container {holder.id[:12]}: remove or rename that one, "
                "or choose another name"
            )

    def linked_as(self, name: str, network: str) -> Iterator[str]:
        """The names that others give to the container `name` on a network."""
        for container in self._linking.values():
            for attachment in container.spec.networks:
                if attachment.name == network:
                    yield from (alias for alias, target in attachment.links.items() if target == name)

    def add(self, container: Container) -> None:
        """Keep a new container."""
        self._rows.insert(
            id=container.id,
            name=container.name,
            managed=int(container.managed),
            spec=json.dumps(container.spec.given),
            spec_hash=container.spec.hash,
            image_id=container.image_id,
            created_at=container.created_at,
            resolved=container.resolved_json(),
            extra=json.dumps(container.extra),
            auto_remove=int(container.auto_remove),
            run=container.run_json(),
        )
        self._remember(container)
        self._tell_linked(container.spec)

    def save_run(self, container: Container) -> None:
        """Keep how it runs."""
        self._rows.update(container.id, run=container.run_json())
        self._tell(container)

    def save_resolved(self, container: Container) -> None:
        """Keep what was settled about it."""
        self._rows.update(container.id, resolved=container.resolved_json())

    def save_spec(self, container: Container, spec: ContainerSpec, *, managed: bool) -> None:
        """Give the container another spec."""
        before = container.spec
        container.spec, container.managed = spec, managed
        self._rows.update(
            container.id, spec=json.dumps(spec.given), spec_hash=spec.hash, managed=int(managed)
        )
        self._note_links(container)
        self._tell_linked(before, spec)

    def rename(self, container: Container, name: str) -> None:
        """Give the container another name, which must be free."""
        self.require_free(name)
        self._rows.update(container.id, name=name)
        del self._by_name[container.name]
        container.name = name
        self._by_name[name] = container
        self._tell(container)

    def remove(self, container: Container, also: Callable[[], None]) -> None:
        """Forget the container, and with it what `also` forgets."""
        with self.transaction():
            also()
            self._rows.delete(container.id)
        self._by_id.pop(container.id, None)
        self._by_name.pop(container.name, None)
        self._linking.pop(container.id, None)
        self._tell(container)
        self._tell_linked(container.spec)

    def _tell(self, container: Container) -> None:
        for follower in self.followers:
            follower(container)

    def _remember(self, container: Container) -> None:
        self._by_id[container.id] = container
        self._by_name[container.name] = container
        self._note_links(container)

    def _note_links(self, container: Container) -> None:
        if any(attachment.links for attachment in container.spec.networks):
            self._linking[container.id] = container
        else:
            self._linking.pop(container.id, None)

    def _tell_linked(self, *specs: ContainerSpec) -> None:
        """Those that are linked, or were, are called something else."""
        names = {name for spec in specs for one in spec.networks for name in one.links.values()}
        for name in names & self._by_name.keys():
            self._tell(self._by_name[name])
