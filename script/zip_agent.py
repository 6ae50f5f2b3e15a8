# SPDX-License-Identifier: Apache-2.0
"""Make the agent one file: a zip archive that any Python of 3.11 or later runs.

`python script/zip_agent.py TARGET` puts the package mooring_agent and what the extra `agent` of pyproject
names into the archive. What is not pure Python is left out, so the dependencies must work without it. Beside
each source lies its code as the Python that runs this has compiled it (PEP 552, by hash, unchecked): with
that version nothing is compiled at a start, which takes a fourth of the time; others go by the source. The
entries are sorted and carry SOURCE_DATE_EPOCH, https://reproducible-builds.org/specs/source-date-epoch/.
"""

from __future__ import annotations

import ast
import importlib.util
import marshal
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import zipfile
from copy import copy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHEBANG = b"#!/usr/bin/env python3\n"
MAIN = """\
import sys

if sys.version_info < (3, 11):
    sys.exit(f"mooring needs Python 3.11 or later, this is {sys.version.split()[0]} ({sys.executable})")

from mooring_agent.cli.main import main

sys.exit(main())
"""
# The flags of a .pyc file whose source is known by its hash, and not looked at.
_HASHED = 0b01
# What pip writes beside a package, and what would tie the archive to one machine.
_LEFT_OUT_DIRECTORIES = {"__pycache__", "bin", "tests"}
_LEFT_OUT_NAMES = {"INSTALLER", "RECORD", "REQUESTED", "WHEEL", "direct_url.json"}
_LEFT_OUT_SUFFIXES = {".pyc", ".pyd", ".pyi", ".so"}


def run_time_dependencies() -> list[str]:
    """Return the requirements of the extra `agent`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    requirements: list[str] = project["optional-dependencies"]["agent"]
    return requirements


def install(requirements: list[str], target: Path) -> None:
    """Install the requirements below `target`. Raises CalledProcessError."""
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-qq", "--disable-pip-version-check"),
            *("--no-input", "--no-compile", "--target", str(target), *requirements),
        ],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def members(staged: Path) -> list[Path]:
    """Return the files that belong into the archive, sorted by their path."""
    wanted = (
        path
        for path in staged.rglob("*")
        if path.is_file()
        and path.name not in _LEFT_OUT_NAMES
        and path.suffix not in _LEFT_OUT_SUFFIXES
        and _LEFT_OUT_DIRECTORIES.isdisjoint(path.relative_to(staged).parts)
    )
    return sorted(wanted, key=str)


class _Unread(ast.NodeTransformer):
    """Takes out what nothing reads at run time: annotations and docstrings of functions, a MiB in each agent.

    Those of classes stay: dataclasses read them, and make docstrings where there are none.
    """

    def visit(self, node: ast.AST) -> ast.AST:
        """Return the node without, and all below it."""
        self.generic_visit(node)
        if isinstance(node, ast.arg):
            node.annotation = None
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
            if ast.get_docstring(node, clean=False) is not None:
                node.body[:1] = [] if node.body[1:] else [ast.copy_location(ast.Pass(), node.body[0])]
        return node


def compiled(path: Path, name: str) -> bytes:
    """Return what an import of the source at `path` runs; tracebacks show it as `name`."""
    source = path.read_bytes()
    tree = ast.parse(source, name)
    _Unread().visit(tree)
    code = compile(tree, name, "exec", dont_inherit=True)
    header = importlib.util.MAGIC_NUMBER + _HASHED.to_bytes(4, "little") + importlib.util.source_hash(source)
    return header + marshal.dumps(code)


def write_archive(staged: Path, target: Path, epoch: int) -> None:
    """Write the archive; `epoch` in seconds since 1970 is the time of every entry."""
    when = time.gmtime(epoch)[:6]
    # A new file that takes the place of the old one: a running agent keeps the one that it has opened.
    fresh = target.with_name(target.name + ".new")
    with fresh.open("wb") as file:
        file.write(SHEBANG)
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for path in members(staged):
                entry = zipfile.ZipInfo(str(path.relative_to(staged)), when)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o100644 << 16
                archive.writestr(entry, path.read_bytes())
                if path.suffix == ".py":
                    entry = copy(entry)
                    entry.filename += "c"
                    archive.writestr(entry, compiled(path, str(path.relative_to(staged))))
    fresh.chmod(0o755)
    fresh.replace(target)


def main(arguments: list[str]) -> int:
    """Build the archive at the path given."""
    if len(arguments) != 1:
        print("usage: zip_agent.py TARGET", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        staged = Path(directory)
        install(run_time_dependencies(), staged)
        shutil.copytree(ROOT / "agent" / "mooring_agent", staged / "mooring_agent")
        (staged / "__main__.py").write_text(MAIN, encoding="utf-8")
        write_archive(staged, Path(arguments[0]), int(os.environ.get("SOURCE_DATE_EPOCH", "315532800")))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
