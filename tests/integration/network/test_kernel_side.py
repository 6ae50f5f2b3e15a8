# SPDX-License-Identifier: Apache-2.0
"""What the kernel and nft make of our messages and commands, and what they answer."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator

import pytest

from integration.network.topology import NamedNamespace
from mooring_agent.linux import rtnetlink
from mooring_agent.linux.netlink import NetlinkError
from mooring_agent.linux.nftables import Nftables, NftError
from mooring_agent.linux.rtnetlink import RT_TABLE_MAIN, Address, RouteSocket
from mooring_agent.network.neighbours import dropping

pytestmark = pytest.mark.root

MAC = "02:6d:0a:00:00:01"


@pytest.fixture
def namespace() -> Iterator[NamedNamespace]:
    made = NamedNamespace()
    yield made
    made.remove()


@pytest.fixture
def netlink(namespace: NamedNamespace) -> Iterator[RouteSocket]:
    with namespace.inside(RouteSocket) as made:
        yield made


def test_bridge_with_its_address(netlink: RouteSocket) -> None:
    netlink.execute(rtnetlink.bridge_add("br", MAC))
    bridge = netlink.link("br")
    assert bridge is not None
    assert (bridge.kind, bridge.mac, bridge.up, bridge.master) == ("bridge", MAC, True, 0)
    netlink.execute(
        rtnetlink.address_add(bridge.ifindex, "10.9.0.1", 24, "10.9.0.255"),
        rtnetlink.address_add(bridge.ifindex, "fd00::1", 64),
        rtnetlink.route_add(bridge.ifindex, gateway="10.9.0.9"),
        rtnetlink.route_add(bridge.ifindex, gateway=None, destination="10.8.0.0", prefix_length=16),
    )

    assert Address(bridge.ifindex, "10.9.0.1", 24) in netlink.addresses()
    assert "fd00::1" in [address.address for address in netlink.addresses(10)]
    main = [route[:4] for route in netlink.routes() if route.table == RT_TABLE_MAIN]
    assert ("0.0.0.0", 0, "10.9.0.9", bridge.ifindex) in main
    assert ("10.8.0.0", 16, "", bridge.ifindex) in main
    netlink.execute(rtnetlink.address_delete(bridge.ifindex, "10.9.0.1", 24))
    assert [address for address in netlink.addresses() if address.ifindex == bridge.ifindex] == []


def test_changed_link(netlink: RouteSocket) -> None:
    netlink.execute(rtnetlink.bridge_add("br", MAC))
    before = netlink.link("br")
    assert before is not None
    netlink.execute(rtnetlink.link_set(before.ifindex, up=False, mac="02:00:00:00:00:05", mtu=1400))
    after = netlink.link("br")
    assert after is not None
    assert (after.up, after.mac, after.mtu) == (False, "02:00:00:00:00:05", 1400)


def test_absent_link_is_none_and_removed_quietly(namespace: NamedNamespace, netlink: RouteSocket) -> None:
    assert netlink.link("nothing") is None
    namespace.inside(lambda: rtnetlink.remove_links(["nothing"]))


def test_refusal_has_the_words_of_the_kernel(netlink: RouteSocket) -> None:
    with pytest.raises(NetlinkError, match=r"adding a route: .*\(Nexthop has invalid gateway\)") as refusal:
        netlink.execute(rtnetlink.route_add(1, gateway="192.0.2.1"))
    assert refusal.value.errno == errno.ENETUNREACH


def test_later_messages_are_carried_out_although_one_is_refused(netlink: RouteSocket) -> None:
    with pytest.raises(NetlinkError) as refusal:
        netlink.execute(
            rtnetlink.bridge_add("one", MAC),
            rtnetlink.bridge_add("one", MAC),
            rtnetlink.bridge_add("two", MAC),
        )
    assert refusal.value.errno == errno.EEXIST
    assert {"one", "two"} <= {link.name for link in netlink.links()}


def test_process_that_is_gone(netlink: RouteSocket) -> None:
    veth = rtnetlink.veth_add("mv", master=0, peer_name="eth0", peer_pid=2**22)
    with pytest.raises(NetlinkError) as refusal:
        netlink.execute(veth)
    assert refusal.value.errno == errno.ESRCH
    assert netlink.link("mv") is None


def test_large_dump_is_complete(netlink: RouteSocket) -> None:
    names = {f"bridge{number}" for number in range(200)}
    netlink.execute(*(rtnetlink.bridge_add(name, MAC) for name in names))
    assert names <= {link.name for link in netlink.links()}


def test_nft_refuses_in_its_own_words_on_one_line(namespace: NamedNamespace) -> None:
    def attempt() -> None:
        Nftables().run("add table inet ours\nadd rule inet ours nowhere accept")

    with pytest.raises(NftError, match=r"^nftables refused a change: Error: .*No such file[^\n]*$"):
        namespace.inside(attempt)
    assert namespace.run("nft", "list", "tables") == ""


def test_nft_in_several_threads(namespace: NamedNamespace) -> None:
    nftables = Nftables()

    def work() -> list[str]:
        for number in range(20):
            nftables.run(f"add table inet t{threading.get_native_id()}_{number}")
        return [item["table"]["name"] for item in nftables.listing("list tables inet")]

    found = namespace.inside(work), namespace.inside(work)
    assert [len(tables) for tables in found] == [20, 40]


def test_other_firewall_that_drops_is_named(namespace: NamedNamespace) -> None:
    def obstacles() -> list[str]:
        return dropping(Nftables(), "ours", "mrabcd-")

    namespace.run("nft", "add table inet ours")
    namespace.run("nft", "add chain inet ours forward { type filter hook forward priority 0; policy drop; }")
    assert namespace.inside(obstacles) == []
    namespace.run("nft", "add table ip filter")
    namespace.run("nft", "add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }")
    namespace.run("nft", "add chain ip filter DOCKER-USER")
    namespace.run("nft", "add rule ip filter FORWARD jump DOCKER-USER")
    [sentence] = namespace.inside(obstacles)
    assert "iptables -I DOCKER-USER -i mrabcd-+ -j ACCEPT" in sentence
    namespace.run("nft", 'insert rule ip filter DOCKER-USER iifname "mrabcd-*" accept')
    assert namespace.inside(obstacles) == []
