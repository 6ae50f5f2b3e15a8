# SPDX-License-Identifier: Apache-2.0
"""What is loaded where it counts: in the keeper, on which every container hangs, and by the first command."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def modules_after(project_root: Path, statement: str) -> set[str]:
    """Return what a bare Python, without site-packages, has loaded after the statement."""
    program = (
        f"import sys; sys.path.insert(0, {str(project_root / 'agent')!r}); {statement}; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program],
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("heavy", ["asyncio", "sqlite3", "subprocess", "http.client", "email", "logging"])
def test_the_keeper_runs_on_the_standard_library_without_its_heavy_parts(
    project_root: Path, heavy: str
) -> None:
    assert heavy not in modules_after(project_root, "import mooring_agent.keeper.main")


def test_the_grammar_of_the_command_line_loads_no_engine(project_root: Path) -> None:
    loaded = modules_after(project_root, "import mooring_agent.cli.main, mooring_agent.cli.arguments")
    assert not [name for name in loaded if name.startswith(("mooring_agent.engine", "mooring_agent.api"))]
