# SPDX-License-Identifier: Apache-2.0
"""Declared images of this host: further names, ages of templates, LXC images; and what goes."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.unix_http import ApiError

pytestmark = pytest.mark.root

IMAGES = "/mooring/v1/images"


def declare(agent: AgentUnderTest, name: str, spec: dict[str, Any], *, dry_run: bool = False) -> Any:
    return agent.api("PUT", f"{IMAGES}/{name}{'?dry_run=true' if dry_run else ''}", spec)


def steps(outcome: Any) -> list[tuple[str, str]]:
    return [(action["action"], action["name"]) for action in outcome["actions"]]


def test_an_image_gets_its_further_names_back(agent: AgentUnderTest) -> None:
    spec = {"template": "busybox", "config": {"labels": {"n": "1"}}, "tags": ["also:2", "also"]}
    announced = declare(agent, "tagged", spec, dry_run=True)
    done = declare(agent, "tagged", spec)

    assert steps(announced) == steps(done)
    assert steps(done) == [("create", "tagged"), ("tag", "also:2"), ("tag", "also:latest")]
    assert done["result"]["references"] == ["also:2", "also:latest", "tagged:latest"]
    assert not declare(agent, "tagged", spec)["changed"]

    declare(agent, "other", {"template": "busybox", "config": {"labels": {"n": "2"}}, "tags": ["also"]})
    for dry_run in (True, False):
        assert steps(declare(agent, "tagged", spec, dry_run=dry_run)) == [("tag", "also:latest")]
    assert not declare(agent, "tagged", spec)["changed"]


def test_a_short_name_and_the_full_one_are_one_declaration(agent: AgentUnderTest) -> None:
    spec = {"template": "busybox", "config": {"labels": {"n": "3"}}}
    declare(agent, "short", spec)
    for name in ("short:latest", "docker.io/library/short", "short"):
        assert not declare(agent, name, spec, dry_run=True)["changed"]
        assert not declare(agent, name, spec)["changed"]
    document = {"images": {"short:latest": spec, "busybox": {"template": "busybox"}}}
    answer = agent.api("PUT", "/mooring/v1/state?prune=true&dry_run=true", document)
    assert "short" not in str([item for item in answer["items"] if item["changed"]])
    agent.docker("rmi", "short:latest")
    assert declare(agent, "short", spec, dry_run=True)["before"] is None
    declare(agent, "short", spec)
    removed = agent.api("DELETE", f"{IMAGES}/short:latest")
    assert removed["before"]["config"] == spec["config"]


def test_tags_alone_are_for_an_image_that_is_there(agent: AgentUnderTest) -> None:
    with pytest.raises(ApiError, match="nothing-here"):
        declare(agent, "nothing-here", {"tags": ["x"]})
    for dry_run in (True, False):
        outcome = declare(agent, "busybox", {"tags": ["alone"]}, dry_run=dry_run)
        assert steps(outcome) == [("tag", "alone:latest")]
        assert (outcome["before"], outcome["after"]) == ({"tags": []}, {"tags": ["alone:latest"]})
    assert not declare(agent, "busybox", {"tags": ["alone"]})["changed"]


def test_a_name_in_use_goes_with_force(agent: AgentUnderTest) -> None:
    declare(agent, "used", {"template": "busybox", "config": {"labels": {"n": "3"}}})
    agent.api("PUT", "/mooring/v1/containers/user", {"image": "used", "state": "stopped"})

    with pytest.raises(ApiError, match="in use by a container"):
        agent.api("DELETE", f"{IMAGES}/used")
    assert agent.api("DELETE", f"{IMAGES}/used?force=true")["changed"]
    assert not agent.api("DELETE", f"{IMAGES}/used?force=true")["changed"]

    agent.api("DELETE", "/mooring/v1/containers/user?force=true")


def test_what_would_be_pruned_is_told(agent: AgentUnderTest) -> None:
    made = declare(agent, "old", {"template": "busybox", "config": {"labels": {"prune": "me"}}})
    wanted = {"all": True, "labels": ["prune=me"]}

    announced = agent.api("POST", f"{IMAGES}/prune?dry_run=true", wanted)
    assert announced["deleted"] == [made["result"]["id"]]
    assert announced["freed"] == 0
    kept = agent.api("POST", f"{IMAGES}/prune", {**wanted, "until": "1h"})
    assert not kept["changed"]
    done = agent.api("POST", f"{IMAGES}/prune", wanted)
    assert {**done, "freed": 0} == announced
    assert not agent.api("POST", f"{IMAGES}/prune?dry_run=true", wanted)["changed"]


def test_an_lxc_image_is_imported_again_when_its_metadata_change(
    agent: AgentUnderTest, tmp_path: Path
) -> None:
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    with tarfile.open(tmp_path / "rootfs.tar.xz", "w:xz") as archive:
        archive.add(tree, ".")
    metadata = tmp_path / "metadata.yaml"
    metadata.write_text("architecture: x86_64\ncreation_date: 1700000000\nproperties: {os: Debian}\n")
    spec = {"import": {"path": str(tmp_path / "rootfs.tar.xz"), "metadata": str(metadata)}}

    made = declare(agent, "lxc", spec)["result"]
    assert (made["architecture"], made["created_at"]) == ("amd64", "2023-11-14T22:13:20Z")
    assert made["config"]["Labels"] == {"image.os": "Debian"}
    assert not declare(agent, "lxc", spec)["changed"]

    metadata.write_text("architecture: x86_64\nproperties: {os: Devuan}\n")
    assert declare(agent, "lxc", spec)["result"]["config"]["Labels"] == {"image.os": "Devuan"}


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_template_that_is_too_old_is_told(agent: AgentUnderTest) -> None:
    template = {"name": "debian", "variant": "essential", "max_age": "999w"}
    assert agent.api("PUT", f"{IMAGES}/aged", {"template": template}, timeout=240)["changed"]
    assert not declare(agent, "aged", {"template": template})["changed"]

    young = declare(agent, "aged", {"template": {**template, "max_age": "1s"}}, dry_run=True)
    assert [action["reason"] for action in young["actions"]] == ["its template was built more than 1s ago"]
    assert not declare(agent, "aged", {"template": template}, dry_run=True)["changed"]
