# SPDX-License-Identifier: GPL-3.0-or-later
"""The way from the controller to an agent's socket: the socket itself, or one forwarded by ssh.

Over SSH the master connection that Ansible keeps (ControlPersist) is asked once to forward the agent's socket
to a local one beside the control socket, in a directory that only this user can enter. Later tasks find it
there and start no process at all; when the master ends, so does the forwarding, and the next task asks the
new one.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ansible.plugins.action import ActionBase
from ansible.plugins.connection import ConnectionBase
from ansible.utils.display import Display
from ansible.utils.path import unfrackpath
from ansible_collections.mooring.fleet.plugins.module_utils.client import AgentUnreachable, Client

# sun_path of unix(7), its final NUL not counted
LONGEST_SOCKET_PATH = 107
FORWARD_SECONDS = 30

display = Display()

# Of this worker process, which serves all items of a loop: clients by their socket, and sockets that it
# cannot reach.
_clients: dict[tuple[str, int], Client] = {}
_out_of_reach: set[str] = set()


def reach(action: ActionBase, path: str, timeout: int) -> Client | None:
    """Return a client of the agent whose socket is `path` on the host, or None if the module has to go
    there."""
    transport = action._connection.transport
    if transport == "local":
        return _client(path, path, timeout)
    if transport != "ssh":
        return None
    local = _forwarded_path(action._connection, path)
    if local is None or local in _out_of_reach:
        return None
    client = _client(local, path, timeout) or _forward(action, local, path, timeout)
    if client is None:
        _out_of_reach.add(local)
    return client


def forget(client: Client) -> None:
    """Connect anew for the next task."""
    client.close()
    for key in [key for key, known in _clients.items() if known is client]:
        del _clients[key]


def _client(local: str, path: str, timeout: int) -> Client | None:
    key = (local, timeout)
    if key not in _clients:
        client = Client(local, timeout, name=path)
        try:
            client.ping()
        except AgentUnreachable as error:
            display.vvv(f"mooring: {error.message}")
            return None
        _clients[key] = client
    return _clients[key]


def _forwarded_path(connection: ConnectionBase, path: str) -> str | None:
    """Return where the agent's socket is, or will be, on the controller."""
    directory = unfrackpath(connection.get_option("control_path_dir"))
    os.makedirs(directory, mode=0o700, exist_ok=True)
    command = _ssh(connection, "check")
    if not any(b"controlpath" in argument.lower() for argument in command):
        return None
    digest = hashlib.sha256(b"\0".join([*command, path.encode()])).hexdigest()[:16]
    local = os.path.join(directory, f"mooring-{digest}")
    return local if len(os.fsencode(local)) <= LONGEST_SOCKET_PATH else None


def _ssh(connection: ConnectionBase, operation: str, *arguments: str) -> list[bytes]:
    """Return the command that asks the master of a connection for something."""
    host = connection.get_option("host") or connection._play_context.remote_addr
    executable = connection.get_option("ssh_executable")
    command: list[bytes] = connection._build_command(executable, "ssh", "-O", operation, *arguments, host)
    # The master has logged in already: no password goes to this command, nor the program that would pass it
    # on.
    if getattr(connection, "sshpass_pipe", None):
        for descriptor in connection.sshpass_pipe:
            os.close(descriptor)
        connection.sshpass_pipe = None
    return command[command.index(os.fsencode(executable)) :]


def _forward(action: ActionBase, local: str, path: str, timeout: int) -> Client | None:
    with _alone(local):
        client = _client(local, path, timeout)
        if client is not None:
            return client
        with suppress(FileNotFoundError):
            os.unlink(local)
        forwarding = f"{local}:{path}"
        if not _ask(action._connection, "forward", forwarding):
            # No master yet: any command makes one, and an unreachable host is reported as for any other
            # module.
            action._low_level_execute_command(":", sudoable=False)
            if not _ask(action._connection, "forward", forwarding):
                return None
        client = _client(local, path, timeout)
        if client is None:
            _ask(action._connection, "cancel", forwarding)
            with suppress(FileNotFoundError):
                os.unlink(local)
        return client


def _ask(connection: ConnectionBase, operation: str, forwarding: str) -> bool:
    command = _ssh(connection, operation, "-L", forwarding)
    try:
        answer = subprocess.run(
            command, check=False, stdin=subprocess.DEVNULL, capture_output=True, timeout=FORWARD_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        display.vvv(f"mooring: ssh -O {operation} failed: {error}")
        return False
    if answer.returncode != 0:
        display.vvv(f"mooring: ssh -O {operation}: {answer.stderr.decode(errors='replace').strip()}")
    return answer.returncode == 0


@contextmanager
def _alone(local: str) -> Iterator[None]:
    """Keep out the other workers that want the same socket forwarded."""
    descriptor = os.open(f"{local}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
