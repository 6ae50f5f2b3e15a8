# SPDX-License-Identifier: Apache-2.0
"""What a notebook has at hand: its fleet, and the shells that it has opened there."""

from __future__ import annotations

import difflib
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

from .assist import Assistant, Place
from .client import Client
from .errors import ApiError, KernelError, UsageError
from .fleet import Fleet
from .shell import ShellSession

_CLOSE_WITHIN = 2.0  # seconds


@dataclass(frozen=True)
class Target:
    """A container on a host."""

    client: Client
    container: str

    def __str__(self) -> str:
        return f"{self.client.host}/{self.container}"


class Workspace:
    """One fleet at a time, and one shell a container, of which one is attached: cells run there."""

    def __init__(self) -> None:
        self.fleet: Fleet | None = None
        self.attached: ShellSession | None = None
        self.assistant = Assistant()
        self._shells: dict[str, ShellSession] = {}
        self._containers: dict[str, tuple[str, ...]] = {}  # host → names seen last, for completion

    @property
    def shells(self) -> Mapping[str, ShellSession]:
        """The open shells by `host/container`."""
        return self._shells

    def use_fleet(self, fleet: Fleet) -> None:
        """Take another fleet; the shells in the old one end."""
        self.close()
        self.fleet = fleet

    def require_fleet(self) -> Fleet:
        """Return the fleet. Raises UsageError if there is none yet."""
        if self.fleet is None:
            raise UsageError(
                "there is no fleet yet: `%fleet INVENTORY` reads one, `%fleet local` is this machine"
            )
        return self.fleet

    def target(self, text: str) -> Target:
        """Return the container that `host/container` names. The host may be left out if the fleet has only
        one.
        """
        fleet = self.require_fleet()
        host, slash, container = text.partition("/")
        if not slash:
            if len(fleet.hosts) != 1:
                raise UsageError(f"{text!r} names no host: write host/container, as `%ps` lists them")
            host, container = fleet.hosts[0], text
        if not host or not container or "/" in container:
            raise UsageError(f"{text!r} is not host/container, as `%ps` lists them")
        return Target(fleet.client(host), container)

    def attach(
        self, target: Target, *, user: str | None, shell: str | None, new: bool
    ) -> tuple[ShellSession, bool]:
        """Make cells run in a container: in the shell that is open there, or in a new one; tell whether it is
        new.
        """
        key = str(target)
        current = self._shells.get(key)
        if current is not None:
            same = (user is None or user == current.user) and (shell is None or shell == current.shell)
            if current.ended is None and same and not new:
                self.attached = current
                return current, False
            current.close()
            del self._shells[key]
            if self.attached is current:
                self.attached = None
        try:
            session = ShellSession.open(target.client, target.container, user=user, shell=shell)
        except ApiError as error:
            if error.status == 404:
                raise UsageError(self._no_such_container(target, error)) from None
            raise
        self._shells[key] = session
        self.attached = session
        self.assistant = Assistant()
        return session, True

    def detach(self) -> str:
        """End the attached shell and return where it was. Raises UsageError if there is none."""
        session = self.attached
        if session is None:
            raise UsageError("no container is attached, so there is nothing to detach")
        session.close()
        self._shells.pop(session.where, None)
        self.attached = None
        return session.where

    def forget_ended(self) -> None:
        """Take the shells that have ended out of the open ones; the attached one stays, to say why it is
        gone.
        """
        for where, session in list(self._shells.items()):
            if session.ended is not None:
                del self._shells[where]

    def place(self) -> Place | None:
        """Return where the attached shell is, None if there is no living one."""
        session = self.attached
        if session is None or session.ended is not None:
            return None
        return Place(session.client, session.container, session.shell, session.user, session.directory)

    def remember_containers(self, host: str, names: tuple[str, ...]) -> None:
        """Keep the names of a host's containers for completion."""
        self._containers[host] = names

    def targets(self) -> list[str]:
        """Return `host/container` of all containers known, for completion. Hosts not seen yet are asked."""
        if self.fleet is None:
            return []
        unseen = [host for host in self.fleet.hosts if host not in self._containers]
        for answer in self.fleet.ask(lambda client: client.containers(timeout=2.0), unseen, deadline=2.0):
            self._containers[answer.host] = tuple(container.name for container in answer.value or ())
        return [f"{host}/{name}" for host, names in self._containers.items() for name in names]

    def close(self) -> None:
        """End all shells and give up all connections; a host that does not answer is not waited for long."""
        closing = [
            threading.Thread(target=session.close, name=f"close {where}", daemon=True)
            for where, session in self._shells.items()
        ]
        for thread in closing:
            thread.start()
        end = time.monotonic() + _CLOSE_WITHIN
        for thread in closing:
            thread.join(max(0.0, end - time.monotonic()))
        self._shells.clear()
        self._containers.clear()
        self.attached = None
        if self.fleet is not None:
            self.fleet.close()
            self.fleet = None

    def _no_such_container(self, target: Target, error: ApiError) -> str:
        try:
            names = [container.name for container in target.client.containers()]
        except KernelError:
            return error.message
        near = difflib.get_close_matches(target.container, names, n=1)
        hint = (
            f"did you mean {target.client.host}/{near[0]}?"
            if near
            else f"`%ps {target.client.host}` lists them"
        )
        return f"there is no container {target.container!r} on {target.client.host}: {hint}"
