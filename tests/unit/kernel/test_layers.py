# SPDX-License-Identifier: Apache-2.0
"""What may import what in the kernel: its core, and the magics, can be used without Jupyter."""

from __future__ import annotations

import subprocess
import sys

import pytest

JUPYTER = ("ipykernel", "IPython", "jupyter_client", "jupyter_core", "zmq", "tornado", "traitlets")


def imported_by(statement: str) -> set[str]:
    """The top-level packages that a fresh Python has after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("module", ["core.shell", "core.ssh", "core.workspace", "magics", "magic_complete"])
def test_nothing_of_jupyter_is_needed(module: str) -> None:
    assert imported_by(f"import mooring_kernel.{module}").isdisjoint({*JUPYTER, "mooring_agent"})


def test_a_local_fleet_does_not_pay_for_ssh() -> None:
    found = imported_by("from mooring_kernel.app import MooringKernelApp")
    assert found.isdisjoint({"paramiko", "cryptography", "debugpy", "mooring_agent"})
