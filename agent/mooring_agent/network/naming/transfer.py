# SPDX-License-Identifier: Apache-2.0
"""What a host of an overlay tells another one of its containers' names: lines of JSON, one an object.

The first says what this is, `{"mooring": "names", "version": 1}`. Then come all containers there are, some
a line, `{"set": {ID: {"addresses": […], "names": […]}}}`, and `{"complete": true}`. From then on it is what
changes, `{"set": {…}, "gone": [ID, …]}`, and `{}` where nothing does, so that silence means something.
Members that are not known are left for later versions; what nobody could read who does not know them is
another `version`.

Nothing that is read here is believed because of who says it: a host speaks for addresses of its own slice,
each name is one, and there is an end to everything. Pure.
"""

from __future__ import annotations

import ipaddress
import json
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import MooringError
from ..overlay import Host, gateway_of
from ..records import IPNetwork
from . import zone
from .realms import Home

PORT = 4790
"""Where hosts tell each other, TCP, on the gateway of their slice."""

VERSION = 1
LONGEST_LINE = 1 << 16  # bytes
MOST_CONTAINERS = 1023  # a bridge has 1024 ports at most, BR_MAX_PORTS of net/bridge/br_private.h
MOST_NAMES = 128  # of a container: with the longest names an entry is still less than a line
MOST_BYTES = 1 << 20  # of the names of a host as hosts(5)
BUCKETS = 16
"""Files that the names of a host are spread over. A name server pays for a change by the size of the file
that it is in, and for reading all again by the number of files."""

_ID = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_.-")
_LONGEST_ID = 64
_MOST_ADDRESSES = 2


class NotUnderstood(MooringError):
    """Another host says what cannot be read."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast things go, in seconds.

    A host says something at least every `heartbeat`; one that does not for `silence` is not connected any
    more, and what it has told is forgotten `forget` after it was last known to live. It is called again
    after `again_first`, later and later up to `again_most`, and given `answer` to answer. Changes within
    `together` are one line, and a line is taken every `between` at most.
    """

    heartbeat: float = 5.0
    silence: float = 15.0
    forget: float = 30.0
    again_first: float = 0.1
    again_most: float = 5.0
    answer: float = 2.0
    together: float = 0.05
    between: float = 0.02


@dataclass(frozen=True, slots=True)
class Record:
    """A container on a network, as others are told of it."""

    addresses: tuple[str, ...]
    names: tuple[str, ...]


def meeting_point(host: Host) -> str:
    """The address at which a host tells, and from which it listens to others."""
    return gateway_of(host.slices[0])


def record_of(home: Home) -> Record | None:
    """What others are told of a container; None where it has no name that could be."""
    names = tuple(dict.fromkeys(name.lower() for name in home.names if zone.can_be_told(name)))
    return Record(home.addresses, names[:MOST_NAMES]) if names and home.addresses else None


# ---- telling -------------------------------------------------------------------------------------


def greeting() -> bytes:
    """The first line."""
    return _line({"mooring": "names", "version": VERSION})


def complete() -> bytes:
    """The line after all containers that there are."""
    return _line({"complete": True})


NOTHING = b"{}\n"


def changes(records: Mapping[str, Record | None]) -> Iterator[bytes]:
    """Lines that say of containers, by id, who they are from now on; None is one that is gone."""
    gone = [id for id, record in records.items() if record is None]
    for start in range(0, len(gone), 512):
        yield _line({"gone": gone[start : start + 512]})
    entries: list[str] = []
    size = 0
    for id, record in records.items():
        if record is None:
            continue
        said = {"addresses": record.addresses, "names": record.names}
        entry = f"{json.dumps(id)}:{json.dumps(said, separators=(',', ':'))}"
        if entries and size + len(entry) > LONGEST_LINE - 64:
            yield _set(entries)
            entries, size = [], 0
        entries.append(entry)
        size += len(entry) + 1
    if entries:
        yield _set(entries)


def _set(entries: list[str]) -> bytes:
    return b'{"set":{%s}}\n' % ",".join(entries).encode()


def _line(said: Mapping[str, Any]) -> bytes:
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


# ---- hearing -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Known:
    text: str
    dotted: frozenset[str]


class Heard:
    """What a host has told over one connection, line by line, of what lies within its `slices`."""

    def __init__(self, slices: Sequence[IPNetwork]) -> None:
        self._slices = slices
        self._greeted = False
        self.complete = False
        self._buckets: list[dict[str, _Known]] = [{} for _ in range(BUCKETS)]
        self._doubted: dict[str, str] = {}
        self._bytes = 0

    @property
    def doubt(self) -> str:
        """What it says that is not believed, in words; "" if there is no such."""
        if not self._doubted:
            return ""
        return (
            f"{len(self._doubted)} of its containers are not known as it says: {min(self._doubted.values())}"
        )

    def text(self, bucket: int) -> str:
        """The names in a bucket as hosts(5)."""
        known = self._buckets[bucket]
        return "".join(known[id].text for id in sorted(known))  # told again, it is the same text

    def dotted(self, bucket: int) -> frozenset[str]:
        """Those of them that others could know, too."""
        return frozenset(name for known in self._buckets[bucket].values() for name in known.dotted)

    def take(self, line: bytes) -> Collection[int]:
        """Take a line; returns the buckets in which there is something else now, none before all is told.

        Raises NotUnderstood.
        """
        said = _object(line)
        if not self._greeted:
            if said.get("mooring") != "names":
                raise NotUnderstood("it does not speak of names; another program has the port there")
            if said.get("version") != VERSION:
                raise NotUnderstood(
                    f"it tells names in version {_shown(said.get('version'))}, expected {VERSION}; upgrade "
                    "the older of both agents"
                )
            self._greeted = True
            return ()
        changed = set()
        for id in _member(said, "gone", list):
            changed.add(self._set(_id(id), None))
        for id, record in _member(said, "set", dict).items():
            changed.add(self._set(_id(id), record))
        if said.get("complete") is True and not self.complete:
            self.complete = True
            return range(BUCKETS)
        return changed if self.complete else ()

    def _set(self, id: str, said: object) -> int:
        number = bucket_of(id)
        bucket = self._buckets[number]
        before = bucket.pop(id, None)
        self._doubted.pop(id, None)
        if before is not None:
            self._bytes -= len(before.text)
        if said is None:
            return number
        if not isinstance(said, dict):
            raise NotUnderstood(f"it says {_shown(said)} of a container, expected addresses and names")
        known = self._known(id, said)
        if known is not None:
            bucket[id] = known
            self._bytes += len(known.text)
        if sum(map(len, self._buckets)) + len(self._doubted) > MOST_CONTAINERS:
            raise NotUnderstood(f"it tells of more than {MOST_CONTAINERS} containers, more than there can be")
        if self._bytes > MOST_BYTES:
            raise NotUnderstood(
                f"it tells names of more than {MOST_BYTES} bytes, expected fewer or shorter ones"
            )
        return number

    def _known(self, id: str, said: Mapping[str, Any]) -> _Known | None:
        addresses, names = _member(said, "addresses", list), _member(said, "names", list)
        if len(addresses) > _MOST_ADDRESSES or len(names) > MOST_NAMES:
            raise NotUnderstood(
                f"it tells {len(addresses)} addresses and {len(names)} names of a container, expected at "
                f"most {_MOST_ADDRESSES} and {MOST_NAMES}"
            )
        where = [address for each in addresses if (address := within(each, self._slices)) is not None]
        called = [name for name in names if isinstance(name, str) and zone.can_be_told(name)]
        if len(where) < len(addresses):
            self._doubted[id] = "an address is none of its slice"
        elif len(called) < len(names):
            self._doubted[id] = "a name is none"
        text = zone.hosts_text(Home("", tuple(where), "", tuple(called)))
        return _Known(text, frozenset(zone.dotted(called))) if text else None


def bucket_of(id: str) -> int:
    """In which bucket a container is."""
    return zlib.crc32(id.encode()) % BUCKETS


def within(address: object, slices: Sequence[IPNetwork]) -> str | None:
    """An address in its normal form; None unless it is one that a container of these slices can have."""
    try:
        found = ipaddress.ip_address(address) if isinstance(address, str) else None
    except ValueError:
        return None
    if found is None or "%" in str(found):
        return None
    for each in slices:
        # The first two are the slice itself and its gateway, the last one of IPv4 is for all.
        if found.version == each.version and found in each and int(found) - int(each[0]) > 1:
            return str(found) if found.version == 6 or found != each.broadcast_address else None
    return None


def _object(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise NotUnderstood("it says what is no object of JSON; another program has the port there")
    return said


def _member(said: Mapping[str, Any], name: str, kind: type) -> Any:
    value = said.get(name, kind())
    if not isinstance(value, kind):
        raise NotUnderstood(f"its {name} is {_shown(value)}, expected a {kind.__name__}")
    return value


def _id(id: object) -> str:
    if not isinstance(id, str) or not 0 < len(id) <= _LONGEST_ID or not _ID.issuperset(id):
        raise NotUnderstood(
            f"a container's id is {_shown(id)}, expected at most {_LONGEST_ID} letters and digits"
        )
    return id


def _shown(value: object) -> str:
    """A value in a message: what is deep or long is not shown in full."""
    if isinstance(value, list | dict):
        return f"a {type(value).__name__}"
    return repr(value)[:40]
