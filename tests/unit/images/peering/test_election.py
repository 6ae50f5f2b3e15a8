# SPDX-License-Identifier: Apache-2.0
"""Who fetches a blob: in whatever order the hosts of a fleet move, one of them at least and mostly one."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.images.peering.election import (
    Answer,
    Holds,
    higher,
    must_step_back,
    rank,
    whom_to_await,
)

MEMBERS = [f"host{number}:7070" for number in range(6)]
DIGEST = "sha256:" + "0" * 64


def test_each_host_is_the_first_for_its_share_of_the_blobs() -> None:
    members = [f"host{number}:7070" for number in range(10)]
    firsts = Counter(max(members, key=lambda each: rank(f"blob {n}", each)) for n in range(5000))
    assert set(firsts) == set(members)
    assert max(firsts.values()) < 2 * min(firsts.values())


@given(st.dictionaries(st.sampled_from(MEMBERS[1:]), st.sampled_from(Holds)))
def test_whoever_is_awaited_has_it_or_will(states: dict[str, Holds]) -> None:
    answers = {peer: Answer(holds) for peer, holds in states.items() if holds is not Holds.HELD}
    awaited = whom_to_await(DIGEST, MEMBERS[0], answers)
    if awaited is None:
        assert not {Holds.CLAIMED, Holds.BUSY} & {each.holds for each in answers.values()}
        above = higher(DIGEST, MEMBERS[0], answers)
        assert all(answers[peer].holds is Holds.ABSENT for peer in above)
    else:
        assert answers[awaited].holds is not Holds.ABSENT


def test_the_one_that_has_the_most_is_awaited() -> None:
    answers = {"a:1": Answer(Holds.CLAIMED, 10), "b:1": Answer(Holds.CLAIMED, 20), "c:1": Answer(Holds.BUSY)}
    assert whom_to_await(DIGEST, "d:1", answers) == "b:1"


class Host:
    """A host that looks for a blob, one look at one other host at a time."""

    def __init__(self, name: str, fleet: dict[str, Host]) -> None:
        self.name, self.fleet = name, fleet
        self.state = Holds.ABSENT
        self.fetches = False
        self._steps = self._run()

    def step(self) -> None:
        next(self._steps, None)

    def _ask(self, peers: list[str]):  # type: ignore[no-untyped-def]
        answers = {}
        for peer in peers:
            answers[peer] = Answer(self.fleet[peer].state)
            yield
        return answers

    def _run(self):  # type: ignore[no-untyped-def]
        while True:
            self.state = Holds.WANTED
            yield
            others = [name for name in self.fleet if name != self.name]
            answers = yield from self._ask(others)
            if whom_to_await(DIGEST, self.name, answers) is not None:
                continue
            self.state = Holds.CLAIMED
            yield
            answers = yield from self._ask(list(higher(DIGEST, self.name, others)))
            if must_step_back(DIGEST, self.name, answers):
                continue
            self.fetches = True
            return


@given(st.lists(st.integers(0, 3), max_size=400))
def test_one_host_fetches_whatever_the_order(order: list[int]) -> None:
    fleet: dict[str, Host] = {}
    for name in MEMBERS[:4]:
        fleet[name] = Host(name, fleet)
    hosts = list(fleet.values())
    for number in order:
        hosts[number].step()
        assert sum(host.fetches for host in hosts) <= 1
    for _ in range(100):
        for host in hosts:
            host.step()
    assert sum(host.fetches for host in hosts) == 1
