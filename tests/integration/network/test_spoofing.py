# SPDX-License-Identifier: Apache-2.0
"""A container speaks in its own name only: frames that it forges reach nobody."""

from __future__ import annotations

import os
import socket
from functools import partial

import pytest

from harness.host import missing_feature
from harness.waiting import eventually
from integration.network import frames
from integration.network.conftest import Serve
from integration.network.topology import Container, Host
from mooring_agent.linux import bpf, tc
from mooring_agent.linux.bpfcode import Assembler
from mooring_agent.linux.rtnetlink import RouteSocket
from mooring_agent.network import ingress
from mooring_agent.network.portguard import NAME, PREFERENCE

pytestmark = pytest.mark.root

OTHER = "02:00:00:00:00:99"


def mac(container: Container) -> str:
    return str(container.host.call("endpoints", container.id)[0]["mac"])


def take_off_guard(host: Host, cable: str) -> None:
    """Take the guard off the outer end of a cable, wherever it hangs."""
    host.run("tc", "qdisc", "delete", "dev", cable, "clsact")
    host.inside(lambda: take_off_list(cable))


def take_off_list(cable: str) -> None:
    """Take all programs off an interface's own list."""
    if missing_feature("tcx") is not None:
        return
    index = socket.if_nametoindex(cable)
    for number in bpf.ingress_programs(index):
        program = bpf.program_by_id(number)
        bpf.detach_at_ingress(index, program)
        os.close(program)


def drops_everything() -> bytes:
    """A program for packets."""
    code = Assembler()
    code.leave(2)  # TC_ACT_SHOT of <linux/pkt_cls.h>
    return code.assemble()


def hang_filter(cable: str, program: int) -> None:
    """Put a program where the guard was before there was a better place."""
    with RouteSocket() as netlink:
        netlink.execute(tc.ingress_program(socket.if_nametoindex(cable), PREFERENCE, program, NAME))


@pytest.fixture
def pair(host: Host) -> tuple[Container, Container]:
    """Two containers on a network."""
    first, second = host.container(), host.container()
    first.attach()
    second.attach()
    return first, second


def forged(own: str, address: str, victim: str) -> dict[str, bytes]:
    """What a container with this MAC and IPv4 address must not say beside a victim's address, by what is
    wrong with it.
    """
    local, foreign = frames.link_local(own), frames.link_local(OTHER)
    query = bytes([130, 0, 0, 0]) + bytes(20) + frames.MARK
    router = bytes([134, 0, 0, 0]) + bytes(12) + frames.MARK
    return {
        "mac": frames.ethernet(OTHER, 0x0800, frames.udp(address)),
        "ipv4": frames.ethernet(own, 0x0800, frames.udp(victim)),
        "ipv4 from nowhere": frames.ethernet(own, 0x0800, frames.udp("0.0.0.0")),
        "dhcp answer": frames.ethernet(own, 0x0800, frames.udp(address, 67, 68)),
        "dhcp answer behind options": frames.ethernet(
            own, 0x0800, frames.udp(address, 67, 68, options=b"\x01\x01\x01\x00")
        ),
        "arp of another": frames.ethernet(own, 0x0806, frames.arp(2, own, victim, victim)),
        "arp with another's mac": frames.ethernet(own, 0x0806, frames.arp(2, OTHER, address, victim)),
        "ipv6": frames.ethernet(own, 0x86DD, frames.ipv6("fd00::99", 59, frames.MARK)),
        "link-local of another": frames.ethernet(own, 0x86DD, frames.ipv6(foreign, 59, frames.MARK)),
        "advertisement of another": frames.ethernet(
            own, 0x86DD, frames.ipv6(local, 58, frames.advertisement(foreign))
        ),
        "advertisement behind options": frames.ethernet(
            own, 0x86DD, frames.ipv6(local, 60, b"\x3a" + bytes(7) + frames.advertisement(foreign))
        ),
        "advertisement behind a hop-by-hop header": frames.ethernet(
            own, 0x86DD, frames.ipv6(local, 0, b"\x3a" + bytes(7) + frames.advertisement(foreign))
        ),
        "router": frames.ethernet(own, 0x86DD, frames.ipv6(local, 58, router)),
        "multicast query": frames.ethernet(own, 0x86DD, frames.ipv6(local, 58, query)),
        "dhcpv6 answer": frames.ethernet(
            own, 0x86DD, frames.ipv6(local, 17, b"\x02\x23\x02\x22" + bytes(4) + frames.MARK)
        ),
        "vlan": frames.ethernet(own, 0x8100, b"\x00\x07\x08\x00" + frames.udp(address, 7)),
        "another protocol": frames.ethernet(own, 0x88CC, frames.MARK + bytes(50)),
    }


def honest(own: str, address: str, victim: str) -> dict[str, bytes]:
    """What it may say."""
    local = frames.link_local(own)
    report = b"\x3a\x00\x05\x02\x00\x00\x00\x00" + bytes([143, 0, 0, 0]) + bytes(4) + frames.MARK
    return {
        "arp": frames.ethernet(own, 0x0806, frames.arp(1, own, address, victim)),
        "arp probe": frames.ethernet(own, 0x0806, frames.arp(1, own, "0.0.0.0", victim)),
        "dhcp request": frames.ethernet(own, 0x0800, frames.udp("0.0.0.0", 68, 67)),
        "link-local": frames.ethernet(own, 0x86DD, frames.ipv6(local, 59, frames.MARK)),
        "own advertisement": frames.ethernet(
            own, 0x86DD, frames.ipv6(local, 58, frames.advertisement(local))
        ),
        "short echo": frames.ethernet(
            own, 0x86DD, frames.ipv6(local, 58, bytes([128]) + bytes(3) + frames.MARK)
        ),
        "listener report": frames.ethernet(own, 0x86DD, frames.ipv6("::", 0, report)),
        "udp": frames.ethernet(own, 0x0800, frames.udp(address)),
    }


def test_what_is_forged_reaches_nobody_and_what_is_honest_does(
    host: Host, pair: tuple[Container, Container]
) -> None:
    liar, victim = pair
    own, address = mac(liar), str(host.call("endpoints", liar.id)[0]["ipv4"])
    other = str(host.call("endpoints", victim.id)[0]["ipv4"])
    lies, truths = forged(own, address, other), honest(own, address, other)

    arrived = frames.received(liar, victim, *lies.values(), *truths.values())

    assert dict(zip([*lies, *truths], arrived, strict=True)) == {
        **dict.fromkeys(lies, False),
        **dict.fromkeys(truths, True),
    }


def test_router_that_is_trusted_may_say_anything(host: Host) -> None:
    router, other = host.container("router"), host.container()
    host.call("terms", "router", {}, ["bridge"])
    address, victim = router.attach(), other.attach()
    lies = forged(mac(router), address, victim)

    arrived = frames.received(router, other, *lies.values())

    assert dict(zip(lies, arrived, strict=True)) == dict.fromkeys(lies, True)


def test_container_that_takes_another_address_is_not_heard(host: Host, serve: Serve) -> None:
    thief, owner, client = host.container(), host.container(), host.container()
    thief.attach()
    address, _ = owner.attach(), client.attach()
    serve(owner, 80, "owner")
    serve(thief, 80, "thief")
    thief.run("ip", "address", "add", f"{address}/24", "dev", "eth0")
    client.run("ip", "neighbour", "flush", "dev", "eth0")

    assert [client.ask(address, 80)[0] for _ in range(5)] == ["owner"] * 5


def test_guard_that_was_taken_off_is_missed_and_put_back(
    host: Host, pair: tuple[Container, Container]
) -> None:
    liar, victim = pair
    cable = str(host.call("endpoints", liar.id)[0]["host_ifname"])
    take_off_guard(host, cable)
    assert host.call("check") == [
        f"interface {cable} of network bridge does not keep its container from false senders"
    ]

    host.call("repair")

    own, address = mac(liar), str(host.call("endpoints", liar.id)[0]["ipv4"])
    lie = frames.ethernet(OTHER, 0x0800, frames.udp(address))
    truth = frames.ethernet(own, 0x0800, frames.udp(address))
    assert frames.received(liar, victim, lie, truth) == [False, True]
    assert host.call("check") == []


def test_guard_of_an_earlier_version_is_replaced(host: Host, pair: tuple[Container, Container]) -> None:
    liar, victim = pair
    cable = str(host.call("endpoints", liar.id)[0]["host_ifname"])
    host.kill_agent()
    program = bpf.load_packet_program(drops_everything(), NAME)
    host.inside(partial(hang_filter, cable, program))
    os.close(program)

    host.start_agent()

    own, address = mac(liar), str(host.call("endpoints", liar.id)[0]["ipv4"])
    lie = frames.ethernet(OTHER, 0x0800, frames.udp(address))
    truth = frames.ethernet(own, 0x0800, frames.udp(address))
    assert frames.received(liar, victim, lie, truth) == [False, True]
    assert host.call("check") == []


@pytest.mark.kernel("tcx")
def test_guard_moves_to_where_it_costs_less_when_nobody_waits(
    host: Host, pair: tuple[Container, Container]
) -> None:
    liar, victim = pair
    own, address = mac(liar), str(host.call("endpoints", liar.id)[0]["ipv4"])
    other = str(host.call("endpoints", victim.id)[0]["ipv4"])
    for container in pair:
        cable = str(host.call("endpoints", container.id)[0]["host_ifname"])

        def moved(cable: str = cable) -> bool:
            filters = host.run("tc", "filter", "show", "dev", cable, "ingress")
            return host.inside(lambda: ingress.is_listed(socket.if_nametoindex(cable), NAME)) and not filters

        eventually(moved, 20)
    assert host.call("check") == []
    lies, truths = forged(own, address, other), honest(own, address, other)

    arrived = frames.received(liar, victim, *lies.values(), *truths.values())

    assert dict(zip([*lies, *truths], arrived, strict=True)) == {
        **dict.fromkeys(lies, False),
        **dict.fromkeys(truths, True),
    }


@pytest.mark.kernel("tcx")
def test_guard_that_had_moved_is_taken_up_missed_and_put_back(
    host: Host, pair: tuple[Container, Container]
) -> None:
    liar, victim = pair
    cable = str(host.call("endpoints", liar.id)[0]["host_ifname"])
    own, address = mac(liar), str(host.call("endpoints", liar.id)[0]["ipv4"])
    lie = frames.ethernet(OTHER, 0x0800, frames.udp(address))
    truth = frames.ethernet(own, 0x0800, frames.udp(address))
    host.kill_agent()
    program = bpf.load_packet_program(drops_everything(), NAME)
    host.inside(lambda: ingress.enlist(socket.if_nametoindex(cable), program, NAME))
    os.close(program)

    host.start_agent()
    assert frames.received(liar, victim, lie, truth) == [False, True]
    assert host.run("tc", "filter", "show", "dev", cable, "ingress") == ""

    host.inside(lambda: take_off_list(cable))
    assert len(host.call("check")) == 1
    host.call("repair")
    assert frames.received(liar, victim, lie, truth) == [False, True]
    assert host.call("check") == []


def test_guard_outlives_the_agent_and_the_next_one_takes_it_up(host: Host) -> None:
    liar, victim = host.container(), host.container()
    address = liar.attach()
    victim.attach()
    lie = frames.ethernet(OTHER, 0x0800, frames.udp(address))
    truth = frames.ethernet(mac(liar), 0x0800, frames.udp(address))

    host.kill_agent()
    assert frames.received(liar, victim, lie, truth) == [False, True]
    assert host.start_agent() == []
    assert frames.received(liar, victim, lie, truth) == [False, True]
    assert host.call("check") == []


def test_address_of_ipv6_is_the_containers_own_as_well(host: Host) -> None:
    host.call("create", "six", {"ipv6": True})
    liar, victim = host.container(), host.container()
    liar.attach("six")
    victim.attach("six")
    [mine], [its] = host.call("endpoints", liar.id), host.call("endpoints", victim.id)
    lies = {
        "sender": frames.ethernet(mine["mac"], 0x86DD, frames.ipv6(its["ipv6"], 59, frames.MARK)),
        "advertisement": frames.ethernet(
            mine["mac"], 0x86DD, frames.ipv6(mine["ipv6"], 58, frames.advertisement(its["ipv6"]))
        ),
    }
    truths = {
        "own advertisement": frames.ethernet(
            mine["mac"], 0x86DD, frames.ipv6(mine["ipv6"], 58, frames.advertisement(mine["ipv6"]))
        ),
        "own": frames.ethernet(mine["mac"], 0x86DD, frames.ipv6(mine["ipv6"], 59, frames.MARK)),
    }

    arrived = frames.received(liar, victim, *lies.values(), *truths.values())

    assert dict(zip([*lies, *truths], arrived, strict=True)) == {
        **dict.fromkeys(lies, False),
        **dict.fromkeys(truths, True),
    }
