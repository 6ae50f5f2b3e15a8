# SPDX-License-Identifier: Apache-2.0
"""What names of users and groups stand for on this host, looked up beside the event loop.

The host may ask a directory on the network for them (nsswitch.conf(5)), which takes as long as that takes;
nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import grp
import pwd
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from ...errors import Unavailable

_BELIEVED_SECONDS = 60.0
"""For how long an answer is believed: users come and go."""
LOOK_UP_SECONDS = 5.0
"""How long somebody waits for one."""
_NAMES_AT_ONCE = 32
"""While so much is asked for, no name of a user is: who may connect may have any number of uids."""

Asked = tuple[str, str | int]
"""The kind of a look-up, and what it is of."""


class Accounts:
    """Asks the host, each thing once at a time. Called in the event loop's thread."""

    def __init__(
        self,
        user: Callable[[str], int] = lambda name: pwd.getpwnam(name).pw_uid,
        group: Callable[[str], int] = lambda name: grp.getgrnam(name).gr_gid,
        name: Callable[[int], str] = lambda uid: pwd.getpwuid(uid).pw_name,
        clock: Callable[[], float] = time.monotonic,
        patience: float = LOOK_UP_SECONDS,
    ) -> None:
        self._user, self._group, self._name = user, group, name
        self._clock = clock
        self._patience = patience
        self._known: dict[Asked, tuple[float, int | str | None]] = {}
        self._asking: dict[Asked, asyncio.Future[int | str | None]] = {}

    async def uid(self, name: str) -> int | None:
        """The number of a user, None if there is none of this name. Raises Unavailable."""
        return await self._number("user", name, self._user)

    async def gid(self, name: str) -> int | None:
        """The number of a group, None if there is none of this name. Raises Unavailable."""
        return await self._number("group", name, self._group)

    async def name(self, uid: int) -> str | None:
        """The name of a user, None if none is known, or not in time."""
        if len(self._asking) >= _NAMES_AT_ONCE:
            return None
        try:
            found = await self._found(("uid", uid), lambda: self._name(uid))
        except Unavailable:
            return None
        return None if found is None else str(found)

    async def _number(self, kind: str, name: str, look_up: Callable[[str], int]) -> int | None:
        if name.isascii() and name.isdecimal():
            return int(name)
        found = await self._found((kind, name), lambda: look_up(name))
        return None if found is None else int(found)

    async def _found(self, asked: Asked, look_up: Callable[[], int | str]) -> int | str | None:
        until, found = self._known.get(asked, (float("-inf"), None))
        if self._clock() < until:
            return found
        work = self._asking.get(asked)
        if work is None:
            work = asyncio.get_running_loop().create_future()
            self._begin(asked, look_up, work)
            self._asking[asked] = work  # not before there is somebody to answer
        try:
            return await asyncio.wait_for(asyncio.shield(work), self._patience)
        except TimeoutError:
            kind, what = asked
            raise Unavailable(
                f"the host has not told within {self._patience:g} s which {kind} {what} is, which a rule of "
                "access in the agent's configuration names: see that its directory of users answers, and try "
                "again"
            ) from None

    def _begin(
        self, asked: Asked, look_up: Callable[[], int | str], work: asyncio.Future[int | str | None]
    ) -> None:
        """Ask in a thread that nobody waits for at the end: a directory may never answer."""
        try:
            threading.Thread(target=self._ask, args=(asked, look_up, work), daemon=True).start()
        except RuntimeError as error:
            kind, what = asked
            raise Unavailable(
                f"the agent cannot ask which {kind} {what} is, which a rule of access in its configuration "
                f"names: {error}; allow it more tasks, or try again when it has less to do"
            ) from None

    def _ask(
        self, asked: Asked, look_up: Callable[[], int | str], work: asyncio.Future[int | str | None]
    ) -> None:
        """In a thread of its own."""
        found: int | str | None = None
        # ValueError is for what can be no name, such as one with a NUL in it, OSError for a directory that
        # does not answer.
        with suppress(KeyError, ValueError, OSError):
            found = look_up()
        with suppress(RuntimeError):  # the loop has ended
            work.get_loop().call_soon_threadsafe(self._answered, asked, found, work)

    def _answered(
        self, asked: Asked, found: int | str | None, work: asyncio.Future[int | str | None]
    ) -> None:
        now = self._clock()
        self._known = {one: answer for one, answer in self._known.items() if now < answer[0]}
        self._known[asked] = now + _BELIEVED_SECONDS, found
        self._asking.pop(asked, None)
        if not work.done():
            work.set_result(found)
