# SPDX-License-Identifier: Apache-2.0
"""The agent as one file runs wherever Python does, with nothing installed beside it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from harness.host import need_programs
from harness.waiting import PATIENCE
from mooring_agent import __version__

pytestmark = pytest.mark.slow

BUILD_TIMEOUT = 100 * PATIENCE  # seconds


def build(project_root: Path, dist: Path, *parts: str) -> None:
    environment = os.environ | {"DIST": str(dist), "SOURCE_DATE_EPOCH": "1700000000"}
    subprocess.run(
        [project_root / "script" / "build", *parts],
        check=True,
        env=environment,
        stdin=subprocess.DEVNULL,
        timeout=BUILD_TIMEOUT,
    )


@pytest.fixture(scope="module")
def archive(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    dist = tmp_path_factory.mktemp("dist")
    build(project_root, dist, "pyz")
    return dist / "mooring.pyz"


def bare_python() -> str:
    """Return the interpreter behind the virtual environment."""
    return os.path.realpath(sys.executable)


def test_it_runs_with_nothing_but_the_standard_library(archive: Path, tmp_path: Path) -> None:
    # -I and -S: no environment, no site-packages.
    done = subprocess.run(
        [bare_python(), "-I", "-S", archive, "--version"],
        check=False,
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[-1] == __version__


def test_it_is_executable_by_itself(archive: Path) -> None:
    need_programs("python3")
    assert archive.read_bytes().startswith(b"#!/usr/bin/env python3\n")
    assert os.access(archive, os.X_OK)


def test_it_holds_only_what_every_python_can_read(archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        names = opened.namelist()
    assert not [name for name in names if name.endswith(".so")]
    compiled = {name.removesuffix("c") for name in names if name.endswith(".pyc")}
    assert compiled == {name for name in names if name.endswith(".py")}
    assert names == sorted(names)
    assert {"h11/__init__.py", "yaml/__init__.py", "mooring_agent/py.typed"} <= set(names)
    assert not [name for name in names if name.startswith("mooring_kernel")]


def test_a_python_of_another_version_goes_by_the_sources(archive: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.pyz"
    with zipfile.ZipFile(archive) as opened, zipfile.ZipFile(other, "w") as written:
        for name in opened.namelist():
            data = opened.read(name)
            # The magic number, PEP 552, of a version that is none; what follows could not be read.
            written.writestr(name, bytes(4) + b"\xff" * 20 if name.endswith(".pyc") else data)
    done = subprocess.run(
        [bare_python(), "-I", "-S", other, "--version"],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout.split()[-1:], done.stderr) == (0, [__version__], "")


def test_the_same_sources_give_the_same_file(archive: Path, project_root: Path, tmp_path: Path) -> None:
    build(project_root, tmp_path, "pyz")
    assert (tmp_path / "mooring.pyz").read_bytes() == archive.read_bytes()


def test_the_wheel_has_both_packages_and_the_command(project_root: Path, tmp_path: Path) -> None:
    build(project_root, tmp_path, "wheel")
    wheel = tmp_path / f"mooring-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as opened:
        names = set(opened.namelist())
        entry_points = opened.read(f"mooring-{__version__}.dist-info/entry_points.txt").decode()
    assert {"mooring_agent/__init__.py", "mooring_kernel/__init__.py"} <= names
    assert "mooring = mooring_agent.cli.main:main" in entry_points


def test_an_unknown_part_is_refused(project_root: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [project_root / "script" / "build", "rpm"],
        check=False,
        env=os.environ | {"DIST": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT,
    )
    assert done.returncode == 2
    assert "unknown part rpm: expected pyz, wheel or collection" in done.stderr
