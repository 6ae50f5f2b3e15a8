# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: what a marker asks for, and a count of what was skipped for the lack of it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from harness.host import UnknownFeature, docker_client, is_root, missing_feature
from harness.turns import Turns

PROJECT_ROOT = Path(__file__).resolve().parent.parent
VENV_BIN = Path(sys.executable).parent

# The machines that run the tests are shared: a slow example is not a wrong one.
settings.register_profile("mooring", deadline=None, print_blob=True)
settings.load_profile("mooring")

_decided = pytest.StashKey[str]()  # of a test: the category that its markers gave
_turns_directory = pytest.StashKey[Path]()  # of the process that has workers
_turns = pytest.StashKey[Turns]()  # of a worker
_SKIPPED_FOR = "skipped for"  # a property of a report: the category
# Category of a skip → its name in the summary. The first two are always shown, the others where they occur.
_CATEGORIES = {
    "root": "root-only",
    "kernel": "kernel-only",
    "docker": "docker-only",
    "browser": "browser-only",
    "bench": "benchmarks",
}


def pytest_configure(config: pytest.Config) -> None:
    """Let programs of the virtual environment and the collection be found, however pytest was started."""
    if hasattr(config, "workerinput"):
        config.stash[_turns] = Turns(Path(config.workerinput["turns"]))
    path = os.environ.get("PATH", os.defpath).split(os.pathsep)
    extra = [str(VENV_BIN), "/usr/local/sbin", "/usr/sbin", "/sbin"]
    missing = [directory for directory in extra if directory not in path]
    os.environ["PATH"] = os.pathsep.join([*missing[:1], *path, *missing[1:]])
    os.environ.setdefault("ANSIBLE_COLLECTIONS_PATH", str(VENV_BIN.parent / "collections"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip each test whose markers ask for what is not here, and say what that is."""
    for item in items:
        skip = _reason_to_skip(config, item)
        if skip is not None:
            category, reason = skip
            item.stash[_decided] = category
            item.add_marker(pytest.mark.skip(reason=reason))


def _reason_to_skip(config: pytest.Config, item: pytest.Item) -> tuple[str, str] | None:
    if item.get_closest_marker("bench") and "bench" not in config.getoption("markexpr"):
        return "bench", "a benchmark: run it with -m bench"
    if item.get_closest_marker("root") and not is_root():
        return "root", "needs root"
    for marker in item.iter_markers("kernel"):
        for feature in marker.args:
            try:
                missing = missing_feature(feature)
            except UnknownFeature as error:
                raise pytest.UsageError(f"{item.nodeid}: {error}") from None
            if missing is not None:
                return "kernel", f"needs the kernel feature {feature}: {missing}"
    if item.get_closest_marker("docker") and docker_client() is None:
        return "docker", "needs a docker client on PATH"
    return None


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Give each worker of pytest-xdist the place where they take turns."""
    stash = node.config.stash
    if _turns_directory not in stash:
        stash[_turns_directory] = Path(tempfile.mkdtemp(prefix="mooring-turns-"))
    node.workerinput["turns"] = str(stash[_turns_directory])


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that place."""
    directory = config.stash.get(_turns_directory, None)
    if directory is not None:
        shutil.rmtree(directory)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Run a test marked `alone` while no other worker runs one; no time limit of a test counts the wait."""
    turns = item.config.stash.get(_turns, None)
    if turns is None:
        return (yield)
    with turns.turn(alone=item.get_closest_marker("alone") is not None):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note with a skip what the test asked for, also when the test itself decided it."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail"):
        report.user_properties.append((_SKIPPED_FOR, _category_of_skip(item)))
    return report


def _category_of_skip(item: pytest.Item) -> str:
    decided = item.stash.get(_decided, None)
    if decided is not None:
        return decided
    return next((name for name in ("kernel", "docker", "browser") if item.get_closest_marker(name)), "other")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    """Print how many tests were skipped for what, right above the closing line."""
    yield
    counted = Counter(
        value
        for report in terminalreporter.stats.get("skipped", [])
        for name, value in getattr(report, "user_properties", ())
        if name == _SKIPPED_FOR
    )
    parts = [
        f"{counted[category]} {name}"
        for category, name in _CATEGORIES.items()
        if counted[category] or category in {"root", "kernel"}
    ]
    if counted["other"]:
        parts.append(f"{counted['other']} for other reasons")
    terminalreporter.write_line(f"skipped: {', '.join(parts)}")


@pytest.fixture(scope="session")
def project_root() -> Path:
    """Return the directory of the checkout."""
    return PROJECT_ROOT
