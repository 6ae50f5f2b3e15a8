# SPDX-License-Identifier: Apache-2.0
"""A whole host's document: order, parallel work, answers per item, prune. The services are stand-ins."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import pytest

from mooring_agent.engine.document import Documents
from mooring_agent.errors import Conflict, InvalidSpec, NotFound

KINDS = ("image", "network", "volume", "cgroup", "container")
DOCUMENT = {
    "containers": {"web": {"image": "i"}, "db": {"image": "i"}},
    "images": {"i": {"template": "busybox"}},
    "networks": {"n": {}},
    "volumes": {"v": None},
    "cgroups": {"g": {"memory": "1m"}},
}


class Host:
    """Stand-ins for the services of every kind; `there` is what exists."""

    def __init__(self, there: Iterable[tuple[str, str]] = ()) -> None:
        self.there = set(there)
        self.calls: list[tuple[Any, ...]] = []
        self.users: dict[tuple[str, str], set[str]] = {}
        self.failures: dict[tuple[str, str], Exception] = {}
        self.at_once = self.most_at_once = 0
        self.documents = Documents(
            put={kind: self._put(kind) for kind in KINDS},
            delete={kind: self._delete(kind) for kind in KINDS},
            managed={kind: self._managed(kind) for kind in KINDS},
        )

    def apply(self, document: Any, *, dry_run: bool = False, prune: bool = False) -> dict[str, Any]:
        return asyncio.run(self.documents.apply(document, dry_run=dry_run, prune=prune))

    def _put(self, kind: str) -> Any:
        async def put(name: str, spec: dict[str, Any], *, dry_run: bool) -> dict[str, Any]:
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            try:
                await asyncio.sleep(0.001)
                return self._answer("put", kind, name, spec, dry_run)
            finally:
                self.at_once -= 1

        return put

    def _delete(self, kind: str) -> Any:
        async def delete(name: str, *, dry_run: bool, **options: Any) -> dict[str, Any]:
            users = self.users.get((kind, name), set()) - options.get("leaving", frozenset())
            if {("container", user) for user in users} & self.there:
                raise Conflict(f"{kind} {name} is in use")
            return self._answer("delete", kind, name, None, dry_run)

        return delete

    def _managed(self, kind: str) -> Any:
        return lambda: [name for found, name in sorted(self.there) if found == kind]

    def _answer(self, call: str, kind: str, name: str, spec: Any, dry_run: bool) -> dict[str, Any]:
        self.calls.append((call, kind, name, spec, dry_run))
        failure = self.failures.get((kind, name))
        if failure is not None:
            raise failure
        changed = ((kind, name) in self.there) == (call == "delete")
        if changed and not dry_run:
            (self.there.discard if call == "delete" else self.there.add)((kind, name))
        return {"changed": changed, "actions": ["…"] if changed else [], "before": None, "after": spec}


def test_what_containers_need_comes_before_them() -> None:
    host = Host()
    answer = host.apply(DOCUMENT)
    order = [(kind, name) for _, kind, name, _, _ in host.calls]
    assert set(order[-2:]) == {("container", "web"), ("container", "db")}
    assert len(order) == 6
    assert (answer["changed"], answer["failed"]) == (True, 0)
    assert {(item["kind"], item["name"]) for item in answer["items"]} == set(order)


def test_a_second_time_changes_nothing() -> None:
    host = Host()
    host.apply(DOCUMENT)
    again = host.apply(DOCUMENT, prune=True)
    assert (again["changed"], again["failed"]) == (False, 0)
    assert all(item["actions"] == [] for item in again["items"])


def test_a_null_spec_is_an_empty_one() -> None:
    host = Host()
    host.apply({"volumes": {"v": None}, "images": None})
    assert host.calls == [("put", "volume", "v", {}, False)]


def test_dry_run_reaches_everybody_and_changes_nothing() -> None:
    host = Host({("container", "old")})
    answer = host.apply(DOCUMENT, dry_run=True, prune=True)
    assert answer["changed"]
    assert all(dry_run for *_, dry_run in host.calls)
    assert host.there == {("container", "old")}
    assert ("delete", "container", "old", None, True) in host.calls


@pytest.mark.parametrize(
    "failure", [NotFound("no such image: x"), Conflict("taken"), OSError(28, "No space left on device")]
)
def test_one_failure_stops_nothing_else(failure: Exception) -> None:
    host = Host()
    host.failures["container", "web"] = failure
    answer = host.apply(DOCUMENT)
    items = {item["name"]: item for item in answer["items"]}
    assert answer["failed"] == 1
    assert items["db"]["changed"]
    assert items["web"]["changed"] is False
    assert str(failure).rpartition("] ")[2] in items["web"]["error"]["message"]
    assert items["web"]["error"]["code"]
    assert ("container", "db") in host.there


def test_an_error_has_its_code() -> None:
    host = Host()
    host.failures["network", "n"] = Conflict("taken")
    items = host.apply({"networks": {"n": {}}})["items"]
    assert items[0]["error"] == {"message": "taken", "code": "conflict"}


def test_prune_removes_what_is_not_named_dependants_first() -> None:
    host = Host((kind, f"old-{kind}") for kind in KINDS)
    answer = host.apply({"containers": {"web": {}}}, prune=True)
    removed = [(kind, name) for call, kind, name, _, _ in host.calls if call == "delete"]
    assert removed == [
        ("container", "old-container"),
        ("cgroup", "old-cgroup"),
        ("volume", "old-volume"),
        ("network", "old-network"),
        ("image", "old-image"),
    ]
    assert host.there == {("container", "web")}
    assert answer["changed"]


@pytest.mark.parametrize("name", ["web", "web:latest", "docker.io/library/web"])
def test_prune_knows_an_image_by_each_of_its_names(name: str) -> None:
    host = Host({("image", "web:latest"), ("image", "web:1")})
    host.apply({"images": {name: {}}}, prune=True)
    assert [call[:3] for call in host.calls] == [("put", "image", name), ("delete", "image", "web:1")]


def test_prune_keeps_what_is_named_though_it_failed() -> None:
    host = Host({("container", "web")})
    host.failures["container", "web"] = Conflict("x")
    host.apply({"containers": {"web": {}}}, prune=True)
    assert host.there == {("container", "web")}


@pytest.mark.parametrize("kind", ["volume", "cgroup"])
def test_a_dry_prune_answers_as_the_real_one(kind: str) -> None:
    """What the containers that go had in use is free then."""
    answers = []
    for dry_run in (True, False):
        host = Host({("container", "old"), ("container", "web"), (kind, "free"), (kind, "used")})
        host.users = {(kind, "free"): {"old"}, (kind, "used"): {"old", "web"}}
        answers.append(host.apply({"containers": {"web": {}}}, dry_run=dry_run, prune=True))
    assert answers[0] == answers[1]
    failed = [item["name"] for item in answers[0]["items"] if item["error"]]
    assert failed == ["used"]


def test_a_volume_of_a_container_that_could_not_be_removed_stays() -> None:
    host = Host({("container", "old"), ("volume", "used")})
    host.users = {("volume", "used"): {"old"}}
    host.failures["container", "old"] = Conflict("it cannot be stopped")
    answer = host.apply({}, prune=True)
    assert answer["failed"] == 2
    assert ("volume", "used") in host.there


def test_without_prune_nothing_is_removed() -> None:
    host = Host({("container", "old")})
    host.apply(DOCUMENT)
    assert ("container", "old") in host.there


def test_the_same_name_in_two_kinds_is_two_things() -> None:
    host = Host({("volume", "web"), ("container", "web")})
    host.apply({"containers": {"web": {}}}, prune=True)
    assert host.there == {("container", "web")}


def test_work_goes_on_in_parallel_and_is_bounded() -> None:
    host = Host()
    host.apply({"containers": {f"c{number}": {} for number in range(50)}})
    assert 2 <= host.most_at_once <= 8
    assert len(host.there) == 50


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], ["state"]),
        ({"contaners": {}}, ["contaners", "containers"]),
        ({"containers": []}, ["containers"]),
        ({"containers": {"web": 5}}, ["containers.web"]),
        ({"containers": {5: {}}}, ["containers", "5"]),
        ({"images": {"web": {}, "docker.io/library/web:latest": {}}}, ["web", "the same image"]),
    ],
)
def test_a_document_of_another_shape_is_refused_whole(document: Any, words: list[str]) -> None:
    host = Host()
    with pytest.raises(InvalidSpec) as refused:
        host.apply(document)
    assert host.calls == []
    for word in words:
        assert word in refused.value.message
