# SPDX-License-Identifier: Apache-2.0
"""Images declared through the Mooring API with a real registry: policies, dry runs, pushes, archives."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.registry import PASSWORD, USER, RegistryUnderTest
from harness.unix_http import ApiError

pytestmark = pytest.mark.root

IMAGES = "/mooring/v1/images"


def declare(agent: AgentUnderTest, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> Any:
    return agent.api("PUT", f"{IMAGES}/{name}{'?dry_run=true' if dry_run else ''}", spec)


def publish(agent: AgentUnderTest, name: str, text: str, credentials: dict[str, str] | None = None) -> str:
    """Have a registry's name lead to busybox with a label, and forget it; returns the digest there."""
    declare(agent, name, {"template": "busybox", "config": {"labels": {"text": text}, "cmd": ["echo", text]}})
    digest: str = push(agent, name, {"credentials": credentials} if credentials else {})["result"]["digest"]
    agent.api("DELETE", f"{IMAGES}/{name}")
    return digest


def push(agent: AgentUnderTest, name: str, body: dict[str, Any], *, dry_run: bool = False) -> Any:
    return agent.api("POST", f"{IMAGES}/{name}/push{'?dry_run=true' if dry_run else ''}", body)


def label(agent: AgentUnderTest, name: str) -> str:
    text: str = agent.api("GET", f"{IMAGES}/{name}")["config"]["Labels"]["text"]
    return text


@pytest.fixture(scope="module")
def publisher(agent: AgentUnderTest) -> AgentUnderTest:
    return agent


def test_policies_do_what_their_dry_runs_say(
    publisher: AgentUnderTest, plain: RegistryUnderTest, start_agent: Callable[..., AgentUnderTest]
) -> None:
    agent = start_agent(image=False)
    name = f"{plain.host}/team/web:1"
    publish(publisher, name, "first")

    announced = declare(agent, name, {"pull": True}, dry_run=True)
    assert announced["actions"][0]["action"] == "create"
    assert agent.api("GET", IMAGES) == []
    assert declare(agent, name, {"pull": True})["actions"] == announced["actions"]
    for policy in ("missing", "always", "newer", "never"):
        assert not declare(agent, name, {"pull": policy})["changed"]
    assert label(agent, name) == "first"

    publish(publisher, name, "second")
    for policy in ("missing", "never"):
        assert not declare(agent, name, {"pull": policy}, dry_run=True)["changed"]
        assert not declare(agent, name, {"pull": policy})["changed"]
    for policy, text in (("always", "second"), ("newer", "third")):
        publish(publisher, name, text)
        announced = declare(agent, name, {"pull": policy}, dry_run=True)
        assert (announced["changed"], announced["actions"][0]["action"]) == (True, "replace")
        assert "its registry has" in announced["actions"][0]["reason"]
        assert label(agent, name) != text
        assert declare(agent, name, {"pull": policy})["actions"] == announced["actions"]
        assert label(agent, name) == text
        assert not declare(agent, name, {"pull": policy})["changed"]
        assert not declare(agent, name, {"pull": policy}, dry_run=True)["changed"]


def test_newer_is_content_without_a_registry_and_always_is_not(
    publisher: AgentUnderTest, start_agent: Callable[..., AgentUnderTest]
) -> None:
    with RegistryUnderTest() as registry:
        name = f"{registry.host}/team/web:1"
        publish(publisher, name, "first")
        agent = start_agent(image=False)
        declare(agent, name, {"pull": "newer"})
    assert not declare(agent, name, {"pull": "newer"})["changed"]
    with pytest.raises(ApiError, match=name.partition("/")[0]):
        declare(agent, name, {"pull": "always"})


def test_never_does_not_pull(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    name = f"{plain.host}/team/never:1"
    publish(agent, name, "x")
    for dry_run in (True, False):
        with pytest.raises(ApiError, match="pull policy is never"):
            declare(agent, name, {"pull": "never"}, dry_run=dry_run)


def test_another_name_to_pull_by(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    publish(agent, f"{plain.host}/team/by:1", "one")
    publish(agent, f"{plain.host}/team/by:2", "two")
    assert declare(agent, "local:1", {"pull": {"from": f"{plain.host}/team/by:1"}})["changed"]
    assert label(agent, "local:1") == "one"
    wanted = {"pull": {"from": f"{plain.host}/team/by:2", "policy": "always"}}
    assert declare(agent, "local:1", wanted, dry_run=True)["changed"]
    assert declare(agent, "local:1", wanted)["changed"]
    assert label(agent, "local:1") == "two"
    assert not declare(agent, "local:1", wanted)["changed"]


def test_credentials_are_used_and_kept_nowhere(agent: AgentUnderTest, guarded: RegistryUnderTest) -> None:
    credentials = {"username": USER, "password": PASSWORD}
    name = f"{guarded.host}/team/secret:1"
    publish(agent, name, "x", credentials)
    with pytest.raises(ApiError, match=r"denies it|wants|without credentials") as refused:
        declare(agent, name, {"pull": True})
    assert refused.value.response.status == 401
    done = declare(agent, name, {"pull": {"policy": "newer", "credentials": credentials}})
    assert (done["changed"], PASSWORD in str(done)) == (True, False)
    database = agent.config.data_root / "state.db"
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
        rows = connection.execute("SELECT * FROM declared").fetchall()
    connection.close()
    assert name in str(rows)
    assert PASSWORD not in str(rows)


def test_a_push_is_done_once(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    target = f"{plain.host}/team/pushed:1"
    announced = push(agent, "busybox", {"to": target}, dry_run=True)
    assert (announced["changed"], announced["actions"][0]["name"]) == (True, target)
    done = push(agent, "busybox", {"to": target})
    assert done["actions"] == announced["actions"]
    assert done["result"]["digest"] in plain.skopeo("inspect", f"docker://{target}")
    assert not push(agent, "busybox", {"to": target})["changed"]
    assert not push(agent, "busybox", {"to": target}, dry_run=True)["changed"]
    assert target not in str(agent.api("GET", f"{IMAGES}/busybox")["references"])


def test_a_push_under_a_name_of_another_image_leaves_that_one_its_name(
    agent: AgentUnderTest, plain: RegistryUnderTest
) -> None:
    target = f"{plain.host}/team/another:1"
    other = declare(agent, target, {"template": "busybox", "config": {"user": "7"}})["result"]["id"]
    pushed = push(agent, "busybox", {"to": target})["result"]["digest"]
    assert pushed in plain.skopeo("inspect", f"docker://{target}")
    assert agent.api("GET", f"{IMAGES}/{target}")["id"] == other


def test_a_declared_archive(agent: AgentUnderTest, tmp_path: Path) -> None:
    declare(agent, "kept:1", {"template": "busybox", "config": {"labels": {"text": "kept"}}})
    archive = tmp_path / "kept.tar"
    archive.write_bytes(agent.request("GET", "/v1.47/images/get?names=kept:1").body)
    agent.api("DELETE", f"{IMAGES}/kept:1")
    spec = {"load": {"path": str(archive), "from": "kept:1"}}
    assert declare(agent, "loaded:1", spec, dry_run=True)["changed"]
    assert declare(agent, "loaded:1", spec)["changed"]
    assert label(agent, "loaded:1") == "kept"
    assert not declare(agent, "loaded:1", spec)["changed"]
    with pytest.raises(ApiError, match="none of them"):
        declare(agent, "other:1", {"load": {"path": str(archive), "from": "absent:1"}})


def test_containers_pull_their_image(
    publisher: AgentUnderTest, plain: RegistryUnderTest, start_agent: Callable[..., AgentUnderTest]
) -> None:
    agent = start_agent(image=False)
    name = f"{plain.host}/team/run:1"
    publish(publisher, name, "first")
    path = "/mooring/v1/containers/job"
    spec = {"image": name, "command": ["sleep", "600"], "stop_timeout": 0}
    announced = agent.api("PUT", f"{path}?dry_run=true", spec)
    assert f"image {name} is not on this host yet, and is pulled" in announced["actions"][0]["reason"]
    with pytest.raises(ApiError, match="no such image"):
        agent.api("PUT", path, spec | {"pull": "never"})
    assert agent.api("PUT", path, spec)["changed"]
    assert not agent.api("PUT", path, spec)["changed"]
    publish(publisher, name, "second")
    assert not agent.api("PUT", path, spec)["changed"]
    newer = spec | {"pull": "newer"}
    planned = agent.api("PUT", f"{path}?dry_run=true", newer)["actions"]
    assert [action["action"] for action in planned] == ["replace"]
    assert "is pulled, since its registry has" in planned[0]["reason"]
    done = agent.api("PUT", path, newer)["actions"]
    assert [action["action"] for action in done] == ["replace"]
    assert label(agent, name) == "second"
    assert not agent.api("PUT", path, newer)["changed"]
    missing = f"{plain.host}/team/absent:1"
    with pytest.raises(ApiError, match=r"is to be pulled, since it is not on this host: .*absent"):
        agent.api("PUT", "/mooring/v1/containers/other", {"image": missing})


def test_usage_prune_and_verify(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    name = f"{plain.host}/team/clean:1"
    publish(agent, name, "old")
    agent.api("POST", f"{IMAGES}/{name}/pull", {})
    declare(agent, name, {"template": "busybox", "config": {"labels": {"text": "new"}}})
    usage = agent.api("GET", f"{IMAGES}/usage")
    assert usage["layers"] > 0
    nameless = [each for each in usage["images"] if not each["references"]]
    assert len(nameless) == 1
    verdict = agent.api("POST", f"{IMAGES}/busybox/verify", {})
    assert verdict["sound"]
    assert agent.api("POST", f"{IMAGES}/verify", {"repair": True})["sound"]
    pruned = agent.api("POST", f"{IMAGES}/prune", {"labels": ["text=old"]})
    assert pruned["deleted"] == [nameless[0]["id"]]
    assert not agent.api("POST", f"{IMAGES}/prune", {})["changed"]
    with pytest.raises(ApiError, match='did you mean "until"'):
        agent.api("POST", f"{IMAGES}/prune", {"untill": "1h"})


def test_settings_come_from_a_file(
    publisher: AgentUnderTest, start_agent: Callable[..., AgentUnderTest], tmp_path: Path
) -> None:
    with RegistryUnderTest(auth=True, tls=True) as registry:
        host = registry.host
        settings = tmp_path / "agent.yaml"
        (tmp_path / "password").write_text(f"{PASSWORD}\n")
        settings.write_text(
            f"registries:\n  {host}:\n    ca_file: {registry.ca_file}\n    username: {USER}\n"
            f"    password_file: {tmp_path}/password\n"
        )
        agent = start_agent(arguments=("--config", str(settings)))
        target = f"{host}/team/tls:1"
        assert push(agent, "busybox", {"to": target})["changed"]
        assert agent.api("POST", f"{IMAGES}/{target}/pull", {})["changed"]


def test_a_declared_build_follows_its_context(agent: AgentUnderTest, tmp_path: Path) -> None:
    declare(agent, "base:1", {"template": "busybox"})
    (tmp_path / "Dockerfile").write_text("FROM base:1\nCOPY text /text\nRUN cat /text /text > /twice\n")
    (tmp_path / "text").write_text("one\n")
    spec = {"build": {"context": str(tmp_path), "labels": {"text": "built"}}}

    assert declare(agent, "app:1", spec, dry_run=True)["changed"]
    first = declare(agent, "app:1", spec)
    (tmp_path / "text").touch()

    assert (first["changed"], label(agent, "app:1")) == (True, "built")
    for dry_run in (True, False):
        assert not declare(agent, "app:1", spec, dry_run=dry_run)["changed"]

    (tmp_path / "text").write_text("two\n")
    announced = declare(agent, "app:1", spec, dry_run=True)
    second = declare(agent, "app:1", spec)

    assert announced["actions"] == second["actions"]
    assert second["actions"][0]["reason"] == "what it was built from has changed"
    assert second["result"]["id"] != first["result"]["id"]
    agent.api(
        "PUT", "/mooring/v1/containers/app", {"image": "app:1", "command": ["sleep", "60"], "stop_timeout": 0}
    )
    answer = agent.api("POST", "/mooring/v1/containers/app/exec", {"argv": ["cat", "/twice"]})
    agent.api("DELETE", "/mooring/v1/containers/app")
    assert answer["stdout"] == "two\ntwo\n"


def test_a_build_pulls_what_it_is_built_on(
    publisher: AgentUnderTest, plain: RegistryUnderTest, tmp_path: Path
) -> None:
    name = f"{plain.host}/team/base:1"
    publish(publisher, name, "base")
    (tmp_path / "Dockerfile").write_text(f"FROM {name}\nRUN echo made > /made\n")

    built = declare(publisher, "pulled:1", {"build": {"context": str(tmp_path)}})

    assert built["result"]["config"]["Labels"]["text"] == "base"


def test_what_a_mirror_has_is_pushed_to_the_registry_all_the_same(
    plain: RegistryUnderTest, start_agent: Callable[..., AgentUnderTest], tmp_path: Path
) -> None:
    with RegistryUnderTest() as mirror:
        settings = tmp_path / "agent.yaml"
        settings.write_text(f"registries: {{'{plain.host}': {{mirrors: ['http://{mirror.host}']}}}}\n")
        agent = start_agent(arguments=("--config", str(settings)))
        push(agent, "busybox", {"to": f"{mirror.host}/team/mirrored:1"})
        target = f"{plain.host}/team/mirrored:1"
        assert push(agent, "busybox", {"to": target}, dry_run=True)["changed"]
        done = push(agent, "busybox", {"to": target})
        assert (done["changed"], push(agent, "busybox", {"to": target})["changed"]) == (True, False)
        assert done["result"]["digest"] in plain.skopeo("inspect", f"docker://{target}")
