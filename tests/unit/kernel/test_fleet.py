# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import socket
import threading
import time
from pathlib import Path

import pytest

from harness.waiting import PATIENCE
from mooring_kernel.core.client import Client
from mooring_kernel.core.errors import ApiError, HostUnreachable, UsageError
from mooring_kernel.core.fleet import Fleet
from mooring_kernel.core.inventory import parse_inventory
from mooring_kernel.core.transport import LocalTransport
from unit.kernel.stand_in import StandIn


def fleet_of(text: str) -> Fleet:
    return Fleet.of(parse_inventory(text, Path("/fleet/hosts.yml")))


def local(name: str, socket_path: object) -> str:
    return f"    {name}: {{ansible_connection: local, mooring_socket: '{socket_path}'}}\n"


def test_hosts_that_do_not_answer_are_entries_with_their_error(agent: StandIn, tmp_path: Path) -> None:
    refusing = tmp_path / "refusing"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(refusing))
    fleet = fleet_of(
        "all:\n  hosts:\n"
        + local("good", agent.path)
        + local("missing", tmp_path / "nowhere")
        + local("refusing", refusing)
        + "    strange: {ansible_connection: winrm}\n"
    )
    answers = {answer.host: answer for answer in fleet.ask(Client.get_host)}
    assert list(answers) == ["good", "missing", "refusing", "strange"]
    assert answers["good"].value is not None
    assert answers["good"].value.name == "stand-in"
    assert str(answers["missing"].error) == (
        f"host missing: there is no socket {tmp_path}/nowhere: start `mooring agent` there, or set "
        "mooring_socket to its socket"
    )
    assert "nothing listens on" in str(answers["refusing"].error)
    assert "ansible_connection is 'winrm'" in str(answers["strange"].error)
    assert fleet.warnings == (str(answers["strange"].error),)


def test_a_host_that_hangs_holds_up_nobody(agent: StandIn, tmp_path: Path) -> None:
    hanging = tmp_path / "hanging"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(hanging))
        listener.listen()
        fleet = fleet_of("all:\n  hosts:\n" + local("good", agent.path) + local("hanging", hanging))
        began = time.monotonic()
        limit = 0.5 * PATIENCE  # the other one answers by then
        answers = fleet.ask(lambda client: client.get_host(timeout=limit), deadline=5 * PATIENCE)
        assert time.monotonic() - began < 3 * PATIENCE
        assert [answer.error is None for answer in answers] == [True, False]
        assert str(answers[1].error) == f"host hanging: no answer within {limit:g} s"
        late = fleet.ask(lambda client: client.get_host(timeout=2.0), deadline=0.3)
        assert str(late[1].error) == "no answer within 0.3 s"


def test_hosts_are_asked_at_the_same_time(agent: StandIn) -> None:
    fleet = fleet_of("all:\n  hosts:\n" + "".join(local(f"h{number}", agent.path) for number in range(20)))
    together = threading.Barrier(20)

    def question(client: Client) -> str:
        together.wait(10 * PATIENCE)
        return client.get_host().name

    assert [answer.value for answer in fleet.ask(question)] == ["stand-in"] * 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_bug_in_a_question_is_no_silence(agent: StandIn) -> None:
    fleet = fleet_of("all:\n  hosts:\n" + local("h", agent.path))
    (answer,) = fleet.ask(lambda client: [][0])
    assert str(answer.error) == "the question failed, see the kernel's log"


def test_an_unknown_host_is_named_with_the_nearest() -> None:
    fleet = fleet_of("all: {hosts: {web1: {}, web2: {}}}")
    with pytest.raises(
        UsageError, match=r"the fleet of /fleet/hosts.yml has no host 'wbe1': did you mean web1\?"
    ):
        fleet.client("wbe1")
    with pytest.raises(UsageError, match="has no host 'x': it has web1, web2"):
        fleet.client("x")


def test_what_the_agent_refuses_is_told_in_its_words(client: Client, agent: StandIn) -> None:
    with pytest.raises(ApiError) as caught:
        client.container("nothing")
    assert (str(caught.value), caught.value.status, caught.value.code) == (
        "here: no such container: nothing",
        404,
        "x",
    )


def test_an_answer_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "odd"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            for answer in (
                b"hello\r\n\r\n",
                b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{",
                b"HTTP/1.1 500 No\r\n\r\nboom",
            ):
                connection, _ = listener.accept()
                connection.recv(65536)
                connection.sendall(answer)
                connection.close()

        server = threading.Thread(target=serve)
        server.start()
        client = Client("odd", LocalTransport(str(path)))
        with pytest.raises(
            HostUnreachable, match="host odd: its agent's answer cannot be read: it begins with 'hello'"
        ):
            client.get_host()
        with pytest.raises(HostUnreachable, match="host odd: its agent's answer is not JSON"):
            client.get_host()
        with pytest.raises(ApiError, match="odd: GET /mooring/v1/host was answered with 500 boom"):
            client.get_host()
        server.join(5)
