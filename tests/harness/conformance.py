# SPDX-License-Identifier: Apache-2.0
"""Running a suite of somebody else's with pytest, as it is, and counting how its cases ended."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from harness import unix_http

CASE_WITHIN = 120  # seconds
ENDED_WELL = (0, 1)  # pytest's exit status: all passed, some failed
# A plugin of pytest that tells of each case as it ends, so that a run which is ended counts as far as it got.
REPORTING = """
import json, os
import pytest

report = open(os.environ["REPORT"], "a", buffering=1)  # before the suite plays with its environment

@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = (yield).get_result()
    said = getattr(outcome, "wasxfail", "")
    if outcome.skipped and isinstance(outcome.longrepr, tuple):
        said = outcome.longrepr[2]
    if outcome.failed and call.excinfo is not None:
        said = call.excinfo.exconly()
    kind = "skipped" if outcome.skipped else outcome.outcome
    if outcome.when == "call" or kind != "passed":
        line = {"case": item.nodeid, "outcome": kind, "reason": said}
        print(json.dumps(line), file=report)
"""


@dataclass(frozen=True)
class Engine:
    """An engine that answers: what it is called, and where."""

    name: str
    socket: Path


@dataclass
class Outcome:
    """How the cases of one run ended: reasons by the case's name."""

    passed: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"passed {len(self.passed):>3}  failed {len(self.failed):>3}  skipped {len(self.skipped):>3}"


def run(
    engine: Engine,
    command: list[str],
    checkout: Path,
    scratch: Path,
    timeout: float,
    variables: Mapping[str, str] | None = None,
) -> Outcome:
    """Run the suite against an engine: a Python, and the arguments of pytest. After the deadline it is ended,
    and counts as far as it got.
    """
    home = Path(tempfile.mkdtemp(dir=scratch, prefix="home-"))
    home.chmod(0o755)
    (home / "config.json").write_text("{}")
    (home / "tmp").mkdir()
    report, log = home / "report.jsonl", home / "log"
    version = json.loads(unix_http.request(engine.socket, "GET", "/version").body)
    print(f"{engine.name}: {version['Version']}, API {version['ApiVersion']}", flush=True)
    (home / "reporting.py").write_text(REPORTING)
    python, *chosen = command
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [
                *(python, "-m", "pytest", "-p", "no:cacheprovider", "-p", "reporting"),
                *(f"--timeout={CASE_WITHIN}", *chosen),
            ],
            cwd=checkout,
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("DOCKER_")},
                "DOCKER_HOST": f"unix://{engine.socket}",
                "DOCKER_CONFIG": str(home),
                "DOCKER_TEST_API_VERSION": version["ApiVersion"],
                "HOME": str(home),
                "TMPDIR": str(home / "tmp"),
                "PYTHONPATH": str(home),
                "PYTHONDONTWRITEBYTECODE": "1",
                "REPORT": str(report),
                **(variables or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            print(f"    the suite was ended after {timeout:g} s", flush=True)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if process.returncode not in ENDED_WELL:
        said = log.read_text(errors="replace")[-3000:]
        print(f"    the suite ended with {process.returncode} before its end:\n{said}", flush=True)
    return read(report) if report.exists() else Outcome()


def read(report: Path) -> Outcome:
    """What the plugin has written. A case that fails once has failed, whatever else it reports."""
    outcome = Outcome()
    for line in report.read_text().splitlines():
        told = json.loads(line)
        name = re.sub(r"^tests/\w+/(\w+?)(_test)?\.py::", r"\1::", told["case"])
        reason = " ".join(told["reason"].split())[:300]
        if told["outcome"] == "failed":
            outcome.failed[name] = reason
        elif told["outcome"] == "skipped":
            outcome.skipped[name] = reason
        else:
            outcome.passed.add(name)
    outcome.passed -= outcome.failed.keys()
    return outcome


def compare(outcomes: dict[str, Outcome]) -> None:
    """Say which cases one engine passes and the other does not."""
    (name, one), (other_name, other) = outcomes.items()
    for first, second, winner in ((one, other, name), (other, one, other_name)):
        better = sorted(case for case in first.passed if case not in second.passed)
        print(f"passed by {winner} alone: {len(better)}")
        for case in better:
            why = second.failed.get(case) or f"skipped: {second.skipped.get(case, 'not reached')}"
            print(f"    {case}: {why}")
