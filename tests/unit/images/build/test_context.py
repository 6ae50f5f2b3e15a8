# SPDX-License-Identifier: Apache-2.0
"""Contexts on their way: what is sent, and what is there when it has arrived."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.build.context import archive_context, receive_context
from mooring_agent.images.dockerfile.errors import DockerfileError
from unit.images.archives import archive, member
from unit.images.build import trees

pytestmark = pytest.mark.root  # owners are set


def arrived(context: Path, directory: Path, **options: str) -> trees.Tree:
    """What of a context arrives."""
    directory.mkdir()
    receive_context(archive_context(context, **options), directory, **options).tree.close()
    return trees.read(directory)


@settings(max_examples=40)
@given(tree=trees.TREES)
def test_everything_arrives(tmp_path_factory: pytest.TempPathFactory, tree: trees.Tree) -> None:
    directory = tmp_path_factory.mktemp("context")
    context = trees.write(directory / "context", tree)
    (context / "Dockerfile").write_text("FROM scratch\n")
    assert arrived(context, directory / "there") == {**tree, "Dockerfile": ("file", "FROM scratch\n")}


@settings(max_examples=40)
@given(
    tree=trees.TREES,
    patterns=st.lists(st.sampled_from(("a", "**/b", "*.txt", "!a/c", "!**/d.txt", "*", "c/*")), max_size=4),
)
def test_who_sends_and_who_receives_ignore_the_same(
    tmp_path_factory: pytest.TempPathFactory, tree: trees.Tree, patterns: list[str]
) -> None:
    directory = tmp_path_factory.mktemp("context")
    context = trees.write(directory / "context", tree)
    (context / "Dockerfile").write_text("FROM scratch\n")
    everything = b"".join(archive_context(context))
    (context / ".dockerignore").write_text("\n".join(patterns))
    ignored = arrived(context, directory / "sent")
    # Another client sends all of it.
    (directory / "all").mkdir()
    ignore = member(".dockerignore", data="\n".join(patterns).encode())
    whole = iter((everything[:-1024] + archive(ignore),))
    receive_context(whole, directory / "all").tree.close()
    assert trees.read(directory / "all") == ignored


def test_a_dockerfile_has_an_ignore_file_of_its_own(tmp_path: Path) -> None:
    context = trees.write(
        tmp_path / "context",
        {"d": {"web": ("file", "FROM scratch\n"), "web.dockerignore": ("file", "x\n")},
         ".dockerignore": ("file", "y\n"), "x": ("file", ""), "y": ("file", "")},
    )  # fmt: skip
    found = arrived(context, tmp_path / "there", dockerfile="d/web")
    assert "x" not in found
    assert "y" in found


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match="is no directory"):
        list(archive_context(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidSpec, match="has no file 'Dockerfile'"):
        receive_context(iter((archive(member("x")),)), tmp_path / "empty")
    context = trees.write(tmp_path / "bad", {".dockerignore": ("file", "a\n[z-a]\n")})
    with pytest.raises(DockerfileError, match=r"\.dockerignore:2"):
        list(archive_context(context))


@pytest.mark.parametrize("path", ["../outside", "/outside", "a/../../outside"])
def test_a_context_stays_in_its_directory(tmp_path: Path, path: str) -> None:
    (tmp_path / "there").mkdir()
    hostile = archive(member("Dockerfile", data=b"FROM scratch\n"), member(path, data=b"x"))
    try:
        receive_context(iter((hostile,)), tmp_path / "there").tree.close()
    except InvalidSpec:
        pass
    assert os.listdir(tmp_path) == ["there"]


@pytest.mark.parametrize("name", ["d/.wh.g", ".wh.g", "d/.wh..wh..opq"])
def test_names_that_mean_something_in_layers_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "there").mkdir()
    hostile = archive(member("Dockerfile", data=b"FROM scratch\n"), member("d/f"), member(name))
    with pytest.raises(InvalidSpec, match=r"\.wh\."):
        receive_context(iter((hostile,)), tmp_path / "there")
    context = trees.write(tmp_path / "context", {".wh.f": ("file", "")})
    with pytest.raises(InvalidSpec, match=r"\.wh\."):
        list(archive_context(context))
