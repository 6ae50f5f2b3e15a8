# SPDX-License-Identifier: Apache-2.0
"""A real agent to throw things at; its log must have no traceback in the end, and nothing may be left."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness.agent import AgentUnderTest
from harness.web import Silent, served


class _Outside(Silent):
    """All registries that there are: a proxy that answers at once, whatever it is asked for.

    In plain HTTP it takes any credentials, and wants some; TLS it cannot speak, which no repetition changes.
    """

    timeout = 10.0

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection.recv(1 << 16)
        self.wfile.write(b"this is no TLS\r\n")

    def do_GET(self) -> None:
        self.send_response(200 if self.headers["Authorization"] else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="fuzz"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET


@pytest.fixture(scope="package")
def outside() -> Iterator[str]:
    """Return the URL of a proxy in the place of the world: no name is looked up, nobody outside is asked."""
    with served(_Outside) as url:
        yield url


@pytest.fixture(scope="package")
def agent(outside: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentUnderTest]:
    """Return a running agent, for which the registry `x` speaks plain HTTP."""
    settings = tmp_path_factory.mktemp("fuzz") / "agent.yaml"
    settings.write_text("registries: {x: {tls: 'off'}}\n")
    under_test = AgentUnderTest(user="tests/fuzz", arguments=("--config", str(settings)))
    try:
        with pytest.MonkeyPatch.context() as environment:
            for name in ("http_proxy", "https_proxy", "no_proxy", "NO_PROXY"):
                environment.delenv(name, raising=False)
            for name in ("HTTP_PROXY", "HTTPS_PROXY"):
                environment.setenv(name, outside)
            under_test.start()
        yield under_test
    finally:
        under_test.destroy()


@pytest.fixture
def box(agent: AgentUnderTest) -> str:
    """Return the name of a running container, made again where a test has removed it or its image."""
    spec = {"image": "busybox", "command": ["sleep", "3600"], "stop_timeout": 0}
    if agent.request("GET", "/mooring/v1/images/busybox").status != 200:
        agent.add_busybox_image()
    agent.api("PUT", "/mooring/v1/containers/box", spec)
    return "box"
