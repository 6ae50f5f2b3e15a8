# SPDX-License-Identifier: Apache-2.0
"""Docker's images with the real client and a real registry: pull, push, save, load, commit, prune."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.registry import PASSWORD, USER, RegistryUnderTest

pytestmark = [pytest.mark.root, pytest.mark.docker]


def pushed(agent: AgentUnderTest, registry: RegistryUnderTest, name: str, text: str = "one") -> str:
    """Push busybox with one more layer in which /content says something; returns the whole name."""
    reference = f"{registry.host}/{name}"
    container = agent.docker("create", "busybox", "sh").stdout.strip()
    agent.docker("rm", container)
    agent.docker("run", "--name", "maker", "busybox", "sh", "-c", f"echo {text} > /content")
    agent.docker("commit", "--change", "CMD cat /content", "maker", reference)
    agent.docker("rm", "maker")
    agent.docker("push", reference)
    return reference


def test_push_and_pull_tell_what_docker_tells(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    name = pushed(agent, plain, "team/app:1")
    again = agent.docker("push", name).stdout
    assert "Layer already exists" in again
    digest = json.loads(plain.skopeo("inspect", f"docker://{name}"))["Digest"]
    assert f"1: digest: {digest} size: " in again
    agent.docker("rmi", name)
    first = agent.docker("pull", name).stdout
    assert f"Digest: {digest}" in first
    assert f"Status: Downloaded newer image for {name}" in first
    assert f"Status: Image is up to date for {name}" in agent.docker("pull", name).stdout
    assert agent.docker("run", "--rm", name).stdout == "one\n"
    listed = agent.docker("images", "--digests", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}}").stdout
    assert f"{name} {digest}" in listed.splitlines()
    assert (
        agent.docker("inspect", "--format", "{{index .RepoDigests 0}}", name).stdout.strip().endswith(digest)
    )
    agent.docker("rmi", name)


def test_all_tags(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    names = [f"{plain.host}/team/tags:{tag}" for tag in ("1", "2")]
    for name in names:
        agent.docker("tag", "busybox", name)
    agent.docker("push", "-a", f"{plain.host}/team/tags")
    agent.docker("rmi", *names)
    agent.docker("pull", "-a", f"{plain.host}/team/tags")
    agent.docker("rmi", *names)


def test_run_pulls_what_is_absent(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    name = pushed(agent, plain, "team/run:1")
    agent.docker("rmi", name)
    done = agent.docker("run", "--rm", name)
    assert done.stdout == "one\n"
    assert "Unable to find image" in done.stderr
    agent.docker("rmi", name)


def test_a_login_without_credentials_is_taken_where_none_are_wanted(
    agent: AgentUnderTest, plain: RegistryUnderTest, guarded: RegistryUnderTest
) -> None:
    """docker-py asks so for users who have said neither name nor password."""
    nobody = {"username": None, "password": None, "email": None}
    asked = [
        agent.request("POST", "/v1.47/auth", nobody | {"serveraddress": registry.host})
        for registry in (plain, guarded)
    ]
    assert [answer.status for answer in asked] == [200, 401]


def test_an_absent_image_is_told_as_docker_tells_it(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    missing = f"{plain.host}/none/such:1"
    done = agent.docker("pull", missing, check=False)
    assert done.returncode != 0
    assert "none/such" in done.stderr
    created = agent.request("POST", "/v1.47/containers/create", {"Image": missing})
    assert (created.status, created.json()["message"]) == (404, f"No such image: {missing}")


def test_login_is_needed_where_it_is(agent: AgentUnderTest, guarded: RegistryUnderTest) -> None:
    name = f"{guarded.host}/team/secret:1"
    agent.docker("tag", "busybox", name)
    refused = agent.docker("push", name, check=False)
    assert refused.returncode != 0
    wrong = agent.docker("login", "-u", USER, "--password-stdin", guarded.host, stdin="wrong", check=False)
    assert wrong.returncode != 0
    agent.docker("login", "-u", USER, "--password-stdin", guarded.host, stdin=PASSWORD)
    agent.docker("push", name)
    agent.docker("rmi", name)
    agent.docker("pull", name)
    described = json.loads(agent.docker("manifest", "inspect", "--insecure", name).stdout)
    assert described["schemaVersion"] == 2
    agent.docker("logout", guarded.host)
    assert agent.docker("pull", name, check=False).returncode != 0
    agent.docker("rmi", name)


def test_distribution_tells_the_platforms(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    name = pushed(agent, plain, "team/platforms:1")
    told = agent.api("GET", f"/v1.47/distribution/{name}/json")
    assert told["Descriptor"]["digest"].startswith("sha256:")
    assert told["Platforms"][0]["os"] == "linux"
    agent.docker("rmi", name)


def test_save_and_load(agent: AgentUnderTest, plain: RegistryUnderTest, tmp_path: Path) -> None:
    name = pushed(agent, plain, "team/saved:1")
    archive = tmp_path / "images.tar"
    agent.docker("save", "-o", str(archive), name, "busybox")
    agent.docker("rmi", name)
    assert f"Loaded image: {name}" in agent.docker("load", "-i", str(archive)).stdout
    assert agent.docker("run", "--rm", name).stdout == "one\n"
    one = agent.request("GET", f"/v1.47/images/{name}/get").body
    assert b"manifest.json" in one
    agent.docker("rmi", name)
    missing = agent.docker("save", "none/such:1", check=False)
    assert "none/such:1" in missing.stderr


def test_commit_diff_history_export_import(agent: AgentUnderTest) -> None:
    agent.docker("run", "--name", "worker", "-e", "A=1", "busybox", "sh", "-c", "echo x > /made; rm /bin/cat")
    changed = agent.docker("diff", "worker").stdout.splitlines()
    assert "A /made" in changed
    assert "D /bin/cat" in changed
    agent.docker("commit", "-m", "by hand", "-a", "me", "--change", "LABEL k=v", "worker", "worked:1")
    shown = json.loads(agent.docker("inspect", "worked:1").stdout)[0]
    assert shown["Author"] == "me"
    assert shown["Comment"] == "by hand"
    assert shown["Config"]["Labels"] == {"k": "v"}
    assert "A=1" in shown["Config"]["Env"]
    assert shown["Config"]["Cmd"] == ["sh", "-c", "echo x > /made; rm /bin/cat"]
    history = agent.docker("history", "--format", "{{.Comment}}|{{.Size}}", "worked:1").stdout.splitlines()
    assert history[0].startswith("by hand|")
    assert history[0] != "by hand|0B"
    exported = subprocess.run(
        agent.docker_command("export", "worker"),
        env=agent.docker_environment(),
        capture_output=True,
        check=True,
    ).stdout
    agent.docker("import", "-", "flat:1", stdin=exported)
    assert agent.docker("run", "--rm", "flat:1", "ls", "/made").stdout == "/made\n"
    check = ("--change", "HEALTHCHECK --interval=1s CMD test -e /made", "--change", 'CMD ["ls", "/made"]')
    agent.docker("import", *check, "-", "checked:1", stdin=exported)
    shown = json.loads(agent.docker("inspect", "checked:1").stdout)[0]
    assert shown["Config"]["Healthcheck"] == {
        "Test": ["CMD-SHELL", "test -e /made"],
        "Interval": 1_000_000_000,
    }
    agent.docker("run", "--name", "checked", "checked:1")
    agent.docker("commit", "--change", "HEALTHCHECK NONE", "checked", "unchecked:1")
    shown = json.loads(agent.docker("inspect", "unchecked:1").stdout)[0]
    assert shown["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    refused = agent.docker("commit", "--change", "RUN true", "checked", check=False)
    assert "RUN is no instruction that changes" in refused.stderr
    agent.docker("rm", "worker")
    agent.docker("rmi", "worked:1", "flat:1")


def test_a_running_container_is_frozen_for_a_commit(agent: AgentUnderTest) -> None:
    agent.docker("run", "-d", "--name", "busy", "busybox", "sleep", "600")
    agent.docker("commit", "busy", "busy:1")
    assert agent.docker("inspect", "-f", "{{.State.Status}}", "busy").stdout == "running\n"
    agent.docker("rm", "-f", "busy")
    agent.docker("rmi", "busy:1")


def test_prune_and_df(agent: AgentUnderTest, plain: RegistryUnderTest) -> None:
    name = pushed(agent, plain, "team/old:1")
    agent.docker("tag", "busybox", name)  # what bore it has no name any more
    dangling = agent.docker("images", "-q", "--filter", "dangling=true").stdout.split()
    assert len(dangling) == 1
    assert "Images" in agent.docker("system", "df").stdout
    agent.docker("system", "df", "-v")
    pruned = agent.docker("image", "prune", "-f").stdout
    assert "deleted: sha256:" in pruned
    assert agent.docker("images", "-q", "--filter", "dangling=true").stdout == ""
    agent.docker("rmi", name)
    unlike = agent.docker("image", "prune", "-af", "--filter", "label=none").stdout
    assert "0B" in unlike
