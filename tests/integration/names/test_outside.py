# SPDX-License-Identifier: Apache-2.0
"""Names of the outside: by the host's resolvers, on loopback too and as they change, or by one's own."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from harness import dns
from harness.agent import AgentUnderTest
from harness.waiting import eventually
from integration.conftest import StartAgent
from integration.names.asking import (
    address,
    declare,
    finds,
    look_up,
    names_of,
    resolv_conf,
    resolvers,
    run,
    served,
)

pytestmark = pytest.mark.root

# An agent that has an /etc of its own, which only it and the test see.
_OWN_ETC = (
    'mount -t tmpfs etc "$0" && mkdir "$0/u" "$0/w" && '
    'mount -t overlay -o "lowerdir=/etc,upperdir=$0/u,workdir=$0/w" etc /etc && exec "$@"'
)


@contextmanager
def _resolver(directory: Path, *names: str) -> Iterator[str]:
    """A resolver of the host on a loopback address, which knows names as "NAME=ADDRESS"."""
    number = secrets.randbelow(60000) + 1000
    listen = f"127.7.{number >> 8}.{number & 255}"
    told = [f"--host-record={name.replace('=', ',')}" for name in names]
    command = ["dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces"]
    command += [f"--listen-address={listen}", f"--pid-file={directory / listen}", "--local=/#/", *told]
    process = subprocess.Popen([*command, "--log-facility=-"], stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: (directory / listen).exists(), what=f"a resolver at {listen}")
        yield listen
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10.0)


@pytest.fixture
def resolver(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Return a function that starts a resolver and returns its address."""
    with ExitStack() as stack:
        yield lambda *names: stack.enter_context(_resolver(tmp_path, *names))


@pytest.fixture
def agent(start_agent: StartAgent, tmp_path: Path) -> AgentUnderTest:
    """An agent on a host with an /etc of its own, and the network `front`."""
    etc = tmp_path / "etc"
    etc.mkdir()
    program = ("unshare", "--mount", "sh", "-c", _OWN_ETC, str(etc), sys.executable, "-m", "mooring_agent")
    started = start_agent(program=program)
    declare(started, "front")
    return started


def _write_resolv_conf(agent: AgentUnderTest, text: str) -> None:
    """Replace the host's, as programs do that configure networks."""
    assert agent.process is not None
    etc = Path(f"/proc/{agent.process.pid}/root/etc")
    (etc / "resolv.conf.new").write_text(text)
    os.rename(etc / "resolv.conf.new", etc / "resolv.conf")


def test_the_hosts_resolver_on_loopback_is_asked_and_its_change_seen(
    agent: AgentUnderTest, resolver: Callable[..., str]
) -> None:
    first, second = resolver("shop.example.com=192.0.2.1"), resolver("shop.example.com=192.0.2.2")
    _write_resolv_conf(agent, f"search example.com\nnameserver {first}\noptions timeout:1\n")
    web = run(agent, "web", "front")
    pid = served(agent, "front")

    finds(agent, web, "shop.example.com", "192.0.2.1")
    assert resolv_conf(agent, web).splitlines()[:2] == ["search example.com", "options timeout:1"]
    assert look_up(agent, web, "none.example.com").code == dns.NXDOMAIN
    assert look_up(agent, web, "shop").code == dns.NXDOMAIN  # a search is the container's own matter

    _write_resolv_conf(agent, f"nameserver {second}\n")
    finds(agent, web, "shop.example.com", "192.0.2.2")
    assert names_of(agent, "front")["pid"] == pid
    later = run(agent, "later", "front")
    assert "search" not in resolv_conf(agent, later)


def test_a_containers_own_resolvers_are_asked_and_names_known_all_the_same(
    agent: AgentUnderTest, resolver: Callable[..., str]
) -> None:
    hosts, own = resolver("shop.example.com=192.0.2.1"), resolver("shop.example.com=192.0.2.2")
    _write_resolv_conf(agent, f"nameserver {hosts}\n")
    web = run(agent, "web", "front")
    wish = run(
        agent, "wish", "front", dns=["192.0.2.99"], dns_search=["example.org"], dns_options=["ndots:3"]
    )
    served(agent, "front")
    finds(agent, wish, "web", address(web, "front"))
    gateway = names_of(agent, "front")["server"]
    assert resolv_conf(agent, wish).splitlines() == [
        "search example.org", "options ndots:3", f"nameserver {gateway}",
    ]  # fmt: skip

    wish = run(agent, "wish", "front", dns=[own])  # on loopback: one that runs inside
    assert resolvers(agent, wish) == [own]
    finds(agent, web, "shop.example.com", "192.0.2.1")


def test_resolvers_of_ones_own_have_ones_own_answers(
    agent: AgentUnderTest, resolver: Callable[..., str]
) -> None:
    hosts = resolver("shop.example.com=192.0.2.1")
    _write_resolv_conf(agent, f"nameserver {hosts}\n")
    web = run(agent, "web", "front", dns=[declare(agent, "back")["gateway"]])
    db = run(agent, "db", {"name": "back", "aliases": ["shop.example.com"]})
    served(agent, "back")
    other = run(agent, "other", "front")
    served(agent, "front")

    finds(agent, other, "shop.example.com", "192.0.2.1")
    finds(agent, web, "other", address(other, "front"))
    assert address(db, "back")


def test_an_internal_network_keeps_nobody_from_the_outside_who_is_elsewhere_too(
    agent: AgentUnderTest, resolver: Callable[..., str]
) -> None:
    _write_resolv_conf(agent, f"nameserver {resolver('shop.example.com=192.0.2.1')}\n")
    declare(agent, "back", internal=True)
    inner, outer = run(agent, "inner", "back"), run(agent, "outer", "bridge", "back")
    served(agent, "back")
    finds(agent, outer, "shop.example.com", "192.0.2.1")
    finds(agent, outer, "inner", address(inner, "back"))
    finds(agent, inner, "outer", address(outer, "back"))
    finds(agent, inner, "shop.example.com")


def test_aliases_with_dots_win_over_the_outside(agent: AgentUnderTest, resolver: Callable[..., str]) -> None:
    hosts = resolver("example.com=192.0.2.1", "example.com=2001:db8::1", "www.example.com=192.0.2.3")
    _write_resolv_conf(agent, f"nameserver {hosts}\n")
    web = run(agent, "web", "front")
    served(agent, "front")
    finds(agent, web, "example.com", "192.0.2.1")
    assert look_up(agent, web, "example.com", "AAAA").values == ("2001:db8::1",)

    site = run(agent, "site", {"name": "front", "aliases": ["example.com"]})
    finds(agent, web, "example.com", address(site, "front"))
    eventually(lambda: look_up(agent, web, "example.com", "AAAA").values == (), what="no IPv6 address")
    finds(agent, web, "www.example.com", "192.0.2.3")

    agent.api("DELETE", "/mooring/v1/containers/site?force=true&timeout=0")
    finds(agent, web, "example.com", "192.0.2.1")
    eventually(lambda: look_up(agent, web, "example.com", "AAAA").values == ("2001:db8::1",))


def test_resolvers_are_those_of_the_containers_ip_versions(agent: AgentUnderTest) -> None:
    _write_resolv_conf(agent, "nameserver 192.0.2.7\nnameserver 2001:db8::7\nnameserver fe80::1%eth0\n")
    declare(agent, "bridge", ipv4=False, ipv6=True)
    assert resolvers(agent, run(agent, "six", "bridge")) == ["2001:db8::7"]
