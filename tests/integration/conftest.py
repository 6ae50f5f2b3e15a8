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
from harness.rootfs import busybox, write_busybox_rootfs

StartAgent = Callable[..., AgentUnderTest]


@pytest.fixture(scope="session")
def busybox_rootfs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a tar archive of a root file system with busybox in it."""
    if busybox() is None:
        pytest.skip("needs a static busybox: install the package busybox-static")
    return write_busybox_rootfs(tmp_path_factory.mktemp("rootfs") / "busybox.tar")


@pytest.fixture(scope="module")
def agent() -> Iterator[AgentUnderTest]:
    """Return a running agent with the image `busybox`, shared by the tests of one module."""
    with ExitStack() as stack:
        yield _started(stack)


@pytest.fixture
def start_agent() -> Iterator[StartAgent]:
    """Return a function that starts another agent for this test; it takes what AgentUnderTest takes."""
    with ExitStack() as stack:

        def start(*, image: bool = True, **options: object) -> AgentUnderTest:
            return _started(stack, image=image, **options)

        yield start


def _started(stack: ExitStack, *, image: bool = True, **options: object) -> AgentUnderTest:
    under_test = AgentUnderTest(**options)  # type: ignore[arg-type]
    stack.callback(under_test.destroy)
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
