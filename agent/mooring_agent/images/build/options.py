# SPDX-License-Identifier: Apache-2.0
"""What may be asked of a build."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.context import DOCKERFILE
from mooring_agent.images.build.remote import check_remote
from mooring_agent.images.platform import Platform
from mooring_agent.images.reference import Reference
from mooring_agent.images.registry.settings import Credentials

EPOCH = "SOURCE_DATE_EPOCH"

_MOST_SECRET = 500 << 10  # bytes; what BuildKit takes
_LATEST = (1 << 33) - 1  # of a tar header's octal time
_TIME_LIMIT = 6 * 3600.0
_NETWORK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What commands of RUN may use: sizes in bytes, None and () without a limit of their own; `ulimits` as a
    container spec has them, `cgroup` is a declared one.
    """

    memory: int | None = None
    memory_swap: int | None = None
    cpu_shares: int | None = None
    cpus: float | None = None
    cpuset_cpus: str | None = None
    cpuset_mems: str | None = None
    shm_size: int | None = None
    ulimits: Mapping[str, Any] = field(default_factory=dict)
    cgroup: str | None = None
    extra_hosts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """One build.

    `dockerfile` is its path in the context, or with `text` its name in messages. `remote` is the address of
    a context that is fetched, see `remote.py`. `tags` are long names.
    `cache_from` are images that stand for the cache, see `cachesources`; those that are not there count not.
    `network` is that of RUN where the instruction says nothing. `time_limit` is in seconds for all of it.
    `epoch`, in seconds, is the time that nothing in the image is later than; None, unless the build
    argument SOURCE_DATE_EPOCH is given, for the times as they are. `secrets` are contents by their id,
    `credentials` those that the client has for registries, by their names, in place of the host's.
    """

    dockerfile: str = DOCKERFILE
    text: bytes | None = None
    remote: str = ""
    tags: tuple[str, ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    no_cache: bool = False
    cache_from: tuple[str, ...] = ()
    pull: bool = False
    network: str = "default"
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    epoch: int | None = None
    platform: Platform | None = None
    limits: RunLimits = field(default_factory=RunLimits)
    credentials: Mapping[str, Credentials] = field(default_factory=dict, repr=False)
    time_limit: float = _TIME_LIMIT

    def checked(self) -> BuildOptions:
        """Raise InvalidSpec for what cannot be; returns the options themselves."""
        for tag in self.tags:
            if Reference.parse(tag).digest is not None:
                raise InvalidSpec(f"tag {tag!r} has a digest in it: expected a name and a tag only")
        for name, content in self.secrets.items():
            if not _ID.fullmatch(name):
                raise InvalidSpec(f"secret {name!r} has no valid id: expected letters, digits, _ . -")
            if len(content) > _MOST_SECRET:
                raise InvalidSpec(
                    f"secret {name} has {len(content)} bytes, more than the {_MOST_SECRET} that one may have"
                )
        if not _NETWORK.fullmatch(self.network):
            raise InvalidSpec(
                f"network {self.network!r} is none for builds: expected default, none, host or another's name"
            )
        if self.remote:
            check_remote(self.remote)
        if self.time_limit <= 0:
            raise InvalidSpec(f"the time limit is {self.time_limit} s: expected more than 0")
        self.latest()
        return self

    def latest(self) -> int | None:
        """The time, in seconds since the epoch, that nothing in the image is later than."""
        if self.epoch is not None:
            value: Any = self.epoch
        elif EPOCH in self.args:
            value = self.args[EPOCH]
        else:
            return None
        try:
            found = int(value)
        except ValueError:
            found = -1
        if not 0 <= found <= _LATEST:
            raise InvalidSpec(
                f"{EPOCH} is {value!r}: expected seconds since 1970, a whole number from 0 to {_LATEST}"
            )
        return found

    def names(self) -> tuple[str, ...]:
        """The tags as long names."""
        return tuple(str(Reference.parse(tag)) for tag in self.tags)
