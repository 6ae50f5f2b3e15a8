# SPDX-License-Identifier: Apache-2.0
"""Clients that want BuildKit: they build with the classic builder, or are told what to do. Nobody waits."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.host import docker_client

pytestmark = [pytest.mark.root, pytest.mark.docker]

OLD = "version 20.10."  # which has BuildKit built in
DEBIANS = "/usr/bin/docker"


def build(
    agent: AgentUnderTest, client: str, directory: Path, stdin: bytes = b"", **environment: str
) -> subprocess.CompletedProcess[str]:
    (directory / "Dockerfile").write_text("FROM busybox\nRUN true\n")
    done = subprocess.run(
        [client, "build", "-t", "wanted:1", "-" if stdin else str(directory)],
        env=agent.docker_environment() | environment,
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode().replace("\n", " ")
    )


@pytest.fixture
def old_client() -> str:
    """The path of such a client: the one of all tests, else Debian's. No script installs one for its age."""
    clients = [client for client in (docker_client(), shutil.which(DEBIANS)) if client is not None]
    versions = {client: version(client) for client in clients}
    found = next((client for client, shown in versions.items() if OLD in shown), None)
    if found is None:
        pytest.skip(f"needs a docker client of {OLD}x, as Debian 12's docker.io has; here are {versions}")
    return found


def version(client: str) -> str:
    done = subprocess.run([client, "--version"], capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


def test_without_a_word_the_classic_builder_builds(agent: AgentUnderTest, tmp_path: Path) -> None:
    done = build(agent, agent.docker_command()[0], tmp_path)
    assert (done.returncode, "Successfully tagged wanted:1" in done.stdout) == (0, True), done.stderr


def test_a_client_whose_buildx_is_missing_says_so(agent: AgentUnderTest, tmp_path: Path) -> None:
    done = build(agent, agent.docker_command()[0], tmp_path, DOCKER_BUILDKIT="1")
    assert done.returncode != 0
    assert "buildx" in done.stderr or "DOCKER_BUILDKIT=0" in done.stderr


def test_an_old_client_builds_by_default(agent: AgentUnderTest, old_client: str, tmp_path: Path) -> None:
    done = build(agent, old_client, tmp_path)
    assert (done.returncode, "Successfully tagged wanted:1" in done.stdout) == (0, True), done.stderr


@pytest.mark.parametrize("stdin", [b"", b"FROM busybox\n"])
def test_an_old_client_that_is_made_to_use_buildkit_is_told_what_to_do(
    agent: AgentUnderTest, old_client: str, tmp_path: Path, stdin: bytes
) -> None:
    done = build(agent, old_client, tmp_path, stdin, DOCKER_BUILDKIT="1")
    assert done.returncode == 1
    assert "BuildKit's sessions are not spoken: build with DOCKER_BUILDKIT=0" in done.stderr
