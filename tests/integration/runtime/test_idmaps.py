# SPDX-License-Identifier: Apache-2.0
"""Roots whose files have the container's ids on disk and others on the host, on a real kernel."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from harness.forked import in_child
from mooring_agent.linux import syscalls
from mooring_agent.runtime import idmaps
from mooring_agent.runtime.mounts import BindRoot, Overlay

pytestmark = pytest.mark.root

UIDS = ((0, 100_000, 1000), (1000, 300_000, 10))
GIDS = ((0, 200_000, 1000),)


def own_mounts() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    os.umask(0o022)


def enter(place: Path) -> None:
    """Become root of the user namespace, with the mount at `place` as the root of a mount namespace of it."""
    root = syscalls.open_tree(
        syscalls.AT_FDCWD, str(place), syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC
    )
    syscalls.setns(idmaps.user_namespace(UIDS, GIDS), syscalls.CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.move_mount(root, "", syscalls.AT_FDCWD, "/mnt", syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    os.chdir("/mnt")
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")


def owner(path: str | Path) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_uid, found.st_gid


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Layers as the agent keeps them, closed to everybody but root."""
    store = tmp_path / "overlay"
    for name in ("l/1", "l/2", "l/3", "w/3"):
        (store / name).mkdir(parents=True)
    store.chmod(0o700)
    (store / "l/1/file").write_text("lower")
    (store / "l/1/home").mkdir()
    os.chown(store / "l/1/home", 1000, 100)
    (tmp_path / "root").mkdir()
    return store


def overlay(store: Path) -> Overlay:
    layers = (str(store / "l/2"), str(store / "l/1"))
    return Overlay(layers, str(store / "l/3"), str(store / "w/3"), UIDS, GIDS)


def test_layers_show_with_the_ids_of_the_map_and_are_written_with_those_of_the_container(
    store: Path, tmp_path: Path
) -> None:
    def start(work: Any) -> Any:
        def child() -> Any:
            own_mounts()
            overlay(store).mount(str(tmp_path / "root"))
            on_the_host = owner(tmp_path / "root/file")
            enter(tmp_path / "root")
            return [on_the_host, work()]

        return in_child(child)

    def first() -> list[Any]:
        before = [owner("/file"), owner("/home"), owner("/")]
        Path("/file").write_text("changed")
        Path("/new").write_text("x")
        os.chown("/new", 1001, 7)
        os.setxattr("/new", "user.kept", b"yes")
        os.mkdir("/directory")
        os.symlink("new", "/link")
        return [before, owner("/new"), owner("/directory")]

    on_the_host, seen = start(first)
    assert on_the_host == [100_000, 200_000]
    assert seen == [[[0, 0], [1000, 100], [0, 0]], [1001, 7], [0, 0]]
    upper = store / "l/3"
    assert [owner(upper / name) for name in ("file", "new", "directory")] == [(0, 0), (1001, 7), (0, 0)]
    assert (store / "l/1/file").read_text() == "lower", "the shared layer was changed"

    def again() -> list[Any]:
        os.unlink("/file")
        return [owner("/new"), owner("/directory"), Path("/new").read_text(), os.path.exists("/file")]

    assert start(again)[1] == [[1001, 7], [0, 0], "x", False]
    assert sorted(os.listdir(tmp_path)) == ["overlay", "root"]


def test_an_id_without_a_place_in_the_map_cannot_be_used(store: Path, tmp_path: Path) -> None:
    def child() -> Any:
        own_mounts()
        overlay(store).mount(str(tmp_path / "root"))
        enter(tmp_path / "root")
        try:
            os.chown("/file", 5000, 0)
        except OSError as error:
            return error.errno
        return 0

    assert in_child(child) == errno.EINVAL


def test_a_read_only_overlay_and_a_directory_are_mapped_too(store: Path, tmp_path: Path) -> None:
    def child() -> list[Any]:
        own_mounts()
        found = []
        for root in (
            Overlay((str(store / "l/2"), str(store / "l/1")), uid_map=UIDS, gid_map=GIDS),
            BindRoot(str(store / "l/1"), UIDS, GIDS),
        ):
            root.mount(str(tmp_path / "root"))
            found.append([owner(tmp_path / "root" / name) for name in ("file", "home")])
            syscalls.umount(str(tmp_path / "root"))
        return found

    expected = [[100_000, 200_000], [300_000, 200_100]]
    assert in_child(child) == [expected, expected]


def test_many_layers_cost_no_more_mounts(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"l/{number}").mkdir(parents=True)
        (tmp_path / f"l/{number}/file{number}").touch()
    (tmp_path / "root").mkdir()

    def child() -> list[Any]:
        own_mounts()
        before = len(Path("/proc/self/mountinfo").read_text().splitlines())
        layers = tuple(str(tmp_path / f"l/{number}") for number in range(60))
        Overlay(layers, uid_map=UIDS, gid_map=GIDS).mount(str(tmp_path / "root"))
        after = len(Path("/proc/self/mountinfo").read_text().splitlines())
        return [after - before, len(os.listdir(tmp_path / "root"))]

    assert in_child(child) == [1, 60]


def test_layers_of_two_file_systems_are_refused_by_name(store: Path, tmp_path: Path) -> None:
    def child() -> list[Any]:
        own_mounts()
        syscalls.mount("tmpfs", str(store / "l/2"), "tmpfs", 0)
        try:
            overlay(store).mount(str(tmp_path / "root"))
        except OSError as error:
            return [error.errno, error.strerror]
        return []

    number, words = in_child(child)
    assert number == errno.EXDEV
    assert str(store / "l/2") in words


def test_the_same_maps_are_the_same_namespace(tmp_path: Path) -> None:
    def child() -> list[bool]:
        one, same = idmaps.user_namespace(UIDS, GIDS), idmaps.user_namespace(UIDS, GIDS)
        other = idmaps.user_namespace(UIDS, ((0, 5, 1),))
        return [one == same, os.fstat(one).st_ino == os.fstat(other).st_ino]

    assert in_child(child) == [True, False]


def test_a_long_map_is_read_back_whole() -> None:
    uids = tuple((2 * each, 100_000 + 2 * each, 1) for each in range(250))

    def child() -> bool:  # a bare clone(2) is for a process without other threads
        return idmaps.maps_of(idmaps.user_namespace(uids, GIDS)) == (uids, GIDS)

    assert in_child(child)


def test_a_map_that_the_kernel_refuses_is_named() -> None:
    def child() -> list[Any]:
        try:
            idmaps.user_namespace(((0, 0, 10), (5, 100, 10)), GIDS)
        except OSError as error:
            return [error.errno, error.strerror]
        return []

    number, words = in_child(child)
    assert number == errno.EINVAL
    assert "uid_map" in words
