# SPDX-License-Identifier: Apache-2.0
"""Agents behind a real sshd. The agent itself is the stand-in: what is tested is the way to it."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.waiting import PATIENCE
from integration.kernel.sshd import Sshd
from mooring_kernel.core.client import Client
from mooring_kernel.core.errors import HostUnreachable, ShellEnded
from mooring_kernel.core.inventory import InventoryHost
from mooring_kernel.core.output import CellOutput
from mooring_kernel.core.shell import ShellSession
from mooring_kernel.core.ssh import SshTransport
from mooring_kernel.core.ssh_settings import settings_of
from unit.kernel.recorder import Recorder
from unit.kernel.shell_bench import Shell
from unit.kernel.stand_in import StandIn

pytestmark = pytest.mark.root  # sshd lets only root log in as whoever runs the tests

Reach = Callable[..., Client]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    sshd = Sshd(tmp_path_factory.mktemp("sshd"))
    yield sshd
    sshd.close()


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    """A server that forwards no sockets."""
    sshd = Sshd(tmp_path_factory.mktemp("sshd"), "AllowStreamLocalForwarding no")
    yield sshd
    sshd.close()


@pytest.fixture
def reach(stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Reach]:
    """A function that returns the client of a host; variables may be given over those that it needs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    clients = []

    def make(server: Sshd, arguments: str | None = None, **variables: object) -> Client:
        if arguments is None:
            arguments = f"-o UserKnownHostsFile={server.known_hosts()}"
        given = {
            "ansible_host": "127.0.0.1",
            "ansible_port": server.port,
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(server.client_key),
            "ansible_ssh_common_args": arguments,
            "mooring_socket": str(stand_in.path),
            **variables,
        }
        host = InventoryHost("far", (), given)
        clients.append(Client("far", SshTransport(settings_of(host), str(given["mooring_socket"]))))
        return clients[-1]

    yield make
    while clients:
        clients.pop().close()


def problem(client: Client) -> str:
    with pytest.raises(HostUnreachable) as caught:
        client.get_host(timeout=10 * PATIENCE)
    return str(caught.value)


def test_calls_go_to_the_socket_on_the_other_side(reach: Reach, server: Sshd) -> None:
    client = reach(server)
    assert client.get_host().name == "stand-in"
    assert [container.name for container in client.containers()] == ["web1", "db"]


def test_calls_at_the_same_time_share_one_connection(reach: Reach, server: Sshd) -> None:
    client = reach(server)
    accepted = server.log.read_text().count("Accepted publickey")
    names: list[str] = []
    threads = [threading.Thread(target=lambda: names.append(client.get_host().name)) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20 * PATIENCE)
    assert names == ["stand-in"] * 12
    assert server.log.read_text().count("Accepted publickey") == accepted + 1


def test_a_shell_works_as_it_does_at_home(reach: Reach, server: Sshd) -> None:
    session = ShellSession.open(reach(server), "web1")
    display = Recorder()
    assert session.run("x=1; echo hello; (exit 3)", CellOutput(display), None).status == 3
    assert session.run(f"echo $x; echo '{'y' * 300_000}' | wc -c", CellOutput(display), None).status == 0
    assert display.stdout() == "hello\n1\n300001\n"
    assert Shell(session).interrupted_after(0.4, "sleep 30").interrupted
    display = Recorder()
    assert (
        session.run(
            f"yes {'z' * 70} | head -c 3000000 | tee sum | tail -c 5; cksum sum", CellOutput(display), None
        ).status
        == 0
    )
    assert display.stdout().startswith("zzz")
    session.close()


def test_an_unknown_host_key_is_refused_with_its_fingerprint(
    reach: Reach, server: Sshd, tmp_path: Path
) -> None:
    missing = tmp_path / "none"
    text = problem(reach(server, f"-o UserKnownHostsFile={missing} -o GlobalKnownHostsFile=/dev/null"))
    assert text.startswith(f"host far: the host key of 127.0.0.1:{server.port} (ssh-ed25519 SHA256:")
    assert (
        f"is not in {missing}: check it and connect once with `ssh -p {server.port} root@127.0.0.1`" in text
    )


def test_a_changed_host_key_is_refused(reach: Reach, server: Sshd) -> None:
    text = problem(reach(server, f"-o UserKnownHostsFile={server.known_hosts(server.other_key)}"))
    assert "is not the one in" in text
    assert "somebody may be in between" in text


def test_without_checking_any_host_key_will_do(reach: Reach, server: Sshd) -> None:
    arguments = f"-o StrictHostKeyChecking=no -o UserKnownHostsFile={server.known_hosts(server.other_key)}"
    assert reach(server, arguments).get_host().name == "stand-in"


def test_new_host_keys_can_be_remembered(reach: Reach, server: Sshd, tmp_path: Path) -> None:
    arguments = f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={tmp_path}/sub/known"
    assert reach(server, arguments).get_host().name == "stand-in"
    assert (tmp_path / "sub/known").read_text().startswith(f"[127.0.0.1]:{server.port} ssh-ed25519 ")
    assert reach(server, f"-o UserKnownHostsFile={tmp_path}/sub/known").get_host().name == "stand-in"


def test_a_refused_login_names_the_user_and_the_key(reach: Reach, server: Sshd) -> None:
    text = problem(reach(server, ansible_ssh_private_key_file=str(server.other_key)))
    assert text == (
        f"host far: root@127.0.0.1:{server.port} refused the login with {server.other_key}: "
        "check ansible_user and ansible_ssh_private_key_file"
    )


def test_a_port_where_nobody_listens(reach: Reach, server: Sshd) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        text = problem(reach(server, ansible_port=port))
    assert text == f"host far: root@127.0.0.1:{port} cannot be reached by SSH: Connection refused"


def test_a_port_where_somebody_else_answers_nothing(reach: Reach, server: Sshd) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        client = reach(server, "-o ConnectTimeout=1", ansible_port=silent.getsockname()[1])
        assert "cannot be reached by SSH: " in problem(client)


def test_a_name_that_nobody_knows(reach: Reach, server: Sshd) -> None:
    assert "cannot be reached by SSH: its name is not known" in problem(
        reach(server, ansible_host="no.such.invalid")
    )


def test_a_socket_that_is_not_there(reach: Reach, server: Sshd, strict: Sshd, tmp_path: Path) -> None:
    command = f"mooring system dial-stdio --socket {tmp_path}/none"
    for each in (server, strict):
        text = problem(reach(each, mooring_socket=f"{tmp_path}/none"))
        where = f"host far: root@127.0.0.1:{each.port} cannot connect to {tmp_path}/none"
        assert text.startswith(f"{where}, and `{command}` there ended without an answer: ")
        assert "none" in text.partition("without an answer: ")[2]


def test_where_sockets_are_not_forwarded_a_command_carries_the_stream(reach: Reach, strict: Sshd) -> None:
    client = reach(strict)
    assert client.get_host().name == "stand-in"
    session = ShellSession.open(client, "web1")
    display = Recorder()
    assert session.run(f"echo '{'y' * 100_000}' | wc -c; echo end", CellOutput(display), None).status == 0
    assert display.stdout() == "100001\nend\n"
    session.close()


def test_a_lost_connection_is_made_again(reach: Reach, server: Sshd) -> None:
    client = reach(server)
    assert client.get_host().name == "stand-in"
    transport = client.transport
    assert isinstance(transport, SshTransport)
    connection = transport._current
    assert connection is not None
    connection.sock.close()
    connection.join(10)
    assert client.get_host().name == "stand-in"


def test_a_lost_connection_ends_the_shell_with_words(reach: Reach, server: Sshd) -> None:
    client = reach(server)
    session = ShellSession.open(client, "web1")
    transport = client.transport
    assert isinstance(transport, SshTransport)
    connection = transport._current
    assert connection is not None
    threading.Timer(0.5, connection.sock.close).start()
    with pytest.raises(ShellEnded, match=r"connection .*lost.*; `%attach far/web1` opens a new one"):
        session.run("sleep 20", CellOutput(Recorder()), None)


def test_a_way_through_another_host(reach: Reach, server: Sshd, strict: Sshd) -> None:
    known = server.directory / "both"
    known.write_text(server.known_hosts().read_text() + strict.known_hosts().read_text())
    (strict.directory / "authorized_keys").write_text(Path(f"{server.client_key}.pub").read_text())
    jump = reach(server, f"-J root@127.0.0.1:{strict.port} -o UserKnownHostsFile={known}")
    assert jump.get_host().name == "stand-in"
    assert "Accepted publickey" in strict.log.read_text()
    (strict.directory / "authorized_keys").write_text(Path(f"{strict.client_key}.pub").read_text())


# One process, which ends with either side: of a shell with two of them one would be left.
PROXY = """
import os, select, socket, sys
server = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)
while True:
    ready, _, _ = select.select([0, server], [], [], 60)
    piece = (server.recv(65536) if server in ready else os.read(0, 65536)) if ready else b""
    if not piece:
        break
    if server in ready:
        os.write(1, piece)
    else:
        server.sendall(piece)
"""


def test_a_way_through_a_command(reach: Reach, server: Sshd) -> None:
    script = server.directory / "proxy.py"
    script.write_text(PROXY)
    proxy = f"{sys.executable} {script} %h %p"
    arguments = f'-o UserKnownHostsFile={server.known_hosts()} -o "ProxyCommand={proxy}"'
    assert reach(server, arguments).get_host().name == "stand-in"
