# SPDX-License-Identifier: Apache-2.0
"""Clients that want BuildKit: they build with the classic builder, or are told what to do. Nobody waits."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest

pytestmark = [pytest.mark.root, pytest.mark.docker]

DEBIANS = Path("/usr/bin/docker")  # docker.io 20.10, which has BuildKit built in


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
    if not DEBIANS.exists():
        pytest.skip("Debian's docker.io is not installed")
    shown = subprocess.run([DEBIANS, "--version"], capture_output=True, text=True, timeout=60, check=True)
    if "version 20.10." not in shown.stdout:
        pytest.skip(f"a client of 20.10 is wanted, and {DEBIANS} is {shown.stdout.strip()}")
    return str(DEBIANS)


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
