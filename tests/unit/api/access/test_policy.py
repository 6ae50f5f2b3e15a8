# SPDX-License-Identifier: Apache-2.0
"""Rules of `access`: which one decides, what it allows, what is refused and how it is told."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api import docker, fleet
from mooring_agent.api.access.accounts import Accounts
from mooring_agent.api.access.hiding import HIDDEN, hidden, without_values
from mooring_agent.api.access.peers import Peer, common_name
from mooring_agent.api.access.policy import Policy, Rule
from mooring_agent.api.messages import json_response
from mooring_agent.api.router import Need, Route
from mooring_agent.errors import InvalidSpec

from ..fake_engine import FakeEngine
from ..served import Served, served

UIDS = {"alice": 1001, "bob": 1002}
GIDS = {"ops": 2001, "guests": 2002}


def accounts() -> Accounts:
    return Accounts(UIDS.__getitem__, GIDS.__getitem__)


def policy(*rules: dict[str, Any]) -> Policy:
    return Policy([Rule.parse(rule, 1 + i) for i, rule in enumerate(rules)], accounts(), own_uid=500)


RULES = policy(
    {"users": ["bob"], "allow": "read"},
    {"users": ["alice", 1003], "groups": ["ops"], "allow": "all"},
    {"groups": ["guests", "2003"], "certificates": ["CN=ci"], "allow": "read"},
)


@pytest.mark.parametrize(
    ("peer", "decision"),
    [
        (Peer(0), (0, Need.ALL)),
        (Peer(500), (0, Need.ALL)),
        (Peer(1001), (2, Need.ALL)),
        (Peer(1002, frozenset({2001})), (1, Need.READ)),  # the first that fits
        (Peer(1003), (2, Need.ALL)),
        (Peer(1004, frozenset({7, 2001, 2002})), (2, Need.ALL)),
        (Peer(1004, frozenset({2003})), (3, Need.READ)),
        (Peer(1004, frozenset({2004})), (0, None)),
        (Peer(common_name="ci"), (3, Need.READ)),
        (Peer(common_name="CI"), (0, None)),
        (Peer(common_name="bob"), (0, None)),
        (Peer(common_name="root"), (0, None)),
        (Peer(), (0, None)),
    ],
)
def test_the_first_rule_that_fits_decides(peer: Peer, decision: tuple[int, Need | None]) -> None:
    assert asyncio.run(RULES.decide(peer)) == decision


def test_names_that_are_nobodys_fit_nobody() -> None:
    rules = policy({"users": ["mallory"], "groups": ["gone"], "allow": "all"})
    assert asyncio.run(rules.decide(Peer(1001, frozenset({2001})))) == (0, None)


@pytest.mark.parametrize(
    ("rules", "parts"),
    [
        ([], ["access", "0 rules"]),
        (["alice"], ["rule 1", "mapping"]),
        ([{"users": ["a"], "allow": "all"}, {"users": ["a"], "allow": "none"}], ["rule 2", "none", "read"]),
        ([{"users": ["a"]}], ["rule 1", "allow"]),
        ([{"allow": "all"}], ["rule 1", "nobody"]),
        ([{"users": [], "allow": "all"}], ["rule 1", "users"]),
        ([{"users": "alice", "allow": "all"}], ["rule 1", "users", "alice"]),
        ([{"users": [True], "allow": "all"}], ["rule 1", "users"]),
        ([{"users": [-1], "allow": "all"}], ["rule 1", "users"]),
        ([{"groups": ["a b"], "allow": "all"}], ["rule 1", "groups", "a b"]),
        ([{"certificates": ["ci"], "allow": "all"}], ["rule 1", "certificates", "CN=ci"]),
        ([{"users": ["a"], "allow": "all", "names": ["ci-*"]}], ["rule 1", "names", "unknown"]),
        ([{"users": ["a"], "allow": ["all"]}], ["rule 1", "allow"]),
    ],
)
def test_a_rule_that_is_no_use_is_named(rules: list[Any], parts: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        Policy.parse(rules)
    assert all(part in caught.value.message for part in parts), caught.value.message


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["users", "groups", "certificates", "allow"]), inner)
        ),
    )
)
def test_any_rule_is_usable_or_refused(spec: Any) -> None:
    try:
        rule = Rule.parse(spec, 1)
    except InvalidSpec:
        return
    assert rule.users or rule.groups or rule.common_names


def test_common_names() -> None:
    assert common_name({"subject": ((("organizationName", "x"),), (("commonName", "ci"),))}) == "ci"
    assert common_name({"subject": ((("commonName", "ci"), ("commonName", "root")),)}) is None
    assert common_name({"subject": ((("commonName", ""),),)}) is None
    assert common_name({}) is None


def test_no_instruction_of_the_build_cache_is_told() -> None:
    assert hidden({"BuildCache": [{"Description": "RUN a", "Size": 1}]}) == {
        "BuildCache": [{"Description": HIDDEN, "Size": 1}]
    }


def test_no_instruction_for_builds_upon_an_image_is_told() -> None:
    reply = json_response({"Config": {"OnBuild": ["ENV PASSWORD=pass-word", "RUN b"], "Cmd": None}})
    assert json.loads(without_values(reply).body) == {"Config": {"OnBuild": [HIDDEN, HIDDEN], "Cmd": None}}
    assert hidden({"OnBuild": None}) == {"OnBuild": None}


@pytest.mark.parametrize("key", ["Options", "driver_opts"])
def test_a_reader_sees_no_password_of_a_volume(key: str) -> None:
    options = {"type": "cifs", "device": "//server/share", "o": "ro,username=me,password=secret"}
    reply = json_response([{key: options}, {key: None}])
    assert json.loads(without_values(reply).body) == [
        {key: options | {"o": f"ro,username={HIDDEN},password={HIDDEN}"}},
        {key: None},
    ]
    assert hidden({key: {"parent": "eth0"}}) == {key: {"parent": "eth0"}}


ENVIRONMENT = st.lists(st.text()) | st.dictionaries(st.text(), st.text())


@given(ENVIRONMENT, st.sampled_from(["Env", "env"]))
def test_no_value_of_an_environment_is_told(environment: Any, key: str) -> None:
    document = [{"a": {key: environment, "Labels": {"env": "test"}}, "Id": "x"}]
    (found,) = hidden(document)
    assert (found["Id"], found["a"]["Labels"]) == ("x", {"env": "test"})
    shown = found["a"][key]
    if isinstance(shown, dict):
        assert list(shown) == list(environment)
        assert set(shown.values()) <= {HIDDEN}
    else:
        assert [each.partition("=")[0] for each in shown] == [each.partition("=")[0] for each in environment]
        assert all(each.partition("=")[2] == HIDDEN for each in shown)


# -- on a server ---------------------------------------------------------------------------------------------


def all_routes(engine: FakeEngine) -> list[Route]:
    real = cast(Any, engine)
    return [*docker.routes(real), *fleet.routes(real)]


def test_every_route_says_what_it_needs(tmp_path: Path) -> None:
    silent = [
        f"{route.method} {route.path}" for route in all_routes(FakeEngine(tmp_path)) if route.needs is None
    ]
    assert silent == [], "say needs=Need.READ or Need.ALL at these routes, and READ ones in docs/access.md"


# What changes nothing although it is not asked by GET; and what is asked by GET and is more than to look.
READ_BY_POST = {"POST /containers/{id}/wait"}
MORE_THAN_READ = {
    "GET /containers/{id}/archive",
    "GET /containers/{id}/attach/ws",
    "GET /containers/{id}/export",
    "GET /distribution/{ref:path}/json",
    "GET /images/get",
    "GET /images/{ref:path}/get",
    "GET /images/{ref:path}/history",
    "GET /mooring/v1/host/network-key",
    "GET /plugins/privileges",
    "HEAD /containers/{id}/archive",
}


def test_what_may_be_read_is_what_the_documentation_says(tmp_path: Path, project_root: Path) -> None:
    routes = all_routes(FakeEngine(tmp_path))
    named = {f"{route.method} {route.path}": route.needs for route in routes}
    for name, needs in named.items():
        looks = name.startswith(("GET ", "HEAD ")) and name not in MORE_THAN_READ
        assert needs is (Need.READ if looks or name in READ_BY_POST else Need.ALL), name
    assert named.keys() >= READ_BY_POST | MORE_THAN_READ
    text = (project_root / "docs" / "access.md").read_text(encoding="utf-8")
    told = text.partition("## What `read` includes")[2].partition("\n## ")[0]
    missing = [name for name, needs in named.items() if needs is Need.READ and f"`{name}`" not in told]
    assert missing == [], "docs/access.md does not tell of these"


class ReadOnly(Accounts):
    """Takes whoever runs the tests for `me`, in no group."""

    async def uid(self, name: str) -> int | None:
        return os.geteuid() if name == "me" else None

    async def gid(self, name: str) -> int | None:
        return None


class Held(Policy):
    """Rules that hold root, too: the tests may be run by root."""

    def __init__(self, *rules: dict[str, Any]) -> None:
        super().__init__([Rule.parse(rule, 1 + i) for i, rule in enumerate(rules)], ReadOnly())
        self._always = set()


@pytest.fixture
def engine(tmp_path: Path) -> FakeEngine:
    return FakeEngine(tmp_path)


@pytest.fixture
def reader(tmp_path: Path, engine: FakeEngine) -> Iterator[Served]:
    rules = Held({"users": ["other"], "allow": "all"}, {"users": ["me"], "allow": "read"})
    with served(tmp_path / "s" / "r.sock", all_routes(engine), policy=rules) as running:
        yield running


@pytest.fixture
def owner(tmp_path: Path, engine: FakeEngine) -> Iterator[Served]:
    with served(tmp_path / "s" / "o.sock", all_routes(engine)) as running:
        yield running


def test_a_reader_looks_and_sees_no_values(owner: Served, reader: Served) -> None:
    made = owner.call(
        "POST", "/containers/create?name=web1", {"Image": "web:1", "Env": ["PASSWORD=pass-word"]}
    )
    assert made.status == 201
    for path in ("/_ping", "/v1.47/containers/json?all=1", "/mooring/v1/host"):
        assert reader.call("GET", path).status == 200
    for path, key in (("/containers/web1/json", "Config"), ("/mooring/v1/containers/web1", "spec")):
        assert b"pass-word" in owner.call("GET", path).body
        answer = reader.call("GET", path)
        assert b"pass-word" not in answer.body
        assert "PASSWORD" in json.dumps(answer.json()[key])
        assert answer.headers["content-length"] == str(len(answer.body))


def test_a_reader_has_no_arguments_of_ps(owner: Served, reader: Served) -> None:
    assert owner.call("POST", "/containers/create?name=web1", {"Image": "web:1"}).status == 201
    assert owner.call("POST", "/containers/web1/start").status == 204
    assert reader.call("GET", "/containers/web1/top").status == 200
    for arguments in ("auxe", "-o+pid"):
        assert owner.call("GET", f"/containers/web1/top?ps_args={arguments}").status == 200
        refused = reader.call("GET", f"/containers/web1/top?ps_args={arguments}")
        assert refused.status == 403
        assert "ps_args" in refused.json()["message"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1.47/containers/create"),
        ("DELETE", "/containers/web1"),
        ("POST", "/containers/web1/exec"),
        ("POST", "/containers/web1/attach"),
        ("GET", "/containers/web1/export"),
        ("GET", "/images/web:1/get"),
        ("PUT", "/mooring/v1/state?dry_run=true"),
        ("POST", "/mooring/v1/containers/web1/shell"),
        ("PUT", "/mooring/v1/containers/web1"),
    ],
)
def test_a_reader_does_nothing_else(reader: Served, method: str, path: str) -> None:
    answer = reader.call(method, path)
    assert answer.status == 403
    message = answer.json()["message"]
    bare = path.partition("?")[0]
    for part in (f"uid {os.geteuid()}", f"{method} {bare}", "rule 2", "read"):
        assert part in message
    assert answer.json().get("code") == ("forbidden" if path.startswith("/mooring") else None)


def test_who_fits_no_rule_does_nothing(
    tmp_path: Path, engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    rules = Held({"users": ["other"], "allow": "all"})
    with served(tmp_path / "s" / "n.sock", all_routes(engine), policy=rules) as running:
        for _ in range(15):
            answer = running.call("GET", "/_ping")
            assert answer.status == 403
            assert f"uid {os.geteuid()}" in answer.json()["message"]
    refusals = [each.getMessage() for each in caplog.records if "refused" in each.getMessage()]
    assert len(refusals) == 10
    assert "path='/_ping'" in refusals[0]


def test_a_route_that_says_nothing_is_not_for_readers(tmp_path: Path) -> None:
    async def call(request: object) -> Any:
        raise AssertionError("it was called")

    with served(
        tmp_path / "s.sock",
        [Route("GET", "/new", cast(Any, call))],
        policy=Held({"users": ["me"], "allow": "read"}),
    ) as running:
        assert running.call("GET", "/new").status == 403
