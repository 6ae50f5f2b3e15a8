# SPDX-License-Identifier: Apache-2.0
"""What becomes of the agent, and of the host: no client of a published port notices the first, and after the
second everything is as it was declared.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.host import need_programs
from harness.waiting import PATIENCE, eventually
from integration.conftest import StartAgent
from integration.network.topology import HOST_OUTER, HOST_OUTER6, NamedNamespace, connected

from .test_shared_ports import joined
from .world import Load, World, server

pytestmark = [pytest.mark.root, pytest.mark.slow]


class Talk:
    """A connection that lives long: it says numbers, one after the other, and gets each back."""

    def __init__(self, world: World) -> None:
        self.count = 0
        self.failure = ""
        self._connection = world.outside.connect(HOST_OUTER, 8081)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def finish(self) -> int:
        """How many numbers came back; none may have been lost."""
        self._stop.set()
        self._thread.join(20 * PATIENCE)
        self._connection.close()
        assert not self.failure
        return self.count

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                text = b"%d\n" % self.count
                self._connection.sendall(text)
                answer = b""
                while not answer.endswith(b"\n"):
                    piece = self._connection.recv(100)
                    if not piece:
                        raise ConnectionError("it was ended")
                    answer += piece
                assert answer == text
                self.count += 1
        except (OSError, AssertionError) as error:
            self.failure = f"after {self.count} numbers: {error!r}"


class Replacing(threading.Thread):
    """A declaration, whether or not the agent lives to answer it."""

    def __init__(self, world: World, name: str, ports: list[str]) -> None:
        super().__init__(daemon=True)
        self._declare = lambda: world.put("web", server(name, ports=ports))
        self.start()

    def run(self) -> None:
        """Declare."""
        with suppress(OSError, HTTPException):
            self._declare()


@pytest.fixture(scope="module")
def versions(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two versions of the agent as one file."""
    directory = tmp_path_factory.mktemp("versions")
    older, newer = directory / "older.pyz", directory / "newer.pyz"
    subprocess.run([sys.executable, project_root / "script/zip_agent.py", older], check=True, timeout=100)
    shutil.copy(older, newer)
    with zipfile.ZipFile(newer, "a") as file:
        file.writestr("mooring_agent/newer.txt", "what makes this a newer version")
    return [older, newer]


@pytest.mark.timeout(600)
def test_agent_is_killed_restarted_and_upgraded_while_ports_switch(
    places: tuple[NamedNamespace, NamedNamespace],
    start_agent: StartAgent,
    tmp_path: Path,
    versions: list[Path],
) -> None:
    """The containers that are replaced have the port of short connections, and one beside them that of a
    long one, which goes on through it all.
    """
    need_programs("wrk")
    host, outside = places

    def program(version: Path) -> tuple[str, ...]:
        return ("nsenter", f"--net={host.path}", sys.executable, str(version))

    agent: AgentUnderTest = start_agent(program=program(versions[0]))
    world = World(host, outside, agent, tmp_path / "point")
    ports = ["8080:80"]
    try:
        world.put("talker", server("talker", ports=["8081:81"]))
        world.put("web", server("0", ports=ports))
        world.until_served("0")
        talk = Talk(world)
        with Load(outside) as load:
            for number in range(1, 5):
                replacing = Replacing(world, f"killed {number}", ports)
                replacing.join(0.3 * number)  # somewhere in the switch
                agent.kill9()
                replacing.join(20 * PATIENCE)
                agent.start()
                world.put("web", server(str(number), ports=ports))
                assert world.says() == str(number)
            agent.restart()
            world.put("web", server("restarted", ports=ports))
            keeper = agent.api("GET", "/mooring/v1/host")["keeper"]["pid"]
            for version, how in ((versions[1], agent.terminate), (versions[0], agent.kill9)):
                how()
                agent.program = program(version)
                agent.start()
                world.put("web", server(version.stem, ports=ports))
                assert world.says() == version.stem
            assert agent.api("GET", "/mooring/v1/host")["keeper"]["pid"] == keeper, "it replaces itself"
            answered, wrong = load.finish()
        assert wrong == []
        assert answered > 1000
        assert talk.finish() > 1000
        assert world.names() == ["talker", "web"]
    finally:
        world.end()


@pytest.fixture
def other_places() -> Iterator[tuple[NamedNamespace, NamedNamespace]]:
    """The host as it is after its next start, and the outside."""
    with connected() as made:
        yield made


def power_cut(agent: AgentUnderTest) -> None:
    """End every process of the agent, and take away what only memory holds."""
    agent.kill9()

    def gone() -> bool:
        agent.traces.sweep()
        return not agent.traces.remains()

    eventually(gone, what="all processes are gone")
    shutil.rmtree(agent.config.run_root)


def test_reboot_brings_all_back_as_declared(
    places: tuple[NamedNamespace, NamedNamespace],
    other_places: tuple[NamedNamespace, NamedNamespace],
    start_agent: StartAgent,
    tmp_path: Path,
) -> None:
    host, outside = places

    def program(host: NamedNamespace) -> tuple[str, ...]:
        return ("nsenter", f"--net={host.path}", sys.executable, "-m", "mooring_agent")

    agent: AgentUnderTest = start_agent(program=program(host))
    first = World(host, outside, agent, tmp_path / "point")
    agent.api("PUT", "/mooring/v1/networks/shop", {"ipv6": True, "rules": ["deny in tcp 25"]})
    agent.api("PUT", "/mooring/v1/networks/back", {"internal": True})
    restart = {"restart": "always", "networks": ["shop", "back"]}
    first.put("web", server("web", ports=["8080:80", "8081:81", "81", "9000:81/udp"], **restart))
    for name in ("aa", "bb"):
        shared = {"container": 80, "host": 8085, "balance": "round_robin"}
        first.put(name, server(name, ports=[shared], **restart))
    first.put("fixed", server("fixed", ports=[], **{**restart, "networks": [{"name": "back"}]}))
    first.until_served("web")
    names = ("web", "aa", "bb", "fixed")

    def seen(world: World) -> list[object]:
        views = [world.view(name) for name in names]
        networks = agent.api("GET", "/mooring/v1/networks")
        for network in networks:
            del network["names"]  # whose process is another one
        return [networks, *((view["ports"], view["networks"]) for view in views)]

    joined(first, "aa", "bb")
    before = seen(first)

    power_cut(agent)
    agent.program = program(other_places[0])
    agent.start()
    second = World(*other_places, agent, tmp_path / "point")
    try:
        eventually(lambda: all(second.view(name)["state"] == "running" for name in names), 30)
        second.until_served("web")
        assert second.says(address=HOST_OUTER6) == "web"
        joined(second, "aa", "bb")  # until one has, the port is closed
        eventually(lambda: {second.says(port=8085) for _ in range(4)} == {"aa", "bb"}, what="both share")
        assert seen(second) == before
        table = second.host.run("nft", "list", "table", "inet", f"{agent.config.nft_table}_rules")
        assert "deny in tcp 25" in table
        with pytest.raises(OSError, match="in use"), second.host.open_socket() as late:
            late.bind(("0.0.0.0", 8080))
    finally:
        second.end()
