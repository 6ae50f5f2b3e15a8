# SPDX-License-Identifier: Apache-2.0
"""A skipped test is counted, and an unknown feature is an error rather than a silent skip."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.host import UnknownFeature, missing_feature, need_programs

TESTS = Path(__file__).resolve().parents[2]


def run_pytest(directory: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest on one file under the project's own conftest and configuration."""
    (directory / "tests").mkdir()
    shutil.copy(TESTS.parent / "pyproject.toml", directory)
    shutil.copy(TESTS / "conftest.py", directory / "tests")
    (directory / "tests" / "harness").symlink_to(TESTS / "harness")
    (directory / "tests" / "test_it.py").write_text(source)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        check=False,
        cwd=directory,
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_what_is_skipped_is_counted_before_the_closing_line(tmp_path: Path) -> None:
    source = """
import pytest

@pytest.mark.kernel("overlay")
def test_decides_itself():
    pytest.skip("no room")

@pytest.mark.bench
def test_measures(): ...

def test_other():
    pytest.skip("it is Sunday")

def test_passes(): ...
"""
    lines = run_pytest(tmp_path, source).stdout.splitlines()
    assert lines[-2] == "skipped: 0 root-only, 1 kernel-only, 1 benchmarks, 1 for other reasons"
    assert "1 passed, 3 skipped" in lines[-1]


def test_a_benchmark_runs_when_it_is_asked_for(tmp_path: Path) -> None:
    source = "import pytest\n\n@pytest.mark.bench\ndef test_measures(): ...\n"
    assert "1 passed" in run_pytest(tmp_path, source, "-m", "bench").stdout


def test_an_unknown_feature_stops_the_run(tmp_path: Path) -> None:
    source = "import pytest\n\n@pytest.mark.kernel('overlayfs')\ndef test_it(): ...\n"
    done = run_pytest(tmp_path, source)
    assert done.returncode != 0
    assert "marker kernel('overlayfs'): no such feature" in done.stdout + done.stderr


def test_an_unknown_feature_names_the_known_ones() -> None:
    with pytest.raises(UnknownFeature, match="expected one of apparmor, btrfs"):
        missing_feature("overlayfs")


@pytest.mark.parametrize(("root", "outcome"), [(True, pytest.fail.Exception), (False, pytest.skip.Exception)])
def test_a_program_that_is_not_here_is_no_reason_to_skip_where_it_could_be_installed(
    root: bool, outcome: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.host.is_root", lambda: root)
    need_programs("sh")
    with pytest.raises(outcome, match=r"^needs /absent/program: script/test --setup-only"):
        need_programs("sh", "/absent/program")
