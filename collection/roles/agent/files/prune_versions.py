# SPDX-License-Identifier: GPL-3.0-or-later
"""Remove the files of former versions of the agent that no process was started from, and print their paths.

Arguments: the directory of the files, and the one to keep in any case.
"""

from __future__ import annotations

import sys
from pathlib import Path


def in_use() -> str:
    """Return the command lines of all other processes."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes().decode(errors="surrogateescape"))
        except OSError:  # it has ended meanwhile
            continue
    return "\n".join(lines)


def main(directory: str, current: str) -> None:
    """Remove what can be removed."""
    commands = in_use()
    for path in sorted(Path(directory).glob("mooring-*.pyz")):
        if str(path) != current and str(path) not in commands:
            path.unlink()
            print(path)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
