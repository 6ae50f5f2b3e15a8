# SPDX-License-Identifier: Apache-2.0
"""What a container that is no standard one needs of the host and of other containers, found at its start.

Other containers are named in a spec and remembered by id. When one of them was replaced, the next start of
whoever joins it finds its successor by the name; until then it lives on in the namespaces that it has.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

from ..errors import Conflict, NotFound
from ..runtime.join import is_still
from .confinement import PLAIN, Surroundings, devices_of, is_plain
from .container import Container
from .idranges import IdRanges, whole_range
from .initprogram import init_program
from .registry import Registry
from .resources import ContainerSpec
from .resources.namespaces import IdRange, other_container

# runtime-spec types, and the files below /proc/PID/ns.
_FILES = {"user": "user", "network": "net", "pid": "pid", "ipc": "ipc", "uts": "uts", "cgroup": "cgroup"}
ALL_NAMESPACES: tuple[str, ...] = ("mnt", "pid", "net", "uts", "ipc", "cgroup")
"""Those that every container has, its own, another's or the host's."""


class Joining:
    """Resolves what specs say about other containers and about ids of the host."""

    def __init__(self, registry: Registry, ranges: IdRanges) -> None:
        self._registry = registry
        self._ranges = ranges

    def settle(self, container: Container) -> None:
        """Give a new container the ids of those that it joins, and a range of ids if it is to have one."""
        container.joins = tuple(
            (kind, self._donor(container, kind, reference, "").id)
            for kind, reference in references(container.spec).items()
        )
        for kind in ("network", "uts"):
            if lender := self._registry.find(dict(container.joins).get(kind, "")):
                container.lent_hostname = lender.hostname
        if container.spec.userns.mode == "auto":
            taken = {other.first_id for other in self._registry if other.first_id is not None}
            container.first_id = self._ranges.choose(taken)

    def surroundings(self, container: Container) -> AbstractContextManager[Surroundings]:
        """What a start needs; nothing but for one that is no plain container."""
        return nullcontext(PLAIN) if is_plain(container.spec) else self._surroundings(container)

    @contextmanager
    def _surroundings(self, container: Container) -> Iterator[Surroundings]:
        """What a start needs; valid as long as the context. Raises Conflict or NotFound where something is
        missing.

        Namespaces are given as descriptors of this process, so that no other process can come by their names.
        """
        spec = container.spec
        with ExitStack() as stack:
            joined = []
            memory_of = files_of = ""
            for kind, donor in self._donors(container):
                joined.append((kind, self._opened(stack, donor, _FILES[kind])))
                if kind == "ipc":
                    memory_of = self._opened(stack, donor, "mnt")
                if kind == "network":
                    files_of = self._first_of(donor).id
                if kind in ("network", "uts"):
                    container.lent_hostname = donor.hostname
            yield Surroundings(
                joined=tuple(joined),
                id_maps=self._id_maps(container),
                devices=devices_of(container.name, spec),
                init=init_program() if spec.init else "",
                memory_of=memory_of,
                files_of=files_of,
            )

    def _donors(self, container: Container) -> list[tuple[str, Container]]:
        """Those that it joins, all of them running; their ids are noted anew where a name has moved."""
        known = dict(container.joins)
        donors = [
            (kind, self._donor(container, kind, reference, known.get(kind, "")))
            for kind, reference in references(container.spec).items()
        ]
        for kind, donor in donors:
            if not donor.running:
                raise Conflict(
                    f"container {container.name} is to share the {kind} namespace of container {donor.name}, "
                    f"which is {donor.status}: start that one first"
                )
        container.joins = tuple((kind, donor.id) for kind, donor in donors)
        if dict(container.joins) != known:
            self._registry.save_resolved(container)
        return donors

    def _donor(self, container: Container, kind: str, reference: str, id: str) -> Container:
        donor = (self._registry.find(id) if id else None) or self._registry.find(reference)
        if donor is None:
            raise NotFound(
                f"container {container.name} is to share the {kind} namespace of container {reference}, "
                "which does not exist: make that one first"
            )
        if donor.id == container.id:
            raise Conflict(
                f"container {container.name} is to share its own {kind} namespace: name another one"
            )
        if kind == "user" and donor.spec.userns.mode == "host":
            raise Conflict(
                f"container {container.name} is to share the users of container {donor.name}, which are the "
                "host's: leave userns out"
            )
        if kind == "ipc" and donor.spec.ipc in ("private", "none"):
            raise Conflict(
                f"container {container.name} is to share the ipc namespace of container {donor.name}, whose "
                f'ipc is "{donor.spec.ipc}": give that one ipc "shareable"'
            )
        return donor

    def _id_maps(self, container: Container) -> tuple[tuple[IdRange, ...], tuple[IdRange, ...]] | None:
        """The maps of a container's users and groups; None where they are the host's."""
        userns = container.spec.userns
        if userns.mode == "host":
            return None
        if userns.mode == "mapped":
            return userns.uid_map, userns.gid_map
        if userns.mode != "auto":
            return self._id_maps(self._registry.get(dict(container.joins)["user"]))
        ids = whole_range(container.first_id or 0)
        return ids, ids

    def _first_of(self, donor: Container) -> Container:
        """Whose network it is: the donor may have it from another one."""
        seen = {donor.id}
        while (id := dict(donor.joins).get("network")) and id not in seen:
            seen.add(id)
            donor = self._registry.find(id) or donor
        return donor

    def _opened(self, stack: ExitStack, donor: Container, file: str) -> str:
        gone = Conflict(f"container {donor.name} has ended just now: start it first")
        try:
            descriptor = os.open(f"/proc/{donor.pid}/ns/{file}", os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
        except OSError:
            raise gone from None
        if not is_still(donor.pid or 0, donor.start_time):
            raise gone
        return f"/proc/{os.getpid()}/fd/{descriptor}"


def donors_first(containers: Iterable[Container]) -> Iterator[tuple[Container, ...]]:
    """The containers in groups that may be started side by side, each after those whose namespaces it joins.

    Those that join each other in a circle come last.
    """
    left = {container.id: container for container in containers}
    while left:
        free = tuple(one for one in left.values() if left.keys().isdisjoint(dict(one.joins).values()))
        yield free or tuple(left.values())
        left = {id: one for id, one in left.items() if free and one not in free}


def references(spec: ContainerSpec) -> dict[str, str]:
    """The other containers that a spec names, by the runtime-spec type of the namespace."""
    modes = {
        "user": spec.userns.mode,
        "network": spec.networks[0].name,
        "pid": spec.pid,
        "ipc": spec.ipc,
        "uts": spec.uts,
        "cgroup": spec.cgroupns,
    }
    named = {kind: other_container(mode) for kind, mode in modes.items()}
    return {kind: reference for kind, reference in named.items() if reference is not None}


def namespaces_of(container: Container) -> tuple[str, ...]:
    """The namespaces, by their short names, that a further process of a container has to enter."""
    user = ("user",) if container.spec.userns.mode != "host" else ()
    time = ("time",) if container.spec.time_offsets else ()
    return (*ALL_NAMESPACES, *user, *time)
