# SPDX-License-Identifier: Apache-2.0
"""Check what no linter knows: the licence line, the length and the name of each source file.

`python script/check_sources.py` prints one line a finding and exits with 1 if there is any;
`--shell` prints the project's shell scripts instead, for shellcheck.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 500
# What other programs make, and checkouts of others.
SKIPPED_DIRECTORIES = {
    ".fuzz",
    ".git",
    ".hypothesis",
    ".import_linter_cache",
    ".ipynb_checkpoints",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    ".state",
    ".venv",
    "__pycache__",
    "build",
    "dist",
    "node_modules",
}
# Names that say nothing about what is inside.
EMPTY_NAMES = {"common", "helper", "helpers", "manager", "misc", "util", "utils"}
SOURCE_SUFFIXES = {".py", ".sh", ".sql", ".toml", ".yaml", ".yml"}
COPYLEFT_DIRECTORIES = {"collection", "roles"}
HEADER_LINES = 5

_SHELL = re.compile(rb"#!.*\b(?:ba|da)?sh\b")
_SPDX = re.compile(r"SPDX-License-Identifier: (\S+)")


def project_files(root: Path) -> Iterator[Path]:
    """Yield every file that people wrote, in a stable order."""
    for directory, subdirectories, names in os.walk(root):
        subdirectories[:] = sorted(
            name
            for name in subdirectories
            if name not in SKIPPED_DIRECTORIES and not name.endswith(".egg-info")
        )
        for name in sorted(names):
            path = Path(directory, name)
            if not path.is_symlink():
                yield path


def is_script(path: Path) -> bool:
    """Return whether the file starts with `#!`."""
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def is_shell(path: Path) -> bool:
    """Return whether shellcheck should read the file."""
    if path.suffix:
        return path.suffix in {".sh", ".bash"}
    with path.open("rb") as file:
        return _SHELL.match(file.readline(200)) is not None


def expected_license(relative: Path) -> str:
    """Return the SPDX identifier that a file at this place has to carry."""
    return "GPL-3.0-or-later" if relative.parts[0] in COPYLEFT_DIRECTORIES else "Apache-2.0"


def findings(path: Path, relative: Path) -> Iterator[str]:
    """Yield what is wrong with one file, a sentence each."""
    if path.suffix not in SOURCE_SUFFIXES and not is_script(path):
        return
    lines = path.read_text(encoding="utf-8").splitlines()
    licenses = [match[1] for line in lines[:HEADER_LINES] if (match := _SPDX.search(line))]
    expected = expected_license(relative)
    if licenses != [expected]:
        found = f"has {', '.join(licenses)}" if licenses else "has none"
        yield (
            f"{relative}:1: expected the line SPDX-License-Identifier: {expected} among the first "
            f"{HEADER_LINES}, {found}"
        )
    if len(lines) >= MAX_LINES:
        yield (
            f"{relative}: {len(lines)} lines long, expected fewer than {MAX_LINES}: "
            "split it by what its parts do"
        )
    if path.stem.strip("_") in EMPTY_NAMES:
        yield f"{relative}: the name {path.name} does not say what is inside: name it by what it does"


def main(arguments: list[str]) -> int:
    """Print the findings, or with `--shell` the shell scripts."""
    if arguments == ["--shell"]:
        for path in project_files(ROOT):
            if is_shell(path):
                print(path.relative_to(ROOT))
        return 0
    wrong = [line for path in project_files(ROOT) for line in findings(path, path.relative_to(ROOT))]
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
