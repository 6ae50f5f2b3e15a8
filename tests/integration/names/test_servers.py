# SPDX-License-Identifier: Apache-2.0
"""Name servers come, go and are found again, whoever is killed; and what is said where they cannot be."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from harness import dns
from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE, eventually, has_died
from integration.conftest import StartAgent
from integration.names.asking import (
    address,
    declare,
    finds,
    look_up,
    names_of,
    resolvers,
    run,
    served,
)

pytestmark = pytest.mark.root


def _kill(pid: int) -> None:
    """Kill a server, and wait until it is gone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: has_died(pid), what=f"the end of process {pid}")


@contextmanager
def _asking_all_the_while(
    container: dict[str, Any], server: str, name: str
) -> Iterator[tuple[list[dns.Answer], list[str]]]:
    """Ask again and again from within a container; the answers so far, and what was wrong of them."""
    wrong: list[str] = []
    asked: list[dns.Answer] = []
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.005):
            try:
                answer = dns.ask(made, server, name)
            except OSError as error:
                wrong.append(repr(error))
            else:
                asked.append(answer)
                if answer.code != dns.NOERROR or not answer.values:
                    wrong.append(repr(answer))

    with dns.inside(container["pid"]) as made:
        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield asked, wrong
        finally:
            over.set()
            thread.join(10.0 * PATIENCE)


@pytest.fixture
def agent(start_agent: StartAgent) -> AgentUnderTest:
    """An agent with the network `front`."""
    started = start_agent()
    declare(started, "front")
    return started


def test_answers_go_on_while_the_agent_is_killed_and_started_again(agent: AgentUnderTest) -> None:
    web, db = run(agent, "web", "front"), run(agent, "db", "front")
    pid = served(agent, "front")
    finds(agent, web, "db", address(db, "front"))

    with _asking_all_the_while(web, resolvers(agent, web)[0], "db") as (asked, wrong):
        agent.kill9()
        time.sleep(0.3)  # an agent that is away for a while
        agent.start()
        assert served(agent, "front") == pid
        agent.restart()
        assert served(agent, "front") == pid
        run(agent, "third", "front")
        finds(agent, web, "third", address(agent.api("GET", "/mooring/v1/containers/third"), "front"))

    assert wrong == []
    assert len(asked) > 20


def test_many_changes_leave_no_gap(agent: AgentUnderTest) -> None:
    web, db = run(agent, "web", "front"), run(agent, "db", "front")
    served(agent, "front")
    finds(agent, web, "db", address(db, "front"))
    with _asking_all_the_while(web, resolvers(agent, web)[0], "db") as (asked, wrong):
        for _ in range(20):
            for number in range(5):
                run(agent, f"n{number}", {"name": "front", "aliases": [f"n{number}.example.com"]})
            for number in range(5):
                agent.api("DELETE", f"/mooring/v1/containers/n{number}?force=true&timeout=0")
            if len(asked) > 20:  # however slow the asking is beside the changes
                break
    assert wrong == []
    assert len(asked) > 20


def test_what_ends_while_no_agent_is_there_is_forgotten_by_the_next(agent: AgentUnderTest) -> None:
    web, db = run(agent, "web", "front"), run(agent, "db", "front")
    served(agent, "front")
    finds(agent, web, "db", address(db, "front"))
    agent.kill9()
    _kill(db["pid"])
    agent.start()
    finds(agent, web, "db")
    finds(agent, web, "web", address(web, "front"))


def test_a_server_that_is_killed_is_started_again(agent: AgentUnderTest) -> None:
    web = run(agent, "web", "front")
    pid = served(agent, "front")
    _kill(pid)
    eventually(lambda: names_of(agent, "front")["pid"] not in (None, pid), what="another server")
    finds(agent, web, "web", address(web, "front"))
    again = served(agent, "front")
    _kill(again)
    eventually(lambda: names_of(agent, "front")["pid"] not in (None, pid, again), what="a third server")
    finds(agent, web, "web", address(web, "front"))


def test_a_server_that_was_killed_with_its_agent_is_started_by_the_next(agent: AgentUnderTest) -> None:
    both = run(agent, "both", "front", declare(agent, "back")["name"])
    served(agent, "front")
    run(agent, "web", "front")
    finds(agent, both, "both", *(address(both, network) for network in ("front", "back")))
    agent.kill9()
    for path in agent.config.run_root.glob("names/servers/*/pid"):
        _kill(int(path.read_text()))
    agent.start()
    finds(agent, both, "both", *(address(both, network) for network in ("front", "back")))


def test_a_server_whose_pid_is_not_written_gives_way_to_the_next_one(agent: AgentUnderTest) -> None:
    web = run(agent, "web", "front")
    pid = served(agent, "front")
    (written,) = agent.config.run_root.glob("names/servers/*/pid")
    agent.kill9()
    written.unlink()
    agent.start()
    eventually(lambda: names_of(agent, "front")["pid"] not in (None, pid), what="another server")
    finds(agent, web, "web", address(web, "front"))
    eventually(lambda: has_died(pid), 2.0, "the end of the former server")


def test_a_server_whose_pid_is_not_written_ends_with_its_network(agent: AgentUnderTest) -> None:
    run(agent, "web", "front")
    pid = served(agent, "front")
    (written,) = agent.config.run_root.glob("names/servers/*/pid")
    written.unlink()
    agent.api("DELETE", "/mooring/v1/containers/web?force=true&timeout=0")
    agent.api("DELETE", "/mooring/v1/networks/front")
    eventually(lambda: has_died(pid), 2.0, "the end of the server")


def test_servers_are_there_for_containers_that_run_only(agent: AgentUnderTest) -> None:
    declare(agent, "back")
    agent.docker("create", "--network", "front", "--name", "sleeps", "busybox", "true")
    assert names_of(agent, "back")["state"] == "idle"
    run(agent, "web", "back")
    pid = served(agent, "back")
    agent.api("DELETE", "/mooring/v1/containers/web?force=true&timeout=0")
    agent.api("DELETE", "/mooring/v1/networks/back")
    eventually(lambda: has_died(pid), 2.0, "the end of the server")
    assert not list(agent.config.run_root.glob(f"names/*/{names_of_bridge(agent, 'front')}/hosts/*"))


def names_of_bridge(agent: AgentUnderTest, network: str) -> str:
    """The network's bridge."""
    return str(agent.api("GET", f"/mooring/v1/networks/{network}")["bridge"])


def test_a_server_that_nobody_needs_ends(agent: AgentUnderTest) -> None:
    run(agent, "web", "front")
    pid = served(agent, "front")
    agent.api("DELETE", "/mooring/v1/containers/web?force=true&timeout=0")
    agent.restart()
    eventually(lambda: has_died(pid), 2.0, "the end of the server")
    assert names_of(agent, "front")["state"] == "idle"


@pytest.mark.parametrize("spec", [{}, {"ipv4": False, "ipv6": True}])
def test_a_port_that_is_taken_is_told_and_containers_ask_the_hosts_resolvers(
    agent: AgentUnderTest, spec: dict[str, bool]
) -> None:
    network = declare(agent, "front", **spec)
    gateway = network["gateway"] or network["gateway6"]
    family, kind = (socket.AF_INET6, "AAAA") if ":" in gateway else (socket.AF_INET, "A")
    with socket.socket(family) as stream, socket.socket(family, socket.SOCK_DGRAM) as datagrams:
        stream.bind((gateway, 53))
        stream.listen()
        datagrams.bind((gateway, 53))
        web = run(agent, "web", "front")
        # It is tried again at once, and has no problem meanwhile.
        problem = eventually(lambda: names_of(agent, "front")["problem"], what="a failure")
        comm = Path("/proc/self/comm").read_text().strip()
        assert f"port 53 of {gateway} is taken by {comm} (process {os.getpid()})" in problem
        eventually(lambda: resolvers(agent, web) != [gateway], what="the host's resolvers")
    eventually(lambda: resolvers(agent, web) == [gateway], 40.0, what="the network's own server")
    own = web["networks"]["front"]["ipv4_address"] or web["networks"]["front"]["ipv6_address"]
    eventually(lambda: look_up(agent, web, "web", kind).values == (own,), what="its own name")
    assert names_of(agent, "front")["problem"] is None


@pytest.mark.parametrize("damage", ["delete table inet TABLE", "flush map inet TABLE views"])
def test_who_is_led_to_its_own_server_stays_so_whoever_changes_the_table(
    agent: AgentUnderTest, damage: str
) -> None:
    declare(agent, "back")
    db, both = run(agent, "db", "back"), run(agent, "both", "front", "back")
    finds(agent, both, "db", address(db, "back"))
    _nft("nft", *damage.replace("TABLE", f"{agent.config.nft_table}_names").split())
    finds(agent, both, "db", address(db, "back"))
    what = f"nftables table {agent.config.nft_table}_names of names"
    eventually(lambda: what in agent.log_tail(), what="the repair in the log")


def test_without_dnsmasq_containers_start_as_ever(start_agent: StartAgent) -> None:
    hidden = 'mount --bind /dev/null /usr/sbin/dnsmasq && exec "$@"'
    program = ("unshare", "--mount", "sh", "-c", hidden, "sh", sys.executable, "-m", "mooring_agent")
    agent = start_agent(program=program)
    gateway = declare(agent, "front")["gateway"]
    web = run(agent, "web", "front")

    view = names_of(agent, "front")
    assert view["state"] == "failed"
    assert "install the package dnsmasq-base" in view["problem"]
    assert "install the package dnsmasq-base" in agent.log_tail()
    assert resolvers(agent, web) != [gateway]

    assert agent.process is not None
    enter = ["nsenter", f"--mount=/proc/{agent.process.pid}/ns/mnt"]
    subprocess.run([*enter, "umount", "/usr/sbin/dnsmasq"], check=True, timeout=10)
    other = run(agent, "other", "front")
    served(agent, "front")
    finds(agent, other, "web", address(web, "front"))
    eventually(lambda: resolvers(agent, web) == [gateway], what="the network's own server")


def test_a_firewall_in_the_way_is_told_and_gone_round(start_agent: StartAgent) -> None:
    program = ("unshare", "--net", sys.executable, "-m", "mooring_agent")
    agent = start_agent(program=program)
    assert agent.process is not None
    gateway = declare(agent, "front")["gateway"]
    enter = ("nsenter", f"--net=/proc/{agent.process.pid}/ns/net", "nft")
    _nft(*enter, "add table inet strict")
    _nft(*enter, "add chain inet strict input { type filter hook input priority 0; policy drop; }")

    web = run(agent, "web", "front")
    eventually(lambda: "chain inet strict input" in (names_of(agent, "front")["problem"] or ""))
    assert "th dport '{ 53, 67 }' accept" in names_of(agent, "front")["problem"]
    eventually(lambda: resolvers(agent, web) != [gateway], what="the host's resolvers")

    _nft(*enter, f'insert rule inet strict input iifname "{agent.config.bridge_prefix}*" accept')
    eventually(lambda: resolvers(agent, web) == [gateway], 40.0, what="the network's own server")
    assert look_up(agent, web, "web").values == (address(web, "front"),)


def test_a_firewall_of_ipv6_is_in_the_way_of_who_asks_over_ipv6(start_agent: StartAgent) -> None:
    agent = start_agent(program=("unshare", "--net", sys.executable, "-m", "mooring_agent"))
    assert agent.process is not None
    gateway = declare(agent, "front", ipv6=True)["gateway"]
    gateway6 = declare(agent, "six", ipv4=False, ipv6=True)["gateway6"]
    both, six = run(agent, "both", "front"), run(agent, "six", "six")
    eventually(lambda: resolvers(agent, six) == [gateway6], what="the network's own server")
    enter = ("nsenter", f"--net=/proc/{agent.process.pid}/ns/net", "nft")
    _nft(*enter, "add table ip6 strict")
    _nft(*enter, "add chain ip6 strict input { type filter hook input priority 0; policy drop; }")

    eventually(lambda: "chain ip6 strict input" in (names_of(agent, "six")["problem"] or ""))
    eventually(lambda: resolvers(agent, six) != [gateway6], what="the host's resolvers")
    assert names_of(agent, "front")["problem"] is None
    assert resolvers(agent, both) == [gateway]
    _nft(*enter, "delete table ip6 strict")
    eventually(lambda: resolvers(agent, six) == [gateway6], what="the network's own server again")


def _nft(*argv: str) -> None:
    subprocess.run(argv, check=True, timeout=10, capture_output=True)


def test_a_host_that_is_torn_down_keeps_no_server(agent: AgentUnderTest) -> None:
    declare(agent, "back")
    run(agent, "both", "front", "back")
    pids = [served(agent, "front"), served(agent, "back")]
    agent.api("POST", "/mooring/v1/host/down")
    assert agent.process is not None
    assert agent.process.wait(20.0 * PATIENCE) == 0
    agent.process = None
    for pid in pids:
        eventually(lambda pid=pid: has_died(pid), 2.0, "the end of a server")
    assert not list(agent.config.run_root.glob("names/servers/*"))
