# SPDX-License-Identifier: Apache-2.0
"""Builds by the docker client and by the command line."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.host import docker_client
from integration.images.building import config_file, tree_of, unpack_image, write_context

pytestmark = pytest.mark.root


@pytest.mark.docker
def test_the_docker_client_builds(agent: AgentUnderTest, tmp_path: Path) -> None:
    client = docker_client()
    assert client is not None
    dockerfile = 'FROM busybox\nARG A\nCOPY . /all/\nRUN echo "says $A"\nCMD ["cat", "/all/f"]\n'
    context = write_context(
        tmp_path / "context", dockerfile, {"f": "from docker\n", ".dockerignore": "x\n", "x": ""}
    )
    environment = {**agent.docker_environment(), "DOCKER_BUILDKIT": "0"}

    def docker(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([client, *words], env=environment, capture_output=True, text=True, timeout=60)

    done = docker("build", "-t", "from-docker:1", "-t", "from-docker:2", "--build-arg", "A=b", str(context))
    assert done.returncode == 0, done.stderr
    assert "says b\n" in done.stdout
    assert "Successfully tagged from-docker:2\n" in done.stdout
    assert docker("run", "--rm", "from-docker:1").stdout == "from docker\n"
    image = docker("build", "-q", str(context)).stdout.strip()
    assert image.startswith("sha256:")

    (context / "Dockerfile").write_text("FROM busybox\nRUN exit 9\n")
    failed = docker("build", str(context))
    assert failed.returncode == 9
    assert "Dockerfile:2: RUN exit 9 ended with exit code 9" in failed.stderr


def test_the_command_line_builds(agent: AgentUnderTest, tmp_path: Path) -> None:
    context = write_context(
        tmp_path / "context",
        "FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s\nCOPY . /all/\n",
        {".dockerignore": "left-out\n", "left-out": "x", "kept": "y"},
    )
    (tmp_path / "secret").write_text("whispered\n")

    def mooring(*words: str, **options: object) -> subprocess.CompletedProcess[str]:
        command = [
            shutil.which("mooring", path=os.path.dirname(sys.executable)) or "mooring",
            "build",
            *words,
        ]
        environment = {**os.environ, "MOORING_SOCKET": str(agent.socket)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]

    done = mooring("-t", "cli", "--secret", f"id=s,src={tmp_path}/secret", str(context))
    assert done.returncode == 0, done.stderr
    assert "whispered\n" in done.stderr
    tree = tree_of(unpack_image(agent, done.stdout.strip(), tmp_path / "tree"))
    assert "all/kept" in tree
    assert "all/left-out" not in tree
    inline = mooring("-f", "-", "-q", str(context), input="FROM busybox\nLABEL a=b\n")
    assert config_file(agent, inline.stdout.strip())["config"]["Labels"] == {"a": "b"}
    assert inline.stderr == ""
    bad = mooring(str(tmp_path / "absent"))
    assert (bad.returncode, bad.stdout) == (1, "")


def test_buildkits_protocol_is_refused(agent: AgentUnderTest) -> None:
    answer = agent.request("POST", "/v1.43/build?version=2", b"")
    assert answer.status == http.client.NOT_IMPLEMENTED
    assert "DOCKER_BUILDKIT=0" in answer.json()["message"]
