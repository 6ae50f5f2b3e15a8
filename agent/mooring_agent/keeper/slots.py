# SPDX-License-Identifier: Apache-2.0
"""The groups of launchers: their names, and the removal of those that launchers have left."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Container

from .diagnostics import complain

_PREFIX = "slot-"


class Slots:
    """Names launchers, and knows below which groups there have been any.

    `file` keeps that for the next keeper, which has to clear away what launchers of a killed one have left,
    and may never be told a shape.
    """

    def __init__(self, file: str) -> None:
        self._file = file
        self._parents = _read(file)
        self._first = self.next = 0

    def go_on_from(self, number: int) -> None:
        """Name none below `number`: this process did so before it replaced its program. What is left of
        those is swept.
        """
        self._first = self.next = number

    def know(self, parents: tuple[str, ...]) -> None:
        """Sweep below `parents`, too, from now on."""
        if not self._parents.issuperset(parents):
            self._parents.update(parents)
            self._write()

    def name(self, parents: tuple[str, ...]) -> str:
        """The name of a launcher's group in each of `parents`."""
        self.know(parents)
        name = f"{_PREFIX}{os.getpid()}-{self.next}"
        self.next += 1
        return name

    def sweep(self, kept: Container[str] = ()) -> bool:
        """Remove the groups of launchers that this program has not forked, but for those in `kept`; whether
        some are still in use.

        They are looked up each time: a launcher may make its groups after its keeper has been killed.
        """
        in_use = False
        for parent in sorted(self._parents):
            try:
                names = os.listdir(parent)
            except FileNotFoundError:
                self._parents.discard(parent)
                continue
            except OSError as error:
                complain(f"{parent} is not looked through: {error.strerror}")
                continue
            for name in names:
                if name.startswith(_PREFIX) and name not in kept and not self._is_own(name):
                    in_use |= not _remove_group(parent, name)
        return in_use

    def _is_own(self, name: str) -> bool:
        pid, _, number = name.removeprefix(_PREFIX).partition("-")
        return pid == str(os.getpid()) and number.isdigit() and int(number) >= self._first

    def _write(self) -> None:
        try:
            with open(f"{self._file}.new", "w", encoding="utf-8", opener=_private) as file:
                json.dump(sorted(self._parents), file)
            os.replace(f"{self._file}.new", self._file)
        except OSError as error:
            complain(f"{self._file} is not kept: {error.strerror}")


def remove_groups(parents: tuple[str, ...], name: str) -> None:
    """Remove the (empty) group `name` in each of `parents`; one that is gone or still in use is passed
    over.
    """
    for parent in parents:
        _remove_group(parent, name)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _read(file: str) -> set[str]:
    try:
        with open(file, encoding="utf-8") as opened:
            parents = json.load(opened)
        if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
            raise ValueError("expected a list of paths")
        return set(parents)
    except FileNotFoundError:
        return set()
    except (OSError, ValueError) as error:
        complain(f"{file} cannot be read, so groups of former launchers may stay: {error}")
        return set()


def _remove_group(parent: str, name: str) -> bool:
    """Whether it is gone."""
    try:
        os.rmdir(f"{parent}/{name}")
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EBUSY):
            complain(f"group {parent}/{name} cannot be removed: {error.strerror}")
        return error.errno != errno.EBUSY
    return True
