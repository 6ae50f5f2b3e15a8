# SPDX-License-Identifier: Apache-2.0
"""The rules of COPY on directories; the conformance tests compare them with another builder."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.copying import Placing, Treatment
from mooring_agent.images.build.items import archive_items, digest_items
from mooring_agent.images.build.modes import Modes
from mooring_agent.images.build.tree import Tree
from mooring_agent.images.layers import apply_layer
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle
from unit.images.build import trees

FILES: trees.Tree = {
    "app": {"main.txt": ("file", "m"), "lib": {"one.txt": ("file", "1")}, "link": ("link", "main.txt")},
    "top.md": ("file", "t"),
    "to-top": ("link", "top.md"),
    "to-app": ("link", "app"),
}
OWN = Treatment(owner=(os.geteuid(), os.getegid()))


def copied(
    directory: Path, base: trees.Tree, *transfers: tuple[str, str], how: Treatment = OWN
) -> trees.Tree:
    """What a tree is after some copies."""
    with (
        closing(Tree((trees.write(directory / "base", base),))) as below,
        closing(Tree((trees.write(directory / "source", FILES),))) as source,
    ):
        placing = Placing(below, (os.geteuid(), os.getegid()))
        for path, destination in transfers:
            placing.copy(source, path, destination, how, what="the context")
        target = UnpackTarget(directory / "base", WhiteoutStyle.DELETE, ())
        apply_layer(archive_items(placing.items), target)
    return trees.read(directory / "base")


@pytest.mark.parametrize(
    ("transfer", "expected"),
    [
        (("top.md", "/x"), {"x": ("file", "t")}),
        (("top.md", "/x/"), {"x": {"top.md": ("file", "t")}}),
        (("top.md", "/d"), {"d": {"top.md": ("file", "t")}}),
        (("to-top", "/d/"), {"d": {"to-top": ("file", "t")}}),
        (("app/lib", "/d"), {"d": {"one.txt": ("file", "1")}}),
        (("to-app/lib", "/d"), {"d": {"one.txt": ("file", "1")}}),
        (("app/l*", "/d/"), {"d": {"one.txt": ("file", "1"), "link": ("file", "m")}}),
        (("*.none", "/d/"), {}),
        (("top.md", "/led/"), {"d": {"top.md": ("file", "t")}}),
        (("top.md", "/led/deep/x"), {"d": {"deep": {"x": ("file", "t")}}}),
        (("../../top.md", "/x"), {"x": ("file", "t")}),
    ],
)
def test_where_things_go(tmp_path: Path, transfer: tuple[str, str], expected: trees.Tree) -> None:
    base: trees.Tree = {"d": {}, "led": ("link", "/d")}
    assert copied(tmp_path, base, transfer) == trees.merged(base, expected)


@pytest.mark.parametrize(
    ("transfer", "part"),
    [
        (("absent", "/x"), "'absent' is not in the context"),
        (("app", "/file"), "/file is no directory"),
        (("top.md", "/file/x"), "/file is no directory"),
        (("app", "/holder"), "/holder/lib is a file"),
        (("app", "/other"), "/other/main.txt is a directory"),
    ],
)
def test_what_is_in_the_way_is_named(tmp_path: Path, transfer: tuple[str, str], part: str) -> None:
    base: trees.Tree = {
        "file": ("file", ""),
        "holder": {"lib": ("file", "")},
        "other": {"main.txt": {"x": ("file", "")}},
    }
    with pytest.raises(InvalidSpec, match=part):
        copied(tmp_path, base, transfer)


@settings(max_examples=40)
@given(base=trees.TREES, source=trees.TREES)
def test_a_directory_arrives_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, base: trees.Tree, source: trees.Tree
) -> None:
    directory = tmp_path_factory.mktemp("copy")
    with (
        closing(Tree((trees.write(directory / "base", base),))) as below,
        closing(Tree((trees.write(directory / "source", source),))) as above,
    ):
        placing = Placing(below, (os.geteuid(), os.getegid()))
        placing.copy(above, ".", "/new", OWN, what="the context")
        archive = b"".join(archive_items(placing.items))
        assert archive == b"".join(archive_items(reversed(placing.items)))
        apply_layer(iter((archive,)), UnpackTarget(directory / "base", WhiteoutStyle.DELETE, ()))
    assert trees.read(directory / "base") == {**base, "new": source}


def test_excludes_take_back_in(tmp_path: Path) -> None:
    how = Treatment(OWN.owner, excludes=("lib", "**/*.txt", "!lib/one.txt"))
    assert copied(tmp_path, {}, ("app", "/a"), how=how) == {
        "a": {"lib": {"one.txt": ("file", "1")}, "link": ("link", "main.txt")}
    }


def test_parents_are_kept_from_the_pivot_on(tmp_path: Path) -> None:
    how = Treatment(OWN.owner, parents=True)
    found = copied(tmp_path, {}, ("app/lib/one.txt", "/p/"), ("app/./lib", "/q/"), how=how)
    assert found == {
        "p": {"app": {"lib": {"one.txt": ("file", "1")}}},
        "q": {"lib": {"one.txt": ("file", "1")}},
    }


def test_the_digest_knows_all_but_times(tmp_path: Path) -> None:
    place = trees.write(tmp_path / "source", FILES)

    def digest(how: Treatment = OWN, destination: str = "/x") -> str:
        with closing(Tree(())) as below, closing(Tree((place,))) as source:
            placing = Placing(below)
            placing.copy(source, "app", destination, how, what="the context")
            return digest_items(placing.items)

    first = digest()
    os.utime(place / "app" / "main.txt", (1, 1))
    assert digest() == first
    assert digest(destination="/y") != first
    assert digest(Treatment(owner=(7, 8))) != first
    assert digest(Treatment(OWN.owner, Modes("600"))) != first
    (place / "app" / "main.txt").write_text("M")
    changed = digest()
    assert changed != first
    (place / "app" / "link").unlink()
    (place / "app" / "link").symlink_to("lib")
    assert digest() not in (first, changed)
