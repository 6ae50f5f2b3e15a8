# SPDX-License-Identifier: Apache-2.0
"""The fixtures of the tests on a real host: agents of their own, which leave nothing behind.

`agent` is one agent for all tests of a module, with the image `busybox`; a test that kills or restarts the
agent makes its own with `start_agent`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.agent import AgentUnderTest
from harness.host import need_programs
from harness.rootfs import busybox, write_busybox_rootfs
from mooring_agent.failpoints import VARIABLE

StartAgent = Callable[..., AgentUnderTest]


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tar archive of a root file system with busybox in it."""
    if busybox() is None:
        need_programs("busybox-static")  # the host may have another one
    return write_busybox_rootfs(tmp_path_factory.mktemp("rootfs") / "busybox.tar")


@pytest.fixture(scope="session")
def ended_agents() -> Iterator[list[AgentUnderTest]]:
    """Return the list of agents of which nothing may be left when the session ends.

    It is looked at only then, because the keeper of an agent stays for some seconds without work.
    """
    ended: list[AgentUnderTest] = []
    yield ended
    AgentUnderTest.verify_gone(ended)


@pytest.fixture(scope="module")
def agent(request: pytest.FixtureRequest, ended_agents: list[AgentUnderTest]) -> Iterator[AgentUnderTest]:
    """Return a running agent with the image `busybox`, shared by the tests of one module."""
    with ExitStack() as stack:
        yield _started(stack, ended_agents, request.node.nodeid)


@pytest.fixture(scope="module")
def switched(
    request: pytest.FixtureRequest,
    ended_agents: list[AgentUnderTest],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[AgentUnderTest, Path]]:
    """Return an agent with fail points, one for a module, and the file that names the next point."""
    switch = tmp_path_factory.mktemp("points") / "point"
    with pytest.MonkeyPatch.context() as environment, ExitStack() as stack:
        environment.setenv(VARIABLE, str(switch))
        yield _started(stack, ended_agents, request.node.nodeid), switch


@pytest.fixture
def start_agent(request: pytest.FixtureRequest, ended_agents: list[AgentUnderTest]) -> Iterator[StartAgent]:
    """Return a function that starts another agent for this test; it takes what AgentUnderTest takes."""
    with ExitStack() as stack:

        def start(*, image: bool = True, **options: object) -> AgentUnderTest:
            return _started(stack, ended_agents, request.node.nodeid, image=image, **options)

        yield start


def _started(
    stack: ExitStack, ended: list[AgentUnderTest], user: str, *, image: bool = True, **options: object
) -> AgentUnderTest:
    under_test = AgentUnderTest(user=user, **options)  # type: ignore[arg-type]
    ended.append(under_test)
    stack.callback(under_test.end)
    under_test.start()
    if image:
        under_test.add_busybox_image()
    return under_test


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the end of the agent's log with a failed test."""
    report = yield
    if report.failed and call.when == "call":
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, AgentUnderTest):
                report.sections.append((f"log of {name}", value.log_tail()))
    return report
