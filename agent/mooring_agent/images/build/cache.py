# SPDX-License-Identifier: Apache-2.0
"""The build cache: which layer an instruction made, by everything that it depended on.

A record is a file, written by rename; when it was last used is the file's time. What records name is kept by
the store's collector. The layers of a record are ordinary layers, and no image.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mooring_agent.errors import MooringError
from mooring_agent.images.content import Descriptor

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Record:
    """What an instruction on the layers of `parent` ("" for none) came to.

    `layer`, `diff_id` and `chain` are those of the layer that it made, None and "" if it changed nothing.
    `created` is the time for the history. `size` is in bytes, unpacked.
    """

    key: str
    parent: str
    layer: Descriptor | None
    diff_id: str
    chain: str
    created: str
    size: int
    description: str

    def resources(self) -> set[str]:
        """What has to stay for the record to be of use."""
        return {self.layer.digest, self.chain} if self.layer is not None else set()


def cache_key(parent: str, *parts: Any) -> str:
    """The key of an instruction: the layers below it, and all that it depends on (JSON values)."""
    return hashlib.sha256(json.dumps([parent, *parts], sort_keys=True).encode()).hexdigest()


class BuildCache:
    """All records of a store, in memory and in a directory. Methods may be called from any thread."""

    def __init__(self, directory: Path) -> None:
        """Read what is in the directory, made if absent; what cannot be read is dropped."""
        self._directory = directory
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        directory.mkdir(mode=0o700, exist_ok=True)
        for path in directory.iterdir():
            try:
                self._records[path.name] = _decoded(json.loads(path.read_bytes()))
            except (ValueError, KeyError, TypeError, MooringError, OSError) as error:
                if "." not in path.name:  # what is there of a write that was cut off has one
                    _log.warning("record %s of the build cache cannot be read: %r", path, error)
                path.unlink(missing_ok=True)

    def find(self, key: str) -> Record | None:
        """The record of a key, which counts as a use of it."""
        with self._lock:
            record = self._records.get(key)
            if record is not None:
                try:
                    os.utime(self._directory / key)
                except OSError as error:
                    _log.warning("the use of record %s is not noted: %s", key, error)
            return record

    def put(self, record: Record) -> None:
        """Keep a record in the place of the one of its key. Raises OSError when the disk takes it not."""
        with self._lock:
            draft = self._directory / f"{record.key}.new"
            draft.write_text(json.dumps(_encoded(record)), encoding="utf-8")
            draft.rename(self._directory / record.key)
            self._records[record.key] = record

    def remove(self, keys: Sequence[str]) -> None:
        """Forget records."""
        with self._lock:
            for key in keys:
                self._records.pop(key, None)
                (self._directory / key).unlink(missing_ok=True)

    def resources(self) -> set[str]:
        """The blobs and layers that are kept."""
        with self._lock:
            return set().union(*(record.resources() for record in self._records.values()))

    def list(self) -> list[tuple[Record, float]]:
        """All records and when each was last used, the longest unused first."""
        with self._lock:
            found = [(record, self._used_at(key)) for key, record in self._records.items()]
        return sorted(found, key=lambda one: one[1])

    def _used_at(self, key: str) -> float:
        try:
            return (self._directory / key).stat().st_mtime
        except FileNotFoundError:
            return time.time()


def _encoded(record: Record) -> dict[str, Any]:
    return asdict(record) | {"layer": record.layer.to_json() if record.layer is not None else None}


def _decoded(value: dict[str, Any]) -> Record:
    layer = value["layer"]
    return Record(**(value | {"layer": Descriptor.from_json(layer) if layer is not None else None}))
