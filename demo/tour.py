# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: INP001 (executed, not imported)
"""Execute a notebook with its own kernel: `python demo/tour.py SOURCE TARGET` keeps the outputs in TARGET."""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

CELL_TIMEOUT = 60  # seconds


def main(arguments: list[str]) -> int:
    """Run it; returns 1 if a cell failed that does not say that it will."""
    source, target = (Path(argument) for argument in arguments)
    notebook = nbformat.read(source, as_version=4)  # type: ignore[no-untyped-call]
    client = NotebookClient(
        notebook, timeout=CELL_TIMEOUT, resources={"metadata": {"path": str(source.parent.resolve())}}
    )
    try:
        client.execute()
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        nbformat.write(notebook, target)  # type: ignore[no-untyped-call]
    executed = [cell for cell in notebook.cells if cell.cell_type == "code"]
    print(f"{len(executed)} cells executed, kept in {target}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
