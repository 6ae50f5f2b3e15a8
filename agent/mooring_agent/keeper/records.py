# SPDX-License-Identifier: Apache-2.0
"""The keeper's journal: one small file a process, so that another keeper can go on where this one was killed.

A record is replaced by rename, never changed in place. It lives below the run root: it is meant to survive
every process of Mooring, not a reboot, which no container survives either.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass, fields, replace
from typing import Any

from .diagnostics import complain
from .messages import check_fields, field_kinds


@dataclass(frozen=True)
class Record:
    """One container's or exec's process.

    `start_time` is field 22 of proc(5) stat; with `pid` it names a process for good until the next boot.
    `exit_code` is None while it runs; `known` is false when its status could not be learned. `finished_at` is
    in seconds since the epoch. `stdin` says of an exec that it has a pipe for its standard input, and `note`
    is what the agent said of it. `group` is the name of a container's group where that is still its
    launcher's.
    """

    id: str
    container: str
    pid: int
    start_time: int
    terminal: bool
    log_directory: str = ""
    log_size: int = 0
    log_files: int = 0
    exit_code: int | None = None
    known: bool = True
    finished_at: float | None = None
    stdin: bool = False
    note: str = ""
    group: str = ""

    def exited(self, exit_code: int, known: bool, finished_at: float) -> Record:
        """The same, ended."""
        return replace(self, exit_code=exit_code, known=known, finished_at=finished_at)


_FIELDS = frozenset(field.name for field in fields(Record))
_KINDS = field_kinds(Record)


class Journal:
    """The records below one directory."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        os.makedirs(directory, mode=0o700, exist_ok=True)

    def write(self, record: Record) -> None:
        """Keep `record` in place of what was known of its id."""
        path = self._path(record.id)
        descriptor = os.open(f"{path}.new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        content = json.dumps(vars(record)).encode()
        try:
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, f"{path}: {os.strerror(errno.ENOSPC)}")
        finally:
            os.close(descriptor)
        os.rename(f"{path}.new", path)

    def remove(self, id: str) -> None:
        """Forget the record of `id`, if there is one."""
        try:
            os.unlink(self._path(id))
        except FileNotFoundError:
            pass

    def read_all(self) -> list[Record]:
        """All records; half-written ones are not among them."""
        found = []
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if not entry.name.endswith(".json"):
                    os.unlink(entry.path)
                    continue
                try:
                    record = _read(entry.path)
                    if entry.name != f"{record.id}.json":
                        raise ValueError(f"it is the record of {record.id}")
                    found.append(record)
                except (ValueError, TypeError) as error:
                    # Whatever has spoiled it: the other processes need a keeper all the same.
                    complain(f"record {entry.path} is passed over: {error}")
        return found

    def _path(self, id: str) -> str:
        return f"{self._directory}/{id}.json"


def _read(path: str) -> Record:
    """The record in a file; what a newer keeper has added to it says nothing to this one."""
    with open(path, "rb") as file:
        content: Any = json.loads(file.read())
    if not isinstance(content, dict):
        raise TypeError("it is not a JSON object")
    return record_of(content)


def record_of(content: dict[str, Any]) -> Record:
    """A record from its fields; those that are not known are passed over. Raises TypeError or ValueError."""
    check_fields(_KINDS, content)
    return Record(**{name: value for name, value in content.items() if name in _FIELDS})
