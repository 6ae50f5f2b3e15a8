# SPDX-License-Identifier: Apache-2.0
"""One dnsmasq: started, found again, watched, started again, ended.

It is nobody's child (dnsmasq leaves its parent once it listens), so it lives on when the agent ends,
whichever way. What it is known by is its configuration's path, which is in its command line and nobody
else's: the next agent finds it by the pid that it has written, looks at the process of that pid through a
pidfd, and believes it if its command line says so. One that an agent was killed over may write its pid late,
into a directory that the next agent has just removed: it is looked for among all processes where there should
be one, or where one holds the address.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import select
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Collection
from contextlib import suppress

from ...errors import MissingProgram, MooringError, Unavailable
from ...linux import syscalls
from ..holders import port_holder
from .dnsmasq import OLDEST, PACKAGE, Place
from .realms import View

logger = logging.getLogger(__name__)

_SEARCH = os.pathsep.join(("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/bin", "/bin"))
_START_TIMEOUT = 10.0
_END_TIMEOUT = 5.0
_LIVES = 5.0  # seconds after which a server's end is not the failure of its start
_AGAIN_FIRST = 0.2
_AGAIN_MOST = 30.0
_REREAD_AFTER = 0.1  # seconds in which several changes become one signal
_LOG_MOST = 1 << 20  # bytes
_FIRST_PORT = 61000  # beyond those that the kernel gives away by itself, ip_local_port_range
_LAST_PORT = 64999
_VERSION = re.compile(r"Dnsmasq version (\d+)\.(\d+)")
_ADDRESS_TAKEN = 2  # dnsmasq(8), exit codes: a problem with network access


class Server:
    """The server of a view. `state` is "stopped", "starting", "running" or "failed", for which `problem` has
    the reason; `changed` is called when it is another one. `known` is set while it is one of the last two.
    """

    def __init__(self, place: Place, changed: Callable[[], None]) -> None:
        self.place = place
        self.state = "stopped"
        self.problem = ""
        self.known = asyncio.Event()
        self._changed = changed
        self._config: str | None = None
        self._addresses: tuple[str, ...] = ()
        self._port = 53
        self._pidfd: int | None = None
        self._lock = asyncio.Lock()
        self._again: asyncio.TimerHandle | None = None
        self._pause = 0.0
        self._began = 0.0
        self._rereading: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def pid(self) -> int | None:
        """Its process, while it runs."""
        return _written_pid(self.place) if self._pidfd is not None else None

    async def run(self, config: str, addresses: tuple[str, ...], port: int) -> None:
        """Have it run with this configuration: one that does so already is taken up as it is.

        Where that fails it is tried again, later and later; nothing is raised.
        """
        async with self._lock:
            self._config, self._addresses, self._port = config, addresses, port
            if self._pidfd is not None and _read(self.place) == config:
                return
            await self._start()

    async def end(self) -> None:
        """End it, whoever started it, and wait until it is gone."""
        async with self._lock:
            self._config = None
            self._cancel_timers()
            self._stop_watching()
            await asyncio.to_thread(_end, self.place)
            self._become("stopped")

    def let_go(self) -> None:
        """Look after it no more; it runs on."""
        self._config = None
        self._cancel_timers()
        self._stop_watching()
        for task in self._tasks:
            task.cancel()

    def reread(self) -> None:
        """Have it read again what it does not see by itself, soon."""
        if self._rereading is None:
            loop = asyncio.get_running_loop()
            self._rereading = loop.call_later(_REREAD_AFTER, self._reread_now)

    def _reread_now(self) -> None:
        self._rereading = None
        if self._pidfd is not None:
            with suppress(ProcessLookupError):
                syscalls.pidfd_send_signal(self._pidfd, signal.SIGHUP)

    async def _start(self) -> None:
        self._cancel_timers()
        self._become("starting")
        self._began = asyncio.get_running_loop().time()
        config = self._config or ""
        try:
            pidfd = await asyncio.to_thread(_take_up_or_start, self.place, config)
        except (MooringError, OSError) as error:
            said = error.message if isinstance(error, MooringError) else str(error)
            self._become("failed", await asyncio.to_thread(self._explained, error, said))
            self._try_again()
            return
        self._pidfd = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended)
        self._become("running")

    def _explained(self, error: Exception, said: str) -> str:
        if not isinstance(error, _Refused) or error.status != _ADDRESS_TAKEN:
            return said
        for protocol in ("udp", "tcp"):
            for address in self._addresses:
                holder = port_holder(protocol, address, self._port)
                if not holder.startswith("another program"):
                    return (
                        f"port {self._port} of {address} is taken by {holder}, so that no name server can "
                        f"listen there; have it listen on its own addresses only (bind-interfaces) or end it"
                    )
        return said

    def _ended(self) -> None:
        """Its process is gone, and nobody has asked for that."""
        self._stop_watching()
        lived = asyncio.get_running_loop().time() - self._began
        logger.warning("name server ended directory=%s after=%.1f", self.place.directory, lived)
        if lived >= _LIVES:
            self._pause = 0.0
        if self._pause:
            self._become("failed", f"it ended after {lived:.1f} s, again; see {self.place.log}")
        self._try_again()

    def _try_again(self) -> None:
        pause = self._pause
        self._pause = min(max(pause * 2, _AGAIN_FIRST), _AGAIN_MOST)
        self._again = asyncio.get_running_loop().call_later(pause, self._start_soon)

    def _start_soon(self) -> None:
        async def again() -> None:
            async with self._lock:
                if self._config is not None and self._pidfd is None:
                    await self._start()

        task = asyncio.get_running_loop().create_task(again())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _become(self, state: str, problem: str = "") -> None:
        if (state, problem) == (self.state, self.problem):
            return
        if problem and problem != self.problem:
            logger.error("name server failed directory=%s error=%r", self.place.directory, problem)
        self.state, self.problem = state, problem
        if state in ("running", "failed"):
            self.known.set()
        else:
            self.known.clear()
        self._changed()

    def _stop_watching(self) -> None:
        if self._pidfd is not None:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None

    def _cancel_timers(self) -> None:
        for timer in (self._again, self._rereading):
            if timer is not None:
                timer.cancel()
        self._again = self._rereading = None


class _Refused(Unavailable):
    """Dnsmasq has ended with a complaint."""

    def __init__(self, status: int, said: str) -> None:
        super().__init__(f"dnsmasq could not start: {said or f'it ended with {status}'}")
        self.status = status


def program() -> str:
    """The dnsmasq of this host. Raises MissingProgram, naming the package."""
    found = shutil.which("dnsmasq") or shutil.which("dnsmasq", path=_SEARCH)
    if found is None:
        raise MissingProgram(
            f"dnsmasq is not installed, so containers know each other by their addresses only; install the "
            f"package {PACKAGE}"
        )
    return found


def check_version(said: str) -> None:
    """Look at what `dnsmasq --version` says. Raises MissingProgram for one that is too old."""
    found = _VERSION.match(said)
    version = found[0].removeprefix("Dnsmasq version ") if found else ""
    numbers = (int(found[1]), int(found[2])) if found else (0, 0)
    if numbers < OLDEST:
        raise MissingProgram(
            f"dnsmasq of this host has version {version or 'unknown'}, expected {OLDEST[0]}.{OLDEST[1]} or "
            f"later; install a newer package {PACKAGE}"
        )


def free_port(place: Place, view: View, taken: Collection[int]) -> int:
    """A port for a server that is not at 53: that of its former life, or one that nobody has."""
    with suppress(FileNotFoundError, StopIteration, ValueError):
        lines = place.config.read_text().splitlines()
        return int(next(line for line in lines if line.startswith("port=")).removeprefix("port="))
    gateways = [str(gateway) for realm in view.realms for gateway in realm.gateways]
    free = (port for port in range(_FIRST_PORT, _LAST_PORT) if port not in taken)
    return next((port for port in free if all(_is_free(gateway, port) for gateway in gateways)), _LAST_PORT)


def _is_free(address: str, port: int) -> bool:
    """Whether a server could listen there."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(family, kind) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True


def shorten(place: Place) -> None:
    """Empty its log when it has grown: it notes each name that comes and goes."""
    with suppress(OSError):
        if os.stat(place.log).st_size > _LOG_MOST:
            os.truncate(place.log, 0)


def end_stray(place: Place) -> None:
    """End a server that nobody needs, and remove its files."""
    _end(place)
    shutil.rmtree(place.directory, ignore_errors=True)


def _take_up_or_start(place: Place, config: str) -> int:
    """A pidfd of a server that runs with this configuration. In a thread of its own."""
    same = _read(place) == config
    living = _living(place)
    if living is not None:
        if same:
            syscalls.pidfd_send_signal(living, signal.SIGHUP)  # there may be files that it has not seen
            return living
        os.close(living)
        _end(place)
    command = program()
    version = subprocess.run(
        [command, "--version"], capture_output=True, text=True, timeout=_START_TIMEOUT, check=False
    )
    check_version(version.stdout)
    if not same:
        draft = place.config.with_suffix(".new")
        draft.write_text(config)
        draft.rename(place.config)
    try:
        _run(command, place)
    except _Refused as error:
        if error.status != _ADDRESS_TAKEN or not _end_unwritten(place):
            raise
        _run(command, place)
    living = _living(place)
    if living is None:
        raise Unavailable(f"dnsmasq has started and ended at once; see {place.log}")
    return living


def _run(command: str, place: Place) -> None:
    try:
        done = subprocess.run(
            [command, f"--conf-file={place.config}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            cwd="/",
            start_new_session=True,
            timeout=_START_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"dnsmasq has not started within {_START_TIMEOUT:g} s; see {place.log}") from None
    if done.returncode != 0:
        raise _Refused(done.returncode, done.stderr.strip().removeprefix("dnsmasq: "))


def _living(place: Place) -> int | None:
    """A pidfd of the server that runs at this place and has written its pid, if one does."""
    pid = _written_pid(place)
    return None if pid is None else _server(pid, place)


def _server(pid: int, place: Place) -> int | None:
    """A pidfd of a process, if it is a server of this place."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return None
    try:
        # Read after the pidfd was opened, and the process is still there afterwards: so it is that one's.
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read().split(b"\0")
    except OSError:
        words = []
    if os.fsencode(f"--conf-file={place.config}") in words and not _is_over(pidfd, 0):
        return pidfd
    os.close(pidfd)
    return None


def _end(place: Place) -> None:
    living = _living(place)
    if living is not None:
        _end_it(living, place)
    elif place.config.exists():
        _end_unwritten(place)


def _end_unwritten(place: Place) -> bool:
    """End servers of this place whose pid is not written there; whether there was one."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    found = [server for pid in pids if (server := _server(pid, place)) is not None]
    for server in found:
        _end_it(server, place)
    return bool(found)


def _end_it(server: int, place: Place) -> None:
    """End a server by its pidfd, which is closed."""
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                syscalls.pidfd_send_signal(server, number)
            if _is_over(server, _END_TIMEOUT):
                return
        raise Unavailable(f"dnsmasq of {place.directory} did not end within {_END_TIMEOUT:g} s of SIGKILL")
    finally:
        os.close(server)


def _is_over(pidfd: int, seconds: float) -> bool:
    poller = select.poll()
    poller.register(pidfd, select.POLLIN)
    return bool(poller.poll(seconds * 1000))


def _written_pid(place: Place) -> int | None:
    try:
        return int(place.pid.read_text())
    except (FileNotFoundError, ValueError):
        return None


def _read(place: Place) -> str | None:
    try:
        return place.config.read_text()
    except FileNotFoundError:
        return None
