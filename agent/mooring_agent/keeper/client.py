# SPDX-License-Identifier: Apache-2.0
"""The agent's side of the keeper's socket, for asyncio."""

from __future__ import annotations

import asyncio
import functools
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import __version__
from ..errors import Ended, LaunchFailed, MooringError, Unavailable
from ..linux import syscalls
from . import messages
from .identity import code_hash
from .messages import Message

# The code that runs the keeper from wherever this package lies, a directory or a zip file, with as little
# else as possible.
_BOOT = (
    "import sys; sys.path.insert(0, {root!r}); "
    "from mooring_agent.keeper.main import main; sys.exit(main({run!r}, {code!r}))"
)
# The same for one that takes a running keeper's place. `run` is there for whoever lists processes.
_RESUME = (
    "import sys; sys.path.insert(0, {root!r}); run = {run!r}; "
    "from mooring_agent.keeper.main import resume; sys.exit(resume({code!r}))"
)
_PACKAGE = Path(__file__).parent.parent.parent
_ISOLATED = ("-I", "-S", "-c")
_own_code = functools.cache(code_hash)
_START_TIMEOUT = 20.0
_RETRY_PAUSE = 0.02
# Seconds within which a keeper that is well answers, even one with thousands of containers and a flood of
# logs.
_REQUEST_TIMEOUT = 10.0
# What waits for processes of a container's own: launchers that are forked, storage that is mounted.
_START_REQUESTS = (messages.Acquire, messages.Launch, messages.Exec, messages.PrepareExec, messages.Upgrade)
_START_REQUEST_TIMEOUT = 45.0


class KeeperLost(Unavailable):
    """The connection has ended before the answer: whether the request was carried out is not known."""

    code = "keeper_lost"


class KeeperSilent(KeeperLost):
    """The keeper has not answered in time, and the connection was given up."""

    code = "keeper_silent"


class KeeperRefused(MooringError):
    """The keeper answered Failed."""

    def __init__(self, failure: messages.Failed) -> None:
        super().__init__(failure.message)
        self.exit_code = failure.exit_code
        self.gone = failure.gone


class KeeperClient:
    """One connection. `on_exit` hears of every process that ends, `on_lost` once when the connection does."""

    def __init__(self, run_root: Path) -> None:
        self._run_root = run_root
        self._socket: socket.socket | None = None
        self._waiting: dict[int, asyncio.Future[tuple[Message, list[int]]]] = {}
        self._seq = 0
        self.asked_at = 0.0  # the last request, by the event loop's clock
        self._connected = False
        self._outgoing: deque[tuple[bytes, list[int]]] = deque()
        self.on_exit: Callable[[messages.Exited], None] = lambda _: None
        self.on_lost: Callable[[], None] = lambda: None
        self.identity = messages.Hello()

    async def connect(self) -> None:
        """Connect, with a keeper started where there is none. Raises Unavailable when that takes too long."""
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT
        while True:
            try:
                self._open()
                self.identity = await self._greet()
                self._connected = True
                return
            except (FileNotFoundError, ConnectionRefusedError):
                await self._start_keeper()
            except OSError as error:
                self._lose()
                raise Unavailable(f"keeper of {self._run_root} cannot be reached: {error.strerror}") from None
            except KeeperSilent:
                raise
            except KeeperLost:
                pass  # it was about to leave: the next one is found, or started, below
            except BaseException:
                self._lose()
                raise
            if asyncio.get_running_loop().time() > deadline:
                log = self._run_root / "keeper/log"
                raise Unavailable(f"keeper of {self._run_root} does not answer: its log is {log}")
            await asyncio.sleep(_RETRY_PAUSE)

    @property
    def connected(self) -> bool:
        """Whether there is a connection."""
        return self._connected

    @property
    def outdated(self) -> bool:
        """Whether the keeper runs other code than this agent would start."""
        return (self.identity.version, self.identity.code) != (__version__, _own_code())

    async def renew(self, package: Path = _PACKAGE, code: str | None = None) -> None:
        """Have the keeper go on with this agent's code (that in `package`).

        One without processes ends, with its guardian, and new ones are started. One with processes replaces
        itself and keeps all that it has; its guardian stays. Raises KeeperRefused when it goes on as it is,
        KeeperLost and Unavailable when that is not known.
        """
        if await self._ends_unless_needed():
            self._lose()
            await self.connect()
            return
        boot = _RESUME.format(root=str(package), run=str(self._run_root), code=code or _own_code())
        command = [sys.executable, *_ISOLATED, boot, "mooring keeper"]
        interpreter = _sealed_interpreter()
        try:
            await self.request(messages.Upgrade(command, [messages.STATE]), [interpreter])
        finally:
            os.close(interpreter)
        self.identity = await self._greet()

    async def _ends_unless_needed(self) -> bool:
        try:
            await self.request(messages.Shutdown())
        except KeeperRefused:
            return False
        except KeeperLost:
            return True  # it has ended faster than its answer came
        return True

    def close(self) -> None:
        """End the connection; what the keeper does goes on."""
        self.on_lost = lambda: None
        self._lose()

    async def request(
        self, message: Message, descriptors: Sequence[int] = (), timeout: float | None = None
    ) -> tuple[Message, list[int]]:
        """Send a request and wait for its answer and the descriptors that come with it.

        Raises KeeperRefused, KeeperLost, or KeeperSilent after `timeout` seconds. What such a keeper will do
        with the request is not known then, so the connection is given up: what it has done is learned from
        the next one.
        """
        if timeout is None:
            timeout = _START_REQUEST_TIMEOUT if isinstance(message, _START_REQUESTS) else _REQUEST_TIMEOUT
        if self._socket is None:
            raise KeeperLost("keeper is not connected: it is being started again, try once more")
        self._seq += 1
        self.asked_at = asyncio.get_running_loop().time()
        seq = self._seq
        future: asyncio.Future[tuple[Message, list[int]]] = asyncio.get_running_loop().create_future()
        self._waiting[seq] = future
        self._send(messages.encode(message, seq), [os.dup(one) for one in descriptors])
        # Less work than asyncio.wait_for, on the path of each start.
        timer = asyncio.get_running_loop().call_later(timeout, self._give_up_on, seq, message, timeout)
        try:
            answer, received = await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                for descriptor in future.result()[1]:  # the answer had come, and nobody takes it now
                    os.close(descriptor)
            raise
        finally:
            timer.cancel()
            self._waiting.pop(seq, None)
        if isinstance(answer, messages.Failed):
            raise KeeperRefused(answer)
        return answer, received

    def _give_up_on(self, seq: int, message: Message, timeout: float) -> None:
        future = self._waiting.pop(seq, None)
        if future is None:
            return
        if not future.done():
            future.set_exception(
                KeeperSilent(
                    f"keeper, process {self.identity.pid}, has not answered {type(message).__name__} within "
                    f"{timeout:g} s: it is stopped, or the host overloaded; see "
                    f"{self._run_root / 'keeper/log'}"
                )
            )
        self._lose()

    async def prepare(self, launch: messages.Launch, plan: bytes) -> None:
        """Let an acquired launcher become what a plan says, up to its execve, for a `launch` without one."""
        file = messages.memory_file(plan)
        try:
            await self.request(messages.Prepare(**vars(launch)), [file])
        finally:
            os.close(file)

    async def launch(self, launch: messages.Launch, plan: bytes | None) -> messages.Launched:
        """Turn an acquired launcher into a container; `plan` is None for one that has been prepared.

        Raises StartRefused with the exit code a shell would give, Ended for a launcher that has gone.
        """
        files = [] if plan is None else [messages.memory_file(plan)]
        try:
            answer, _ = await self.request(launch, files)
        except KeeperRefused as refusal:
            if refusal.gone:
                raise Ended(refusal.message) from None
            raise StartRefused(refusal.message, refusal.exit_code) from None
        finally:
            for file in files:
                os.close(file)
        assert isinstance(answer, messages.Launched)
        return answer

    async def prepare_exec(self, request: messages.PrepareExec, plan: bytes) -> None:
        """Have a joiner join a container, for an `execute` that names it."""
        file = messages.memory_file(plan)
        try:
            await self.request(request, [file])
        finally:
            os.close(file)

    async def execute(
        self, request: messages.Exec, plan: bytes | None
    ) -> tuple[messages.Launched, list[int]]:
        """Start a process in a container; `plan` is None where the request names a joiner.

        Raises StartRefused, and JoinerGone for a joiner that does not do or was killed; then nothing was
        started, and another one may do.
        """
        files = [] if plan is None else [messages.memory_file(plan)]
        try:
            answer, descriptors = await self.request(request, files)
        except KeeperRefused as refusal:
            if refusal.gone:
                raise JoinerGone(refusal.message) from None
            raise StartRefused(refusal.message, refusal.exit_code) from None
        finally:
            for file in files:
                os.close(file)
        assert isinstance(answer, messages.Launched)
        return answer, descriptors

    async def _greet(self) -> messages.Hello:
        answer, _ = await self.request(messages.Hello(version=__version__))
        assert isinstance(answer, messages.Hello)
        return answer

    def _open(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        try:
            connection.connect(f"{self._run_root}/keeper/socket")
        except OSError:
            connection.close()
            raise
        connection.setblocking(False)
        self._socket = connection
        asyncio.get_running_loop().add_reader(connection, self._readable)

    async def _start_keeper(self) -> None:
        interpreter = _sealed_interpreter()
        try:
            process = await self._spawn_keeper(interpreter)
        finally:
            os.close(interpreter)
        try:
            _, complaint = await asyncio.wait_for(process.communicate(), _START_TIMEOUT)
        except TimeoutError:
            process.kill()
            await process.wait()
            raise Unavailable(
                f"keeper of {self._run_root} was not ready {_START_TIMEOUT:g} s after its start: the host "
                f"may be short of memory or processor time; its log is {self._run_root / 'keeper/log'}"
            ) from None
        if process.returncode:
            last_words = complaint.decode(errors="replace").strip().rpartition("\n")[2]
            raise Unavailable(f"keeper of {self._run_root} could not be started: {last_words}")

    async def _spawn_keeper(self, interpreter: int) -> asyncio.subprocess.Process:
        boot = _BOOT.format(root=str(_PACKAGE), run=str(self._run_root), code=_own_code())
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *_ISOLATED,
            boot,
            "mooring keeper",
            executable=f"/proc/self/fd/{interpreter}",
            pass_fds=(interpreter,),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def _send(self, packet: bytes, descriptors: list[int]) -> None:
        self._outgoing.append((packet, descriptors))
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        assert self._socket is not None
        loop = asyncio.get_running_loop()
        while self._outgoing:
            packet, descriptors = self._outgoing[0]
            try:
                if descriptors:
                    socket.send_fds(self._socket, [packet], descriptors)
                else:
                    self._socket.send(packet)
            except BlockingIOError:
                loop.add_writer(self._socket, self._flush)
                return
            except OSError:
                self._lose()
                return
            self._outgoing.popleft()
            for descriptor in descriptors:
                os.close(descriptor)
        loop.remove_writer(self._socket)

    def _readable(self) -> None:
        while self._socket is not None:
            try:
                packet, descriptors, _, _ = socket.recv_fds(
                    self._socket, messages.PACKET_MAX, messages.DESCRIPTORS_MAX
                )
            except BlockingIOError:
                return
            except ConnectionError:
                packet, descriptors = b"", []
            if not packet:
                self._lose()
                return
            self._receive(packet, descriptors)

    def _receive(self, packet: bytes, descriptors: list[int]) -> None:
        seq, message = messages.decode(packet)
        if isinstance(message, messages.Exited):
            self.on_exit(message)
            return
        if not seq and isinstance(message, messages.Failed) and self._waiting:
            # An older keeper does not tell which request it was that it does not know. It answers in order.
            seq = min(self._waiting)
        future = self._waiting.get(seq)
        if future is None or future.done():
            for descriptor in descriptors:
                os.close(descriptor)
            return
        future.set_result((message, descriptors))

    def _lose(self) -> None:
        if self._socket is None:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self._socket.close()
        self._socket = None
        for _, descriptors in self._outgoing:
            for descriptor in descriptors:
                os.close(descriptor)
        self._outgoing.clear()
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(
                    KeeperLost("keeper has gone before it answered: it is being started again")
                )
        if self._connected:
            self._connected = False
            self.on_lost()


class StartRefused(LaunchFailed):
    """A process could not be started; `exit_code` is 125, or 126 and 127 where its command is at fault."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        if exit_code in (126, 127):
            self.status = 400


class JoinerGone(Unavailable):
    """A joiner is not there any more, or does not fit any more. It has started nothing."""


def _sealed_interpreter() -> int:
    """A descriptor of the interpreter on a read-only mount of its own, which is in no namespace.

    Launchers are forks of the keeper, and a launcher is in the container before its execve: what of the
    container ran instead of it could keep /proc/self/exe, and later write to the host's file (CVE-2019-5736).
    """
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    tree = syscalls.open_tree(syscalls.AT_FDCWD, os.path.realpath(sys.executable), flags)
    try:
        syscalls.mount_setattr(tree, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
    except OSError:
        os.close(tree)
        raise
    return tree
