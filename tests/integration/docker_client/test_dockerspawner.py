# SPDX-License-Identifier: Apache-2.0
"""JupyterHub with DockerSpawner: a user logs in, and has a notebook server in a container of this agent."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests

from harness.agent import AgentUnderTest
from harness.claims import free_port
from harness.waiting import PATIENCE

pytest.importorskip("dockerspawner")

pytestmark = [pytest.mark.root, pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(300)]

NO_SERVER = 424  # what the hub answers in place of a server that does not run
READY_WITHIN = 60.0 * PATIENCE  # seconds
# Python, and what it is made of, come from the host, perhaps from below /root; the image has the user, and
# what is in a home directory at first.
DOCKERFILE = """
FROM busybox
RUN echo jovyan:x:1000:1000::/home/jovyan:/bin/sh >> /etc/passwd && mkdir -p /home/jovyan \\
 && echo hello > /home/jovyan/welcome.txt && chown -R 1000:1000 /home/jovyan && chmod 755 /root
USER jovyan
ENV HOME=/home/jovyan
WORKDIR /home/jovyan
"""
CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://0.0.0.0:{hub_port}"
c.JupyterHub.hub_connect_url = "http://{gateway}:{hub_port}"
c.JupyterHub.db_url = "sqlite:///{directory}/hub.sqlite"
c.JupyterHub.cookie_secret_file = "{directory}/secret"
c.JupyterHub.authenticator_class = "shared-password"
c.JupyterHub.spawner_class = "dockerspawner.DockerSpawner"
c.ConfigurableHTTPProxy.command = ["{proxy}"]
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.pid_file = "{directory}/proxy.pid"
c.Authenticator.allow_all = True
c.SharedPasswordAuthenticator.user_password = "open sesame"
c.DockerSpawner.image = "singleuser:1"
c.DockerSpawner.pull_policy = "never"
c.DockerSpawner.cmd = ["{python}", "-m", "jupyterhub.singleuser"]
c.DockerSpawner.network_name = "hub"
c.DockerSpawner.use_internal_ip = True
c.DockerSpawner.remove = True
c.DockerSpawner.read_only_volumes = {host}
c.DockerSpawner.volumes = {{"home-{{username}}": "/home/jovyan"}}
c.DockerSpawner.notebook_dir = "/home/jovyan"
c.DockerSpawner.mem_limit = "512M"
c.DockerSpawner.start_timeout = {patience}
c.DockerSpawner.http_timeout = {patience}
"""


@dataclass(frozen=True)
class Hub:
    """A JupyterHub that answers."""

    url: str
    log: Path


@pytest.fixture
def hub(agent: AgentUnderTest, tmp_path: Path) -> Iterator[Hub]:
    (tmp_path / "image").mkdir()
    (tmp_path / "image/Dockerfile").write_text(DOCKERFILE)
    agent.docker("build", "-t", "singleuser:1", str(tmp_path / "image"))
    agent.docker("network", "create", "hub")
    gateway = agent.docker("network", "inspect", "-f", "{{(index .IPAM.Config 0).Gateway}}", "hub").stdout
    port, hub_port, proxy_port = free_port(), free_port(), free_port()
    config = tmp_path / "jupyterhub_config.py"
    config.write_text(
        CONFIG.format(
            port=port,
            hub_port=hub_port,
            proxy_port=proxy_port,
            gateway=gateway.strip(),
            directory=tmp_path,
            python=sys.executable,
            proxy=Path(sys.executable).with_name("configurable-http-proxy"),
            host=of_the_host(),
            patience=int(READY_WITHIN),
        )
    )
    log = tmp_path / "hub.log"
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "jupyterhub", "--config", str(config)],
            cwd=tmp_path,
            env={**agent.docker_environment(), "PYTHONPATH": ""},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            until(lambda: requests.get(f"{url}/hub/api/health", timeout=5).status_code == 200, log, process)
            yield Hub(url, log)
        finally:
            process.terminate()
            try:
                process.wait(30 * PATIENCE)
            finally:
                process.kill()
            agent.remove_everything()
            agent.docker("volume", "rm", "--force", "home-ada")


def of_the_host() -> dict[str, str]:
    """The directories of the host that its Python needs, by where they are in a container: the same place."""
    system = [path for path in ("/usr", "/lib", "/lib64") if Path(path).exists()]
    python = [
        path for path in {sys.prefix, sys.base_prefix, real(sys.prefix)} if not path.startswith("/usr/")
    ]
    return {real(path): path for path in system} | {real(path): path for path in python}


def real(path: str) -> str:
    return os.path.realpath(path)


def until(condition: Any, log: Path, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait for a condition; whoever cannot be reached yet, or is slow to answer, does not fulfil it."""
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            if condition():
                return
        except (requests.ConnectionError, requests.Timeout):
            pass
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() >= deadline:
            raise AssertionError(f"it did not come to that: {log.read_text(errors='replace')[-6000:]}")
        time.sleep(0.1)


def log_in(hub: Hub, user: str) -> requests.Session:
    """A browser of a user who has filled in the form."""
    browser = requests.Session()
    form = browser.get(f"{hub.url}/hub/login", timeout=10 * PATIENCE).text
    token = re.search(r'name="_xsrf" value="([^"]+)"', form)
    assert token is not None
    answer = browser.post(
        f"{hub.url}/hub/login",
        data={"username": user, "password": "open sesame", "_xsrf": token[1]},
        timeout=30 * PATIENCE,
    )
    assert answer.status_code == 200, answer.text
    return browser


def signed(browser: requests.Session, path: str) -> dict[str, str]:
    """What a page sends with a request that changes something below a path."""
    return {
        "X-XSRFToken": next(
            one.value or "" for one in browser.cookies if (one.name, one.path) == ("_xsrf", path)
        )
    }


def test_a_user_has_a_server_in_a_container(agent: AgentUnderTest, hub: Hub) -> None:
    browser = log_in(hub, "ada")
    server = f"{hub.url}/user/ada"

    browser.get(f"{hub.url}/hub/spawn/ada", timeout=60 * PATIENCE)
    until(lambda: browser.get(f"{server}/api/status", timeout=10).status_code != NO_SERVER, hub.log)
    # The server asks the hub who this is.
    assert browser.get(f"{server}/files/welcome.txt", timeout=30 * PATIENCE).text == "hello\n"

    shown = agent.docker("ps", "--format", "{{.Names}} {{.Image}} {{.Networks}}").stdout
    assert shown == "jupyter-ada singleuser:1 hub\n"
    assert agent.docker("exec", "jupyter-ada", "id", "-un").stdout == "jovyan\n"
    note = {"type": "file", "format": "text", "content": "mine"}
    written = browser.put(
        f"{server}/api/contents/note.txt",
        json=note,
        headers=signed(browser, "/user/ada/"),
        timeout=10 * PATIENCE,
    )
    assert written.status_code == 201, written.text
    kernel = browser.post(
        f"{server}/api/kernels", json={}, headers=signed(browser, "/user/ada/"), timeout=30 * PATIENCE
    )
    assert kernel.status_code == 201, kernel.text
    assert "ipykernel_launcher" in agent.docker("top", "jupyter-ada").stdout

    stopped = browser.delete(
        f"{hub.url}/hub/api/users/ada/server", headers=signed(browser, "/hub/"), timeout=60 * PATIENCE
    )
    assert stopped.ok, stopped.text
    until(lambda: agent.docker("ps", "-aq").stdout == "", hub.log)
    kept = agent.docker("run", "--rm", "-v", "home-ada:/home", "busybox", "cat", "/home/note.txt")
    assert kept.stdout == "mine"
