# SPDX-License-Identifier: Apache-2.0
"""What is read of the firewalls beside ours, and when."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.errors import MooringError
from mooring_agent.linux.nftables import Nftables
from mooring_agent.network import obstacles
from mooring_agent.network.neighbours import ASKING, FORWARDING, Passage, dropping, once, reachable
from mooring_agent.network.obstacles import Obstacles

PREFIX = "mrabcd-"
_NAMES = st.sampled_from("abcdefg")


def rule(chain: str, *expressions: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "ip", "table": "filter", "chain": chain, "expr": list(expressions)}}


def jump(target: str) -> dict[str, Any]:
    return {"jump": {"target": target}}


def interface(key: str) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": f"{PREFIX}*"}}


class Listed:
    """An nftables that lists one table with hooks."""

    def __init__(self, family: str, table: str, hooks: dict[str, str], *rules: dict[str, Any]) -> None:
        self._chains = [
            {
                "chain": {
                    "family": family, "table": table, "name": name,
                    **({"hook": hook, "policy": "drop"} if hook else {}),
                },
            }
            for name, hook in hooks.items()
        ]  # fmt: skip
        self._rules = rules

    def listing(self, command: str) -> list[dict[str, Any]]:
        return self._chains if command == "list chains" else [*self._chains, *self._rules]


def found(listed: Listed, passage: Passage = FORWARDING, versions: tuple[int, ...] = (4, 6)) -> list[str]:
    return dropping(cast(Nftables, listed), "ours", PREFIX, passage, versions)


@given(st.lists(st.tuples(_NAMES, _NAMES), max_size=20), _NAMES)
def test_what_is_reached_is_what_jumps_lead_to(jumps: list[tuple[str, str]], start: str) -> None:
    reached, _ = reachable([rule(source, jump(target)) for source, target in jumps], start)
    assert start in reached
    for source, target in jumps:
        assert source not in reached or target in reached
    assert all(name == start or any(target == name for _, target in jumps) for name in reached)


def test_verdict_map_leads_to_chains_as_well() -> None:
    verdicts = {"vmap": {"key": "x", "data": {"set": [[22, {"goto": {"target": "ssh"}}]]}}}
    assert reachable([rule("a", verdicts)], "a")[0] == {"a", "ssh"}


def test_rule_that_no_packet_of_the_hook_meets_lets_nothing_through() -> None:
    hooks = {"FORWARD": "forward", "INPUT": "input", "DOCKER-USER": ""}
    asked = rule("INPUT", interface("iifname"))
    [sentence] = found(Listed("ip", "filter", hooks, asked, rule("DOCKER-USER", interface("iifname"))))
    assert f"iptables -I FORWARD -i {PREFIX}+ -j ACCEPT, and iptables -I FORWARD -o {PREFIX}+" in sentence
    assert found(Listed("ip", "filter", hooks, asked), ASKING) == []

    leads_there = rule("FORWARD", jump("DOCKER-USER"))
    [sentence] = found(Listed("ip", "filter", hooks, leads_there))
    assert f"iptables -I DOCKER-USER -i {PREFIX}+ -j ACCEPT" in sentence
    assert found(Listed("ip", "filter", hooks, leads_there, rule("DOCKER-USER", interface("oifname")))) == []


def test_firewalls_of_ipv6_matter_where_networks_have_it() -> None:
    listed = Listed("ip6", "filter", {"FORWARD": "forward"})
    assert found(listed, versions=(4,)) == []
    [sentence] = found(listed)
    assert f"ip6tables -I FORWARD -i {PREFIX}+ -j ACCEPT" in sentence


def test_rules_by_hand_are_answered_in_their_own_language() -> None:
    [sentence] = found(Listed("inet", "mine", {"fwd": "forward"}))
    assert f"""nft insert rule inet mine fwd iifname '"{PREFIX}*"' accept""" in sentence


async def _changes_of_others() -> list[str]:
    answers = [["a"], ["a", "b"], [], ["b"]]
    told: list[str] = []

    async def look() -> list[str]:
        return answers.pop(0)

    looked = asyncio.Event()

    async def then() -> None:
        looked.set()

    watch = Obstacles(look)
    await watch.start(told.append, then)
    for _ in range(3):
        for _ in range(100):
            watch.suspect()
        await asyncio.wait_for(looked.wait(), 10)
        looked.clear()
    assert answers == []
    assert watch.found == ("b",)
    watch.close()
    return told


def test_each_obstacle_is_told_when_it_comes_and_when_it_comes_back(monkeypatch: Any) -> None:
    monkeypatch.setattr(obstacles, "SETTLE_S", 0.001)
    monkeypatch.setattr(obstacles, "PAUSE_S", 0.002)
    assert asyncio.run(_changes_of_others()) == ["a", "b", "b"]


def test_host_on_which_it_cannot_be_looked_is_looked_at_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(obstacles, "SETTLE_S", 0.001)
    monkeypatch.setattr(obstacles, "PAUSE_S", 0.002)
    able = False

    async def look() -> list[str]:
        if not able:
            raise MooringError("there is no libnftables")
        return ["a"]

    async def scenario() -> list[str]:
        nonlocal able
        told: list[str] = []
        looked = asyncio.Event()

        async def then() -> None:
            looked.set()

        watch = Obstacles(look)
        await watch.start(told.append, then)
        assert told == []
        able = True
        watch.suspect()
        await asyncio.wait_for(looked.wait(), 10)
        watch.close()
        return told

    assert asyncio.run(scenario()) == ["a"]


def test_a_command_that_is_for_both_ip_versions_is_told_once() -> None:
    hooks = {"INPUT": "input", "ufw-before-input": "", "ufw6-before-input": ""}
    sentences = [
        sentence
        for family, own in (("ip", "ufw-before-input"), ("ip6", "ufw6-before-input"))
        for sentence in found(Listed(family, "filter", hooks, rule("INPUT", jump(own))), ASKING)
    ]
    assert len(sentences) == 2
    assert once(sentences) == (sentences[0],)

    plain = [found(Listed(family, "guard", {"in": "input"}), ASKING)[0] for family in ("ip", "ip6")]
    assert once(plain) == tuple(plain)
