# SPDX-License-Identifier: Apache-2.0
"""Trees of several layers, as a container sees them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.tree import Tree
from mooring_agent.storage.changes import OVERLAY_OPAQUE
from unit.images.build import trees


@contextmanager
def layered(directory: Path, *layers: trees.Tree) -> Iterator[Tree]:
    """A tree of layers, the topmost first."""
    places = [trees.write(directory / str(number), layer) for number, layer in enumerate(layers)]
    with closing(Tree(places)) as tree:
        yield tree


def told(tree: Tree, path: bytes = b"") -> trees.Tree:
    found: trees.Tree = {}
    for name, status in tree.names(path):
        child = path + b"/" + name if path else name
        if stat.S_ISDIR(status.st_mode):
            found[os.fsdecode(name)] = told(tree, child)
        elif stat.S_ISLNK(status.st_mode):
            found[os.fsdecode(name)] = ("link", os.fsdecode(tree.readlink(child)))
        else:
            with open(tree.open(child), "rb") as file:
                found[os.fsdecode(name)] = ("file", file.read().decode())
    return found


@settings(max_examples=50)
@given(layers=st.lists(trees.TREES, min_size=1, max_size=3))
def test_layers_are_merged(tmp_path_factory: pytest.TempPathFactory, layers: list[trees.Tree]) -> None:
    with layered(tmp_path_factory.mktemp("tree"), *layers) as tree:
        expected: trees.Tree = {}
        for layer in reversed(layers):
            expected = trees.merged(expected, layer)
        assert told(tree) == expected
        assert {path for path, _ in tree.walk(b"")} == {path for path, _ in _flat(expected)}
        for path, node in _flat(expected):
            status = tree.lstat(path)
            assert status is not None
            assert stat.S_ISDIR(status.st_mode) == isinstance(node, dict)


@settings(max_examples=50)
@given(tree=trees.TREES, path=st.lists(st.sampled_from(("a", "b", "c", "..", ".")), max_size=5).map("/".join))
def test_paths_are_resolved_as_the_kernel_does_after_chroot(
    tmp_path_factory: pytest.TempPathFactory, tree: trees.Tree, path: str
) -> None:
    with layered(tmp_path_factory.mktemp("tree"), tree) as one:
        try:
            found = one.resolve(os.fsencode(path))
        except InvalidSpec:
            return  # links in a circle
        assert b".." not in found.split(b"/")
        assert one.resolve(found) == found
        status = one.lstat(found)
        assert status is None or not stat.S_ISLNK(status.st_mode)


@pytest.mark.root
def test_whiteouts_and_opaque_directories_hide_what_is_below(tmp_path: Path) -> None:
    below: trees.Tree = {"d": {"old": ("file", "")}, "gone": ("file", ""), "e": {"kept": ("file", "")}}
    with layered(tmp_path, {"d": {"new": ("file", "")}, "e": {}}, below) as tree:
        os.mknod(tmp_path / "0" / "gone", stat.S_IFCHR, 0)
        os.setxattr(tmp_path / "0" / "d", OVERLAY_OPAQUE, b"y")
        assert told(tree) == {"d": {"new": ("file", "")}, "e": {"kept": ("file", "")}}
        assert tree.lstat(b"gone") is None
        assert tree.lstat(b"d/old") is None
        assert tree.places(b"d") == (tmp_path / "0" / "d",)
        assert tree.places(b"e/kept") == (tmp_path / "1" / "e" / "kept",)


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    with (
        layered(tmp_path, {"a": ("link", "b"), "b": ("link", "a")}) as tree,
        pytest.raises(InvalidSpec, match="circle"),
    ):
        tree.resolve(b"a")


def test_no_layers_are_an_empty_tree() -> None:
    tree = Tree(())
    assert (tree.lstat(b""), tree.lstat(b"x"), tree.names(b""), tree.text(b"etc/passwd")) == (
        None,
        None,
        [],
        "",
    )
    assert tree.resolve(b"/a/../b") == b"b"


def _flat(tree: trees.Tree, above: str = "") -> Iterator[tuple[bytes, object]]:
    for name, node in tree.items():
        yield os.fsencode(above + name), node
        if isinstance(node, dict):
            yield from _flat(node, f"{above}{name}/")
