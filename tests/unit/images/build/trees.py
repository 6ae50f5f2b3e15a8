# SPDX-License-Identifier: Apache-2.0
"""Random file trees, written into directories and told as data."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hypothesis import strategies as st

NAMES = st.sampled_from(("a", "b", "c", "d.txt"))

Tree = dict[str, "Tree | tuple[str, str]"]
"""By name: a directory, or ("file", content) or ("link", where to)."""

_LEAVES = st.one_of(
    st.tuples(st.just("file"), st.sampled_from(("", "one", "two"))),
    st.tuples(st.just("link"), st.sampled_from(("a", "../b", "/c", "nowhere", "."))),
)
TREES: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(NAMES, _LEAVES, max_size=3),
    lambda inner: st.dictionaries(NAMES, st.one_of(_LEAVES, inner), max_size=3),
    max_leaves=8,
)


def write(directory: Path, tree: Tree) -> Path:
    """Make a directory of a tree."""
    directory.mkdir(exist_ok=True)
    for name, node in tree.items():
        path = directory / name
        if isinstance(node, dict):
            write(path, node)
        elif node[0] == "file":
            path.write_text(node[1])
        else:
            path.symlink_to(node[1])
    return directory


def read(directory: Path) -> Tree:
    """The tree that a directory is."""
    found: Tree = {}
    for name in os.listdir(directory):
        path = directory / name
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            found[name] = read(path)
        elif stat.S_ISLNK(mode):
            found[name] = ("link", os.readlink(path))
        else:
            found[name] = ("file", path.read_text())
    return found


def merged(below: Tree, above: Tree) -> Tree:
    """One tree laid over another."""
    found = dict(below)
    for name, node in above.items():
        under = found.get(name)
        found[name] = merged(under, node) if isinstance(under, dict) and isinstance(node, dict) else node
    return found
