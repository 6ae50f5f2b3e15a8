# SPDX-License-Identifier: Apache-2.0
"""Contexts that nobody sends: a Dockerfile, an archive or a git repository that the agent fetches."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import pytest

from harness.agent import AgentUnderTest
from harness.claims import free_port
from harness.host import need_programs
from harness.unix_http import Response, UnixConnection
from harness.waiting import PATIENCE, eventually
from harness.web import Silent, served

pytestmark = pytest.mark.root

DOCKERFILE = b"FROM busybox\nRUN echo fetched > /told\n"


FILES: dict[str, bytes] = {}
# Of a command with more processes than the group of these tests may have.
CROWD = "RUN for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"
GROUP = {"pids_limit": 4}


class Site(Silent):
    """Answers with what is in FILES, and breaks off what ends with /cut."""

    def do_GET(self) -> None:
        body = FILES.get(self.path)
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body) + (self.path.endswith("/cut"))))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    with served(Site) as url:
        yield url


def archive(files: dict[str, bytes], mode: str = "w:") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return out.getvalue()


def build(agent: AgentUnderTest, **query: str) -> Response:
    return agent.request("POST", f"/v1.44/build?{urllib.parse.urlencode(query)}", timeout=60.0 * PATIENCE)


def own(agent: AgentUnderTest, *words: str) -> None:
    """`mooring build`."""
    command = (sys.executable, "-m", "mooring_agent", "build", *words)
    environment = {**os.environ, "MOORING_SOCKET": str(agent.socket)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def classic(agent: AgentUnderTest, *words: str) -> subprocess.CompletedProcess[str]:
    """`docker build`, with the classic builder."""
    environment = {**agent.docker_environment(), "DOCKER_BUILDKIT": "0"}
    command = agent.docker_command("build", *words)
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def told(agent: AgentUnderTest, image: str, path: str = "/told") -> str:
    return str(agent.docker("run", "--rm", image, "cat", path).stdout)


# --- over HTTP


@pytest.mark.docker
def test_a_dockerfile_is_a_context_of_its_own(agent: AgentUnderTest, site: str) -> None:
    FILES["/Dockerfile.txt"] = DOCKERFILE
    answer = build(agent, remote=f"{site}/Dockerfile.txt", t="of-a-file")
    assert answer.status == 200
    assert b"Successfully tagged of-a-file:latest" in answer.body
    assert told(agent, "of-a-file") == "fetched\n"


@pytest.mark.docker
@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:xz"])
def test_an_archive_is_a_context(agent: AgentUnderTest, site: str, mode: str) -> None:
    files = {"sub/Dockerfile": b"FROM busybox\nCOPY a /told\n", "a": b"in it", ".dockerignore": b"b\n"}
    FILES["/context"] = archive(files, mode)
    answer = build(
        agent, remote=f"{site}/context", t="of-an-archive", dockerfile="sub/Dockerfile", nocache="1"
    )
    assert b"Successfully tagged" in answer.body, answer.body
    assert told(agent, "of-an-archive") == "in it"


@pytest.mark.docker
def test_docker_py_hands_the_address_on(agent: AgentUnderTest, site: str) -> None:
    FILES["/py"] = DOCKERFILE
    client = docker.DockerClient(base_url=f"unix://{agent.socket}")
    try:
        image, _ = client.images.build(path=f"{site}/py", tag="of-py")
        assert "of-py:latest" in image.tags
    finally:
        client.close()


@pytest.mark.parametrize(
    ("path", "content", "status", "why"),
    [
        ("/absent", None, 503, "the server answered 404"),
        ("/cut", DOCKERFILE, 503, "ended 1 bytes early"),
        ("/noise", b"\0\1\2\xff", 400, "neither a tar archive nor a Dockerfile"),
    ],
)
def test_what_is_no_context_is_told_with_a_status(
    agent: AgentUnderTest, site: str, path: str, content: bytes | None, status: int, why: str
) -> None:
    if content is not None:
        FILES[path] = content
    answer = build(agent, remote=f"{site}{path}")
    assert (answer.status, why in answer.json()["message"]) == (status, True), answer.body


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc", "-oProxyCommand=x"])
def test_other_addresses_are_refused(agent: AgentUnderTest, address: str) -> None:
    answer = build(agent, remote=address)
    assert (answer.status, "remote context" in answer.json()["message"]) == (400, True)


def test_a_server_that_says_nothing_holds_up_nobody(agent: AgentUnderTest) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/x"
        connection = UnixConnection(agent.socket, timeout=1.0)
        connection.request("POST", f"/v1.44/build?remote={address}")
        silent.settimeout(10 * PATIENCE)
        accepted, _ = silent.accept()
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
        accepted.close()
    assert agent.request("GET", "/_ping").status == 200
    eventually(
        lambda: not any((agent.config.data_root / "images" / "ingest").iterdir()), what="nothing stays"
    )


# --- from git


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a repository with a branch, at a git daemon on loopback."""
    need_programs("git")
    top = tmp_path_factory.mktemp("git")
    work = top / "shop.git"
    (work / "sub").mkdir(parents=True)

    def git(*words: str) -> None:
        author = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
        subprocess.run(("git", *author, *words), cwd=work, check=True, capture_output=True)

    git("init")
    (work / "Dockerfile").write_text("FROM busybox\nCOPY . /src\nRUN cat /src/a > /told\n")
    (work / "a").write_text("main")
    (work / "sub" / "Dockerfile").write_text("FROM busybox\nCOPY a /told\n")
    (work / "sub" / "a").write_text("below")
    os.symlink("/etc", work / "out")
    git("add", "-A")
    git("commit", "-m", "first")
    git("checkout", "-b", "next")
    (work / "a").write_text("next")
    git("commit", "-am", "second")
    git("checkout", "main")
    port = free_port()
    daemon = subprocess.Popen(
        (
            "git",
            "daemon",
            "--listen=127.0.0.1",
            f"--port={port}",
            f"--base-path={top}",
            "--export-all",
            "--reuseaddr",
        ),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )

    def listens() -> bool:
        with socket.socket() as tried:
            return tried.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually(listens, what="the git daemon listens")
        yield f"git://127.0.0.1:{port}/shop.git"
    finally:
        os.killpg(daemon.pid, 15)
        daemon.wait()
        shutil.rmtree(top)


@pytest.mark.docker
@pytest.mark.parametrize(
    ("fragment", "said"), [("", "main"), ("#next", "next"), ("#main:sub", "below"), ("#:sub", "below")]
)
def test_a_repository_is_a_context(agent: AgentUnderTest, repository: str, fragment: str, said: str) -> None:
    answer = build(agent, remote=repository + fragment, t="of-git")
    assert b"Successfully tagged" in answer.body, answer.body
    assert told(agent, "of-git") == said
    if not fragment:
        assert ".git" not in agent.docker("run", "--rm", "of-git", "ls", "-a", "/src").stdout.split()


@pytest.mark.parametrize(
    ("fragment", "why"),
    [
        ("#absent", "is the reference there?"),
        ("#main:absent", "has no directory"),
        ("#main:out", "has no directory"),
        ("#main:../..", "Dockerfile"),
        ("#-c", "begin with -"),
    ],
)
def test_what_a_repository_has_not(agent: AgentUnderTest, repository: str, fragment: str, why: str) -> None:
    answer = build(agent, remote=repository + fragment, t="of-git")
    if fragment == "#main:../..":
        assert b"Successfully" in answer.body, "which is its top, and nothing above it"
        return
    assert answer.status in (400, 503)
    assert why in answer.json()["message"]


def test_our_own_command_builds_from_addresses(agent: AgentUnderTest, repository: str, site: str) -> None:
    FILES["/own"] = b"FROM busybox\nRUN ulimit -n > /told\n"
    agent.api("PUT", "/mooring/v1/cgroups/builds", GROUP)
    own(agent, "-t", "own", "--ulimit", "nofile=77:99", "--cgroup", "builds", f"{site}/own")
    assert told(agent, "own") == "77\n"
    own(agent, "-t", "own", f"{repository}#next")
    assert told(agent, "own") == "next"


# --- what RUN may use


@pytest.mark.docker
def test_limits_and_group_of_what_runs(agent: AgentUnderTest, tmp_path: Path) -> None:
    agent.api("PUT", "/mooring/v1/cgroups/builds", GROUP)
    (tmp_path / "Dockerfile").write_text("FROM busybox\nRUN ulimit -Sn; ulimit -Hn\n")
    options = ("--ulimit", "nofile=123:456", "--cgroup-parent", "builds", "--no-cache")
    built = classic(agent, *options, str(tmp_path))
    assert built.returncode == 0, built.stderr
    assert "123\n456\n" in built.stdout
    (tmp_path / "Dockerfile").write_text(f"FROM busybox\n{CROWD}\n")
    crowded = classic(agent, *options, str(tmp_path))
    assert "can't fork" in crowded.stdout + crowded.stderr
    assert classic(agent, "--no-cache", str(tmp_path)).returncode == 0
    absent = classic(agent, "--cgroup-parent", "absent", str(tmp_path))
    assert "cgroup absent, which is not declared" in absent.stderr


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"squash": "1"}, "experiment of dockerd"),
        ({"isolation": "hyperv"}, "isolation=hyperv"),
        ({"securityopt": '["seccomp=unconfined"]'}, "securityopt"),
        ({"outputs": "[{}]"}, "outputs"),
        ({"ulimits": '[{"Name":"nofiles","Soft":1,"Hard":1}]'}, "nofile"),
        ({"ulimits": "{"}, "ulimits"),
    ],
)
def test_what_a_build_has_not(agent: AgentUnderTest, query: dict[str, str], why: str) -> None:
    answer = build(agent, **query)
    assert answer.status in (400, 501)
    assert why in answer.json()["message"]


# --- imports


@pytest.mark.docker
def test_an_import_from_an_address(agent: AgentUnderTest, site: str) -> None:
    FILES["/rootfs.tar.gz"] = archive({"told": b"imported"}, "w:gz")
    done = agent.docker("import", f"{site}/rootfs.tar.gz", "imported:1")
    assert "sha256:" in done.stdout
    made = agent.docker("create", "imported:1", "x").stdout.strip()
    with tarfile.open(
        fileobj=io.BytesIO(agent.request("GET", f"/v1.44/containers/{made}/export").body)
    ) as tar:
        taken = tar.extractfile("told")
        assert taken is not None
        assert taken.read() == b"imported"
    agent.docker("rm", made)


@pytest.mark.parametrize(
    ("source", "status"),
    [("{site}/absent.tar", 503), ("ftp://127.0.0.1/x", 400), ("file:///etc/passwd", 400)],
)
def test_an_import_that_is_not_there(agent: AgentUnderTest, site: str, source: str, status: int) -> None:
    query = urllib.parse.urlencode({"fromSrc": source.format(site=site), "repo": "no"})
    answer = agent.request("POST", f"/v1.44/images/create?{query}")
    assert answer.status == status, answer.body
