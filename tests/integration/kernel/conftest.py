# SPDX-License-Identifier: Apache-2.0
"""The kernel as Jupyter starts it: from an installed kernelspec, in a process of its own."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring_kernel.install import install
from unit.kernel.stand_in import StandIn


@pytest.fixture(scope="session")
def jupyter() -> Iterator[Path]:
    """Directories of Jupyter's own for these tests, with the kernelspec installed."""
    with tempfile.TemporaryDirectory(prefix="mrju-") as name:
        base = Path(name)
        install(prefix=name)
        settings = {
            "JUPYTER_PATH": str(base / "share/jupyter"),
            "JUPYTER_CONFIG_DIR": str(base / "config"),
            "JUPYTER_DATA_DIR": str(base / "data"),
            "JUPYTER_RUNTIME_DIR": str(base / "runtime"),
            "JUPYTER_PREFER_ENV_PATH": "0",
            "IPYTHONDIR": str(base / "ipython"),
            "MOORING_HISTORY": str(base / "history.sqlite"),
        }
        before = dict(os.environ)
        os.environ.update(settings)
        yield base
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(autouse=True)
def _collected() -> Iterator[None]:
    """Collect what Jupyter's clients leave open while the test that made them is still the one that runs."""
    yield
    gc.collect()


@pytest.fixture(scope="session")
def stand_in(jupyter: Path) -> Iterator[StandIn]:
    work = jupyter / "work"
    work.mkdir()
    agent = StandIn(jupyter / "agent.sock", cwd=str(work))
    yield agent
    agent.close()
