# SPDX-License-Identifier: Apache-2.0
"""Streams through SSH to the unix socket of a remote agent.

The channel is OpenSSH's `direct-streamlocal@openssh.com` (PROTOCOL of openssh-portable, section 2.4), which
sshd allows by default (AllowStreamLocalForwarding). Where it does not, or where the user has to become root
to open the socket, `mooring system dial-stdio` on the host connects its standard input and output with the
socket.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import shlex
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import paramiko
from paramiko.common import cMSG_CHANNEL_OPEN

from .errors import HostUnreachable
from .http import Deadline, Stream
from .ssh_settings import SshSettings, jump_settings

# Reasons of SSH_MSG_CHANNEL_OPEN_FAILURE, RFC 4254, section 5.1.
_PROHIBITED = 1
_CONNECT_FAILED = 2
_UNKNOWN_TYPE = 3


class StreamlocalTransport(paramiko.Transport):
    """An SSH connection that can open channels to unix sockets of the other side, which paramiko has no call
    for.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._path = threading.local()

    def open_streamlocal(self, path: str, timeout: float) -> paramiko.Channel:
        """Open a channel to the unix socket `path`. Raises paramiko.SSHException."""
        self._path.value = path
        try:
            return self.open_channel("direct-streamlocal@openssh.com", timeout=timeout)
        finally:
            self._path.value = None

    def _send_user_message(self, data: paramiko.Message) -> None:
        """Add to the request for such a channel what its kind has: the path and two reserved fields."""
        path = getattr(self._path, "value", None)
        if path is not None and data.asbytes()[:1] == cMSG_CHANNEL_OPEN:
            data.add_string(path)
            data.add_string("")
            data.add_int(0)
        super()._send_user_message(data)  # type: ignore[misc]


class _UnknownHostKey(Exception):
    def __init__(self, key: paramiko.PKey) -> None:
        digest = base64.b64encode(hashlib.sha256(key.asbytes()).digest()).decode().rstrip("=")
        super().__init__(f"{key.get_name()} SHA256:{digest}")


class _Reject(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        raise _UnknownHostKey(key)


class _AcceptAny(paramiko.MissingHostKeyPolicy):
    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Accept it, as StrictHostKeyChecking=no asks for."""


class _AcceptNew(paramiko.MissingHostKeyPolicy):
    def __init__(self, file: Path) -> None:
        self._file = file

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> None:
        """Accept it and remember it, as ssh does with StrictHostKeyChecking=accept-new."""
        self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"{hostname} {key.get_name()} {key.get_base64()}\n")


class DialStream:
    """A command on the host that connects its standard input and output with the agent's socket.

    `prelude` is what to say before the command's own words if it ends without an answer; `answered` is called
    at the first byte.
    """

    def __init__(
        self, channel: paramiko.Channel, command: str, prelude: str, answered: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._command = command
        self._prelude = prelude
        self._tell: Callable[[], None] | None = answered

    def sendall(self, data: bytes, /) -> None:
        """Write all of it."""
        self._channel.sendall(data)

    def recv(self, size: int, /) -> bytes:
        """Return some bytes, none at the end. Raises HostUnreachable if the command ended without any."""
        data = self._channel.recv(size)
        if self._tell is not None:
            if not data:
                said = self._channel.recv_stderr(2000).decode(errors="replace").strip()
                last = said.splitlines()[-1] if said else "it said nothing"
                raise HostUnreachable(
                    f"{self._prelude}`{self._command}` there ended without an answer: {last}"
                )
            self._tell()
            self._tell = None
        return data

    def settimeout(self, timeout: float | None, /) -> None:
        """Set how long `recv` and `sendall` may take."""
        self._channel.settimeout(timeout)

    def close(self) -> None:
        """End the command."""
        self._channel.close()


class _ProxyCommand(paramiko.ProxyCommand):
    """A proxy command that leaves no zombie."""

    def close(self) -> None:
        """End the command, and collect it; more than one thread of paramiko calls this."""
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                super().close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=2)

    def discard(self) -> None:
        """Close the pipes, once no thread of paramiko reads them any more."""
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


class SshTransport:
    """One SSH connection to a host, made at the first use and made again when it was lost."""

    def __init__(
        self, settings: SshSettings, path: str, *, config_file: str | None = "~/.ssh/config"
    ) -> None:
        self.settings = settings
        self.path = path
        self._config_file = config_file
        self._lock = threading.Lock()
        self._current: StreamlocalTransport | None = None
        self._resources = contextlib.ExitStack()  # what the connection is made of, to be closed
        self._streamlocal = not (settings.sudo and settings.user != "root")

    def describe(self) -> str:
        """Return the user, the address and the port."""
        return f"{self.settings.user}@{self.settings.address}:{self.settings.port}"

    def open(self, deadline: Deadline) -> Stream:
        """Return a new stream to the agent. Raises HostUnreachable."""
        with self._lock:
            connection = self._connection(deadline)
        try:
            if not self._streamlocal:
                return self._dial(connection, deadline, f"{self.describe()}: ")
            try:
                return connection.open_streamlocal(self.path, deadline.left())
            except paramiko.ChannelException as error:
                if error.code not in (_PROHIBITED, _CONNECT_FAILED, _UNKNOWN_TYPE):
                    raise
                # sshd gives the same reason whether the socket is not there or may not be forwarded to.
                prelude = f"{self.describe()} cannot connect to {self.path}, and "
                return self._dial(connection, deadline, prelude)
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise HostUnreachable(f"{self.describe()}: the SSH connection failed: {_told(error)}") from None

    def close(self) -> None:
        """End the connection."""
        with self._lock:
            self._release()

    def _dial(self, connection: paramiko.Transport, deadline: Deadline, prelude: str) -> Stream:
        command = f"mooring system dial-stdio --socket {shlex.quote(self.path)}"
        if self.settings.sudo and self.settings.user != "root":
            command = f"sudo -n {command}"
        channel = connection.open_session(timeout=deadline.left())
        channel.settimeout(deadline.left())
        channel.exec_command(command)
        return DialStream(channel, command, prelude, self._remember_dialling)

    def _remember_dialling(self) -> None:
        self._streamlocal = False

    def _connection(self, deadline: Deadline) -> StreamlocalTransport:
        if self._current is not None and self._current.is_active():
            return self._current
        self._release()
        hops = [jump_settings(hop, self.settings, self._config_file) for hop in self.settings.jump]
        way = [*hops, self.settings]
        with contextlib.ExitStack() as resources:
            client = _connected(way[0], None, deadline, resources)
            for settings in way[1:]:
                tunnel = _tunnel(client, settings, deadline)
                client = _connected(settings, tunnel, deadline, resources)
            transport = client.get_transport()
            if not isinstance(transport, StreamlocalTransport):
                raise HostUnreachable(f"{self.describe()}: the SSH connection was lost")
            self._resources = resources.pop_all()
        self._current = transport
        return transport

    def _release(self) -> None:
        self._current = None
        self._resources.close()


def _tunnel(client: paramiko.SSHClient, settings: SshSettings, deadline: Deadline) -> paramiko.Channel:
    transport = client.get_transport()
    if transport is None:
        raise HostUnreachable("the SSH connection to the jump host was lost")
    destination = (settings.address, settings.port)
    try:
        return transport.open_channel("direct-tcpip", destination, ("127.0.0.1", 0), timeout=deadline.left())
    except paramiko.SSHException as error:
        raise HostUnreachable(
            f"the jump host cannot reach {settings.address}:{settings.port}: {_told(error)}"
        ) from None


def _connected(
    settings: SshSettings,
    tunnel: paramiko.Channel | None,
    deadline: Deadline,
    resources: contextlib.ExitStack,
) -> paramiko.SSHClient:
    """Return a client that is logged in. Raises HostUnreachable with what to do about it."""
    through: Any = tunnel
    if through is None and settings.proxy_command:
        through = _ProxyCommand(_filled_proxy_command(settings))
        resources.callback(through.discard)
    where = f"{settings.user}@{settings.address}:{settings.port}"
    known = settings.known_hosts[0] if settings.known_hosts else "known_hosts"
    client = paramiko.SSHClient()
    resources.callback(client.close)
    _apply_host_keys(client, settings)
    timeout = min(settings.timeout, deadline.left())
    try:
        client.connect(
            settings.address,
            port=settings.port,
            username=settings.user,
            password=settings.password,
            key_filename=cast("str | None", list(settings.key_files) or None),  # a list is documented too
            allow_agent=not settings.keys_only and settings.password is None,
            look_for_keys=not settings.key_files and settings.password is None,
            timeout=timeout,
            banner_timeout=timeout,
            auth_timeout=timeout,
            channel_timeout=timeout,
            sock=through,
            transport_factory=StreamlocalTransport,
        )
    except _UnknownHostKey as error:
        raise HostUnreachable(
            f"the host key of {settings.address}:{settings.port} ({error}) is not in {known}: check it and "
            f"connect once with `ssh -p {settings.port} {settings.user}@{settings.address}`, or set "
            "StrictHostKeyChecking=accept-new in ansible_ssh_common_args"
        ) from None
    except paramiko.BadHostKeyException as error:
        raise HostUnreachable(
            f"the host key of {settings.address}:{settings.port} is not the one in {known}: it is now "
            f"{_UnknownHostKey(error.key)}; somebody may be in between, or the host was set up anew"
        ) from None
    except paramiko.AuthenticationException:
        tried = ", ".join(settings.key_files) or (
            "the password" if settings.password else "the keys of the SSH agent"
        )
        raise HostUnreachable(
            f"{where} refused the login with {tried}: check ansible_user and ansible_ssh_private_key_file"
        ) from None
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise HostUnreachable(f"{where} cannot be reached by SSH: {_told(error)}") from None
    transport = client.get_transport()
    if transport is not None:
        transport.set_keepalive(settings.keepalive)
    return client


def _apply_host_keys(client: paramiko.SSHClient, settings: SshSettings) -> None:
    if settings.host_keys == "no":
        client.set_missing_host_key_policy(_AcceptAny())
        return
    files = [Path(name).expanduser() for name in settings.known_hosts if name != "none"]
    for file in files:
        with contextlib.suppress(FileNotFoundError, PermissionError):
            client.load_system_host_keys(str(file))
    accepting = settings.host_keys == "accept-new" and files
    client.set_missing_host_key_policy(_AcceptNew(files[0]) if accepting else _Reject())


def _filled_proxy_command(settings: SshSettings) -> str:
    """Return the ProxyCommand with the tokens of ssh_config(5) filled in."""
    tokens = {
        "%": "%",
        "h": settings.address,
        "n": settings.address,
        "p": str(settings.port),
        "r": settings.user,
    }
    return re.sub(r"%(.)", lambda match: tokens.get(match[1], match[0]), settings.proxy_command or "")


def _told(error: BaseException) -> str:
    if isinstance(error, socket.gaierror):
        return f"its name is not known ({error.strerror})"
    if isinstance(error, paramiko.ssh_exception.NoValidConnectionsError):
        inner = next(iter(error.errors.values()))
        return str(getattr(inner, "strerror", None) or inner)
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
