# SPDX-License-Identifier: Apache-2.0
"""Encrypted overlays: what may be declared, what a device is told, and what of it is left alone."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from mooring_agent.engine.resources import NetworkSpec, compare
from mooring_agent.errors import InvalidSpec
from mooring_agent.linux.wireguard import Device, Settings
from mooring_agent.network import overlay, overlaytunnel, specs
from mooring_agent.network.encryption import key_text

SUBNET = "10.220.0.0/16"
KEYS = st.binary(min_size=32, max_size=32).filter(any)
HOSTS = st.dictionaries(st.integers(1, 254), KEYS.map(key_text), min_size=1, max_size=8).filter(
    lambda hosts: len(set(hosts.values())) == len(hosts)
)


def key(number: int) -> str:
    return key_text(bytes([number]) * 32)


def spec(hosts: dict[int, str], **rest: Any) -> dict[str, Any]:
    """An encrypted network of the hosts with these last bytes of their addresses."""
    named = {
        f"h{last}": {"address": f"192.0.2.{last}", "public_key": public} for last, public in hosts.items()
    }
    return {"driver": "overlay", "subnet": SUBNET, "encryption": "wireguard", "hosts": named, **rest}


def seen(given_spec: dict[str, Any], own: int) -> overlay.Overlay:
    normal = specs.normalise_spec({**given_spec, "host": f"h{own}"})
    return overlay.overlay_of(normal, "mesh", lambda _: True)


def carried_out(before: Device, settings: Settings) -> Device:
    """What <linux/wireguard.h> says that becomes of a device."""
    peers = {peer.public_key: peer for peer in before.peers}
    for peer in settings.peers:
        was = peers.get(peer.public_key)
        keeps = was is not None and peer.public_key not in settings.replaced
        for other, one in peers.items():  # an address is behind one peer alone
            peers[other] = replace(one, prefixes=one.prefixes - peer.prefixes)
        kept = peers[peer.public_key].prefixes if keeps else frozenset()
        peers[peer.public_key] = replace(peer, prefixes=kept | peer.prefixes)
    for gone in settings.removed:
        peers.pop(gone)
    return Device(before.public_key, settings.port or before.port, tuple(peers.values()))


@given(HOSTS, HOSTS, st.data())
def test_a_device_that_is_told_what_changes_knows_exactly_its_hosts(
    before: dict[int, str], after: dict[int, str], data: st.DataObject
) -> None:
    own = data.draw(st.sampled_from(sorted(after)))
    before = before | {own: after[own]}
    assume(len(set(before.values())) == len(before))
    old, new = seen(spec(before), own), seen(spec(after, port=7), own)
    device = carried_out(Device(b"", 0, ()), overlaytunnel.changes(Device(b"", 0, ()), old))
    told = overlaytunnel.changes(device, new)
    device = carried_out(device, told)

    slices = {base64.b64decode(host.public_key): str(host.slice.network_address) for host in new.others}
    assert {peer.public_key: next(iter(peer.prefixes))[0] for peer in device.peers} == slices
    assert {len(peer.prefixes) for peer in device.peers} <= {1}
    assert device.port == 7
    assert overlaytunnel.changes(device, new) == Settings()


@given(HOSTS, st.data())
def test_peers_that_stay_are_not_named_when_others_come_and_go(
    hosts: dict[int, str], data: st.DataObject
) -> None:
    assume(len(hosts) > 2)
    own, gone = data.draw(st.permutations(sorted(hosts)))[:2]
    whole = seen(spec(hosts), own)
    fewer = seen(spec({last: public for last, public in hosts.items() if last != gone}), own)
    device = carried_out(Device(b"", 0, ()), overlaytunnel.changes(Device(b"", 0, ()), whole))
    goes = overlaytunnel.changes(device, fewer)
    comes = overlaytunnel.changes(carried_out(device, goes), whole)
    public = base64.b64decode(hosts[gone])

    assert goes == Settings(removed=(public,))
    assert [peer.public_key for peer in comes.peers] == [public]
    assert (comes.removed, comes.replaced, comes.port, comes.private_key) == ((), frozenset(), None, None)


@given(HOSTS, st.data())
def test_what_is_kept_is_read_again(hosts: dict[int, str], data: st.DataObject) -> None:
    view = seen(spec(hosts, port=data.draw(st.integers(1, 65535))), next(iter(hosts)))
    assert overlay.restored(view.view()) == view


def test_mtu_leaves_room_for_what_is_around_a_packet() -> None:
    assert seen(spec({1: key(1)}), 1).mtu(1500) == 1440
    six = {"h1": {"address": "2001:db8::1", "public_key": key(1)}}
    assert seen(spec({}) | {"hosts": six}, 1).mtu(1500) == 1420


def test_port_is_that_of_wireguard_unless_another_is_said() -> None:
    assert seen(spec({1: key(1)}), 1).port == 51820
    assert seen(spec({1: key(1)}, port=4500), 1).port == 4500


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            {"hosts": {"a": "192.0.2.1", "b": {"address": "192.0.2.2", "public_key": key(2)}}},
            "no public key of a",
        ),
        ({"encryption": None}, "has public keys, of h1, h2, but is not encrypted"),
        ({"encryption": "ipsec"}, "has the encryption 'ipsec', expected wireguard"),
        ({"vni": 7}, "option vni, which networks with encryption do not have"),
        ({"port": 0}, "port 0, expected a number from 1 to 65535"),
        ({"port": True}, "port True"),
        ({"encryption": None, "hosts": {"a": "192.0.2.1"}, "port": 7}, "port, which belongs to encryption"),
        ({"driver": "bridge", "hosts": None, "subnet": None}, "encryption is given with driver bridge"),
        ({"hosts": {"a": "10.220.3.4"}}, "has the address 10.220.3.4, which is in the network's own subnet"),
    ],
)
def test_encryption_that_cannot_be_is_refused(change: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidSpec, match=why):
        specs.normalise_spec({**spec({1: key(1), 2: key(2)}), **change})


def test_two_hosts_with_one_key_are_refused() -> None:
    with pytest.raises(InvalidSpec, match="the same public key for h1 and h2"):
        specs.normalise_spec(spec({1: key(1), 2: key(1)}))


@pytest.mark.parametrize(
    "value",
    ["", "short", key_text(bytes(31) + b"x")[:-4], key_text(bytes(32)), key(1)[:-2] + "F=", f" {key(1)}", 7],
)
def test_keys_that_are_none_are_refused(value: object) -> None:
    hosts = {"a": {"address": "192.0.2.1", "public_key": value}}
    with pytest.raises(InvalidSpec, match=r"host a has the public key .*, expected 32 bytes in base64"):
        specs.normalise_spec(spec({}) | {"hosts": hosts})


def test_encryption_port_and_keys_change_live() -> None:
    before = NetworkSpec.parse(spec({1: key(1)}), name="mesh")
    after = NetworkSpec.parse(spec({1: key(2)}, port=7), name="mesh")
    plain = NetworkSpec.parse(
        {"driver": "overlay", "subnet": SUBNET, "hosts": {"h1": "192.0.2.1"}}, name="mesh"
    )
    for wanted in (after, plain):
        changes = compare(before, wanted)
        assert changes
        assert all(change.live for change in changes)
