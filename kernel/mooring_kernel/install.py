# SPDX-License-Identifier: Apache-2.0
"""The kernelspec: what Jupyter must know to start the kernel."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

KERNEL_NAME = "mooring"


def kernelspec(display_name: str = "Mooring") -> dict[str, Any]:
    """Return the content of kernel.json. The language makes papermill inject parameters as assignments."""
    return {
        "argv": [sys.executable, "-m", "mooring_kernel", "-f", "{connection_file}"],
        "display_name": display_name,
        "language": "bash",
        "interrupt_mode": "message",
        "metadata": {"debugger": False},
    }


def install(
    *, user: bool = False, prefix: str | None = None, name: str = KERNEL_NAME, display_name: str = "Mooring"
) -> Path:
    """Install the kernelspec for this Python, and return its directory. Raises OSError."""
    from jupyter_client.kernelspec import KernelSpecManager

    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        directory.joinpath("kernel.json").write_text(json.dumps(kernelspec(display_name), indent=1) + "\n")
        with as_file(files("mooring_kernel") / "resources") as resources:
            for logo in resources.glob("logo-*"):
                shutil.copy(logo, directory)
        installed = KernelSpecManager().install_kernel_spec(str(directory), name, user=user, prefix=prefix)
    return Path(installed)


def main(argv: list[str]) -> int:
    """Run `python -m mooring_kernel install …`."""
    parser = argparse.ArgumentParser(
        prog="python -m mooring_kernel install", description="Install the kernelspec of the Mooring kernel."
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for this user")
    where.add_argument(
        "--sys-prefix", action="store_true", help=f"for this Python environment ({sys.prefix})"
    )
    where.add_argument("--prefix", help="below PREFIX/share/jupyter/kernels")
    parser.add_argument("--name", default=KERNEL_NAME, help="name of the kernelspec (%(default)s)")
    parser.add_argument("--display-name", default="Mooring", help="name that people see (%(default)s)")
    arguments = parser.parse_args(argv)
    prefix = sys.prefix if arguments.sys_prefix else arguments.prefix
    try:
        directory = install(
            user=arguments.user, prefix=prefix, name=arguments.name, display_name=arguments.display_name
        )
    except (OSError, ValueError) as error:
        print(f"the kernelspec could not be installed: {error}; try --user or --sys-prefix", file=sys.stderr)
        return 1
    print(f"installed the kernelspec {arguments.name} in {directory}")
    return 0
