# SPDX-License-Identifier: Apache-2.0
"""A running keeper gets hostile packets and descriptors: it lives on, keeps its containers, loses nothing."""

from __future__ import annotations

import json
import os
import random
import select
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from multiprocessing.connection import wait
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE, eventually, has_died
from mooring_agent.keeper import messages

from .mutation import STRANGE, as_bytes, mutated

pytestmark = pytest.mark.root

SECONDS = 10.0 * PATIENCE
SHAPE = {"namespaces": ["mnt", "pid", "uts", "ipc"], "groups": [], "standard": True}
PLAN = {
    "id": "x",
    "group": "x",
    "root": {"op": "BindRoot", "source": "/no-such-directory"},
    "process": {"args": ["/no-such-program"], "env": [], "cwd": "/", "capabilities": {}},
}


def _messages(box: str) -> list[list[Any]]:
    log = {"log_directory": "/no-such-directory/log", "log_size": 0, "log_files": 3}
    return [
        ["Hello", 1, {"protocol": messages.PROTOCOL, "version": "x", "pid": 1, "guardian": 2}],
        ["Configure", 2, {"shape": SHAPE, "size": 0}],
        ["Acquire", 3, {"shape": SHAPE}],
        ["Release", 4, {"slot": "slot-1-1"}],
        ["Launch", 5, {"slot": "slot-1-1", "id": "x", "terminal": False, "stdin": False, **log}],
        [
            "Exec",
            6,
            {"id": "e", "container": box, **dict.fromkeys(("terminal", "stdin", "stdout", "stderr"), True)},
        ],
        ["Signal", 7, {"id": "no-such", "number": 9}],
        ["Resize", 8, {"id": box, "rows": 24, "columns": 80}],
        ["Streams", 9, {"id": box}],
        ["CloseStdin", 10, {"id": box}],
        ["SetLog", 11, {"id": box, "log_size": 1 << 20, "log_files": 3}],
        ["Inventory", 12, {}],
        ["Forget", 13, {"id": "no-such"}],
        ["Upgrade", 14, {"command": ["x"], "states": [1]}],
        ["Slot", 15, {"slot": "x", "pid": 1}],
        ["Exited", 16, {"id": box, "exit_code": 0, "known": True, "finished_at": 1.0}],
    ]


class Stranger:
    """A connection to the keeper of somebody who keeps to no rule."""

    def __init__(self, agent: AgentUnderTest) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(SECONDS)
        self._socket.connect(str(agent.config.run_root / "keeper/socket"))

    def close(self) -> None:
        self._socket.close()

    def send(self, packet: bytes, descriptors: list[int]) -> None:
        if descriptors:
            socket.send_fds(self._socket, [packet], descriptors)
        else:
            self._socket.send(packet)

    def drain(self) -> list[bytes]:
        """Take what has come."""
        found = []
        while wait([self._socket], 0):
            packet, descriptors, _, _ = socket.recv_fds(self._socket, messages.PACKET_MAX, 8)
            for descriptor in descriptors:
                os.close(descriptor)
            if not packet:
                raise ConnectionResetError
            found.append(packet)
        return found

    def ask(self, name: str, **fields: Any) -> tuple[str, dict[str, Any]]:
        """Ask something and wait for its answer, past all others."""
        number = random.SystemRandom().randrange(1 << 40, 1 << 50)
        self._socket.send(json.dumps([name, number, fields]).encode())
        while True:
            packet, descriptors, _, _ = socket.recv_fds(self._socket, messages.PACKET_MAX, 8)
            for descriptor in descriptors:
                os.close(descriptor)
            kind, seq, answer = json.loads(packet)
            if seq == number:
                return kind, answer


@contextmanager
def _descriptors(dice: random.Random) -> Iterator[list[int]]:
    """Some descriptors that are not what is expected: none, empty, endless, or not to be read at all."""
    given: list[int] = []
    for _ in range(dice.choice((0, 0, 1, 1, 2, 8))):
        kind = dice.randrange(7)
        if kind == 0:
            given.append(os.open("/dev/null", os.O_RDWR))
        elif kind == 1:
            given.append(os.open("/dev/zero", os.O_RDONLY | os.O_PATH))
        elif kind == 2:
            given.extend(os.pipe())
        elif kind == 3:
            given.append(os.open("/", os.O_RDONLY | os.O_DIRECTORY))
        elif kind == 4:
            given.append(select.epoll().detach() if hasattr(select.epoll, "detach") else os.eventfd(0))
        elif kind == 5:
            given.append(messages.memory_file(dice.randbytes(dice.randrange(100))))
        else:
            given.append(messages.memory_file(as_bytes(mutated(PLAN, dice.randbytes(3)))))
    given = given[:8]
    try:
        yield given
    finally:
        for descriptor in given:
            os.close(descriptor)


def _packet(valid: list[list[Any]], dice: random.Random) -> bytes:
    chance = dice.random()
    if chance < 0.05:
        return dice.randbytes(dice.randrange(1, 400))
    if chance < 0.1:
        return as_bytes(dice.choice(STRANGE))[:60000] or b" "
    document = mutated(dice.choice(valid), dice.randbytes(3 * dice.choice((0, 1, 1, 2))))
    if isinstance(document, list) and document[:1] == ["Configure"] and isinstance(document[-1], dict):
        document[-1]["size"] = dice.choice((0, -1, "1", None, 0.5, True))  # a large one is obeyed
    packet = as_bytes(document)
    return packet if len(packet) < 60000 else packet[:60000]


@pytest.mark.parametrize("seed", range(4))
def test_the_keeper_survives_what_it_is_sent(agent: AgentUnderTest, box: str, seed: int) -> None:
    """Each packet is answered or not; the keeper, its container and its other clients are unharmed."""
    dice = random.Random(seed)
    before = agent.keeper_pids()
    valid = _messages(agent.api("GET", f"/mooring/v1/containers/{box}")["id"])
    opened = _open_descriptors(before[0])
    stranger = Stranger(agent)
    for number in range(150):
        try:
            with _descriptors(dice) as given:
                stranger.send(_packet(valid, dice), given)
            stranger.drain()
        except (ConnectionError, BrokenPipeError):
            stranger.close()
            stranger = Stranger(agent)
        if number % 30 == 29:
            stranger.close()
            stranger = Stranger(agent)
    kind, answer = stranger.ask("Hello", protocol=messages.PROTOCOL, version="x")
    stranger.close()
    assert kind == "Hello"
    assert (answer["pid"], answer["guardian"]) == before
    told = agent.api("POST", f"/mooring/v1/containers/{box}/exec", {"argv": ["echo", "alive"]})
    assert told["stdout"] == "alive\n"
    eventually(lambda: _open_descriptors(before[0]) <= opened + 12, what="the descriptors' end")


def _open_descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_launchers_report_what_is_wrong_with_their_plan(agent: AgentUnderTest) -> None:
    """A launcher that gets a hostile plan says so, and is gone; nothing of it is left."""
    dice = random.Random(7)
    with closing(Stranger(agent)) as stranger:
        _refuse_plans(agent, stranger, dice)
        kind, _ = stranger.ask("Hello", protocol=messages.PROTOCOL, version="x")
        assert kind == "Hello"


def _refuse_plans(agent: AgentUnderTest, stranger: Stranger, dice: random.Random) -> None:
    for number in range(25):
        kind, slot = stranger.ask("Acquire", shape=SHAPE)
        assert kind == "Slot", slot
        plan = messages.memory_file(as_bytes(mutated(PLAN, dice.randbytes(3 * (number % 3)))))
        fields = {
            "slot": slot["slot"],
            "id": f"hostile-{number}",
            "terminal": False,
            "stdin": False,
            "log_directory": str(agent.config.data_root / "hostile"),
            "log_size": 0,
            "log_files": 3,
        }
        stranger.send(json.dumps(["Launch", 1, fields]).encode(), [plan])
        os.close(plan)

        def failed() -> bool:
            return any(b'"Failed"' in packet for packet in stranger.drain())

        eventually(failed, what=f"the answer to plan {number}")
        pid = slot["pid"]
        eventually(lambda pid=pid: has_died(pid), what=f"the end of launcher {number}")
