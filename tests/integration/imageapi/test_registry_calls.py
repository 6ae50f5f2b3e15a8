# SPDX-License-Identifier: Apache-2.0
"""Tags listed and images removed at real registries: by the Mooring API and by `mooring registry`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.registry import PASSWORD, USER, RegistryUnderTest
from harness.unix_http import ApiError
from integration.imageapi.conftest import Mooring

pytestmark = pytest.mark.root

TAGS, REMOVE = "/mooring/v1/registry/tags", "/mooring/v1/registry/remove"
LOGIN = {"credentials": {"username": USER, "password": PASSWORD}}


def push(agent: AgentUnderTest, *names: str, **body: Any) -> str:
    for name in names:
        answer = agent.api("POST", "/mooring/v1/images/busybox/push", {"to": name, **body})
    digest: str = answer["result"]["digest"]
    return digest


def test_tags_are_listed_and_removed(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    name = f"{plain.host}/team/app"
    digest = push(agent, f"{name}:1", f"{name}:2")
    assert agent.api("POST", TAGS, {"name": name}) == {"name": name, "tags": ["1", "2"]}

    with pytest.raises(ApiError, match="has the tags 2 as well") as refused:
        agent.api("POST", REMOVE, {"name": f"{name}:1"})
    assert (refused.value.response.status, refused.value.response.json()["code"]) == (409, "conflict")

    planned = agent.api("POST", f"{REMOVE}?dry_run=true", {"name": f"{name}:1", "force": True})
    assert json.loads(plain.skopeo("inspect", f"docker://{name}:1"))["Digest"] == digest
    done = agent.api("POST", REMOVE, {"name": f"{name}:1", "force": True})
    again = agent.api("POST", REMOVE, {"name": f"{name}:1", "force": True})
    assert planned == done
    assert (done["changed"], done["before"]["digest"], done["after"]) == (True, digest, None)
    assert again == {"changed": False, "actions": [], "before": None, "after": None, "result": None}
    with pytest.raises(AssertionError, match="unknown"):
        plain.skopeo("inspect", f"docker://{name}:2")
    # What is here stays, and can be pushed again.
    assert push(agent, f"{name}:1") == digest
    assert agent.api("POST", REMOVE, {"name": f"{name}@{digest}"})["changed"]


def test_a_registry_of_a_private_ca_with_users(
    start_agent: Callable[..., AgentUnderTest], tmp_path: Path
) -> None:
    with RegistryUnderTest(auth=True, tls=True) as registry:
        name = f"{registry.host}/team/app"
        settings = tmp_path / "agent.yaml"
        settings.write_text(f"registries: {{'{registry.host}': {{ca_file: {registry.ca_file}}}}}\n")
        agent = start_agent(arguments=("--config", str(settings)))
        push(agent, f"{name}:1", **LOGIN)
        for path, reference in ((TAGS, name), (REMOVE, f"{name}:1")):
            with pytest.raises(ApiError, match="without credentials") as refused:
                agent.api("POST", path, {"name": reference})
            assert refused.value.response.status == 401
        assert agent.api("POST", TAGS, {"name": name, **LOGIN})["tags"] == ["1"]
        assert agent.api("POST", REMOVE, {"name": f"{name}:1", **LOGIN})["changed"]
        assert not agent.api("POST", REMOVE, {"name": f"{name}:1", **LOGIN})["changed"]


def test_a_registry_that_lets_nothing_be_removed(agent: AgentUnderTest) -> None:
    with RegistryUnderTest(delete=False) as registry:
        name = f"{registry.host}/team/app:1"
        push(agent, name)
        with pytest.raises(ApiError, match=r"does not allow it.*must be enabled there") as refused:
            agent.api("POST", REMOVE, {"name": name})
        assert (refused.value.response.status, refused.value.response.json()["code"]) == (
            501,
            "not_supported",
        )


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        (TAGS, {}, "tags needs name"),
        (REMOVE, {"name": 5}, "name is 5, expected a string"),
        (REMOVE, {"name": "a", "forced": True}, 'did you mean "force"'),
        (REMOVE, {"name": "A"}, "must be in lower case"),
        (REMOVE, {"name": f"a:1@sha256:{'0' * 64}"}, "a tag or a digest, not both"),
        (TAGS, {"name": "a", "credentials": {"username": "x"}}, "credentials"),
    ],
)
def test_what_is_wrong_is_named(agent: AgentUnderTest, path: str, body: Any, words: str) -> None:
    answer = agent.request("POST", path, body)
    assert answer.status == 400
    assert words in answer.json()["message"]


def test_the_command_line(mooring: Mooring, agent: AgentUnderTest, guarded: RegistryUnderTest) -> None:
    name = f"{guarded.host}/team/cli"
    login = ("--username", USER, "--password-stdin")
    push(agent, f"{name}:1", f"{name}:2", **LOGIN)
    assert mooring("registry", "tags", name, *login, stdin=PASSWORD).stdout == "TAG\n1\n2\n"
    listed = mooring("registry", "tags", name, "-o", "json", *login, stdin=PASSWORD).stdout
    assert json.loads(listed) == {"name": name, "tags": ["1", "2"]}
    refused = mooring("registry", "tags", name, check=False)
    assert (refused.returncode, "without credentials" in refused.stderr) == (1, True)

    planned = mooring("registry", "rm", f"{name}:1", "--dry-run", *login, stdin=PASSWORD)
    assert planned.stdout == f"would remove image {name}:1: {guarded.host} has it\n"
    kept = mooring("registry", "rm", f"{name}:1", *login, stdin=PASSWORD, check=False)
    assert (kept.returncode, "has the tags 2 as well" in kept.stderr) == (1, True)
    gone = mooring("registry", "rm", f"{name}:1", "--force", *login, stdin=PASSWORD)
    assert gone.stdout == f"remove image {name}:1: {guarded.host} has it\n"
    absent = mooring("registry", "rm", f"{name}:2", *login, stdin=PASSWORD, check=False)
    assert (absent.returncode, "is not at its registry" in absent.stderr) == (1, True)
