# SPDX-License-Identifier: Apache-2.0
"""Places inside a container's root, whatever links its image has; and mounts as data. None is made here."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mooring_agent.runtime import mounts

LINK_DEPTH = 50  # more than the 40 links that the kernel follows, path_resolution(7)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Return a container's root, descriptor and path; its sibling `outside` is what must stay empty."""
    (tmp_path / "outside").mkdir()
    inside = tmp_path / "root"
    inside.mkdir()
    descriptor = os.open(inside, os.O_PATH | os.O_DIRECTORY)
    yield descriptor, inside
    os.close(descriptor)
    assert os.listdir(tmp_path / "outside") == []


def place(descriptor: int) -> Path:
    """Where a descriptor is, seen from the host; closes it."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{descriptor}"))
    finally:
        os.close(descriptor)


Ensure = Callable[[int, str], int]
BOTH = pytest.mark.parametrize("ensure", [mounts.ensure_directory, mounts.ensure_file])


@BOTH
def test_missing_parts_are_made(root: tuple[int, Path], ensure: Ensure) -> None:
    descriptor, inside = root
    assert place(ensure(descriptor, "/a/b/c")) == inside / "a/b/c"
    assert (inside / "a/b/c").is_dir() == (ensure is mounts.ensure_directory)


@BOTH
def test_what_is_there_is_taken(root: tuple[int, Path], ensure: Ensure) -> None:
    descriptor, _ = root
    before = place(ensure(descriptor, "/a/b"))
    assert place(ensure(descriptor, "/a/b")) == before
    assert place(ensure(descriptor, "a//b")) == before


@BOTH
def test_a_new_place_has_docker_s_mode_whatever_is_above(root: tuple[int, Path], ensure: Ensure) -> None:
    descriptor, inside = root
    old = os.umask(0)
    try:
        os.close(ensure(descriptor, "/new/place"))
    finally:
        os.umask(old)
    expected = 0o755 if ensure is mounts.ensure_directory else 0o644
    assert (inside / "new").stat().st_mode & 0o7777 == 0o755
    assert (inside / "new/place").stat().st_mode & 0o7777 == expected


@BOTH
@pytest.mark.parametrize(
    "target", ["../outside/x", "/../outside/x", "/a/../../outside/x", "../../../../outside/x"]
)
def test_dots_do_not_leave_the_root(root: tuple[int, Path], ensure: Ensure, target: str) -> None:
    descriptor, inside = root
    (inside / "a").mkdir()
    assert place(ensure(descriptor, target)) == inside / "outside/x"


@BOTH
@pytest.mark.parametrize("link", ["../../outside", "../outside", "/../outside", "/outside"])
def test_a_link_that_points_out_stays_inside(root: tuple[int, Path], ensure: Ensure, link: str) -> None:
    descriptor, inside = root
    (inside / "outside").mkdir()
    (inside / "way").symlink_to(link)
    assert place(ensure(descriptor, "/way/x")) == inside / "outside/x"


@BOTH
def test_an_absolute_link_of_the_host_is_one_of_the_root(
    root: tuple[int, Path], ensure: Ensure, tmp_path: Path
) -> None:
    descriptor, inside = root
    outside = str(tmp_path / "outside")
    (inside / outside.lstrip("/")).mkdir(parents=True)
    (inside / "way").symlink_to(outside)
    assert place(ensure(descriptor, "/way/x")) == inside / outside.lstrip("/") / "x"


@BOTH
def test_var_run_to_run_works(root: tuple[int, Path], ensure: Ensure) -> None:
    """CVE-2018-15664 is no reason to refuse the links that every distribution has."""
    descriptor, inside = root
    (inside / "run").mkdir()
    (inside / "var").mkdir()
    (inside / "var/run").symlink_to("/run")
    assert place(ensure(descriptor, "/var/run/app/socket")) == inside / "run/app/socket"


@BOTH
@pytest.mark.parametrize("link", ["../run/systemd/resolve/stub", "/run/systemd/resolve/stub", "here"])
def test_a_dangling_link_gets_what_it_points_to(root: tuple[int, Path], ensure: Ensure, link: str) -> None:
    """As Ubuntu's /etc/resolv.conf: what is mounted there must show through the link."""
    descriptor, inside = root
    (inside / "etc").mkdir()
    (inside / "etc/resolv.conf").symlink_to(link)
    expected = inside / "etc/here" if link == "here" else inside / "run/systemd/resolve/stub"
    assert place(ensure(descriptor, "/etc/resolv.conf")) == expected
    assert (inside / "etc/resolv.conf").is_symlink()


@BOTH
@pytest.mark.parametrize("link", ["../../../outside/x", "/../outside/x"])
def test_a_dangling_link_that_points_out_stays_inside(
    root: tuple[int, Path], ensure: Ensure, link: str
) -> None:
    descriptor, inside = root
    (inside / "way").symlink_to(link)
    assert place(ensure(descriptor, "/way")) == inside / "outside/x"


@BOTH
def test_a_chain_of_dangling_links_is_followed(root: tuple[int, Path], ensure: Ensure) -> None:
    descriptor, inside = root
    (inside / "a").symlink_to("b")
    (inside / "b").symlink_to("/deep/c")
    assert place(ensure(descriptor, "/a")) == inside / "deep/c"


@BOTH
@pytest.mark.parametrize("links", [{"a": "a"}, {"a": "b", "b": "/a"}, {"a": "a/a"}])
def test_links_in_a_circle_are_refused(root: tuple[int, Path], ensure: Ensure, links: dict[str, str]) -> None:
    descriptor, inside = root
    for name, target in links.items():
        (inside / name).symlink_to(target)
    with pytest.raises(OSError, match="/a") as refused:
        ensure(descriptor, "/a/x")
    assert refused.value.errno == errno.ELOOP


@BOTH
def test_a_long_chain_of_dangling_links_ends(root: tuple[int, Path], ensure: Ensure) -> None:
    descriptor, inside = root
    for number in range(LINK_DEPTH):
        (inside / f"l{number}").symlink_to(f"l{number + 1}")
    with pytest.raises(OSError, match="l0") as refused:
        ensure(descriptor, "/l0")
    assert refused.value.errno == errno.ELOOP


@BOTH
def test_a_file_in_the_way_is_named(root: tuple[int, Path], ensure: Ensure) -> None:
    descriptor, inside = root
    (inside / "file").write_text("")
    with pytest.raises(OSError, match="/file/x") as refused:
        ensure(descriptor, "/file/x")
    assert refused.value.errno == errno.ENOTDIR


def test_a_file_where_a_directory_is_wanted_is_refused(root: tuple[int, Path]) -> None:
    descriptor, inside = root
    (inside / "file").write_text("")
    with pytest.raises(NotADirectoryError, match="/file"):
        mounts.ensure_directory(descriptor, "/file")


@pytest.mark.parametrize("target", ["/missing/..", "/missing/.", "missing/../.."])
def test_dots_behind_what_is_missing_are_refused(root: tuple[int, Path], target: str) -> None:
    descriptor, _ = root
    with pytest.raises(OSError, match="missing"):
        mounts.ensure_directory(descriptor, target)


@pytest.mark.parametrize("target", ["/", "", "."])
def test_the_root_itself_is_there(root: tuple[int, Path], target: str) -> None:
    descriptor, inside = root
    assert place(mounts.ensure_directory(descriptor, target or "/")) == inside


def test_no_link_is_followed_where_none_may_be(root: tuple[int, Path]) -> None:
    """/dev of an image that is a link to somewhere else gets no devices (CVE-2026-41579)."""
    descriptor, inside = root
    (inside / "tmp").mkdir()
    (inside / "dev").symlink_to("/tmp")
    with pytest.raises(OSError, match="/dev of the image is a symbolic link: expected a directory"):
        mounts.move_tree("/nowhere", descriptor, "/dev")
    assert os.listdir(inside / "tmp") == []


def test_a_dangling_link_is_not_followed_where_none_may_be(root: tuple[int, Path]) -> None:
    descriptor, inside = root
    (inside / "dev").symlink_to("/made")
    with pytest.raises(OSError, match="/dev of the image is a symbolic link"):
        mounts.move_tree("/nowhere", descriptor, "/dev")
    assert not (inside / "made").exists()


def test_a_file_in_place_of_dev_is_named(root: tuple[int, Path]) -> None:
    descriptor, inside = root
    (inside / "dev").write_text("")
    with pytest.raises(OSError, match="/dev"):
        mounts.move_tree("/nowhere", descriptor, "/dev")


def test_no_descriptor_is_left_open(root: tuple[int, Path]) -> None:
    descriptor, inside = root
    (inside / "loop").symlink_to("loop")
    (inside / "file").write_text("")
    before = len(os.listdir("/proc/self/fd"))
    for target in ("/a/b/c", "/loop/x", "/file/x", "/x/..", "/a/b"):
        for ensure in (mounts.ensure_directory, mounts.ensure_file):
            try:
                os.close(ensure(descriptor, target))
            except OSError:
                continue
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_link_and_its_parents_are_made(root: tuple[int, Path]) -> None:
    descriptor, inside = root
    mounts.Link("/dev/fd", "/proc/self/fd").execute(descriptor)
    assert os.readlink(inside / "dev/fd") == "/proc/self/fd"


def test_missing_paths_to_hide_are_passed_over(root: tuple[int, Path]) -> None:
    descriptor, inside = root
    (inside / "file").write_text("")
    mounts.Mask(("/missing", "/file/below")).execute(descriptor)
    mounts.ReadOnly(("/missing", "/file/below")).execute(descriptor)


@pytest.mark.parametrize(
    ("operation", "words"),
    [
        (mounts.Overlay(("/l/1", "/l/2"), "/u/1", "/w/1"), "overlay of 2 layers, writes to /u/1"),
        (mounts.Overlay(("/l/1",)), "overlay of 1 layers, writes to nothing"),
        (mounts.BindRoot("/srv/root"), "directory /srv/root"),
        (mounts.Filesystem("tmpfs", "tmpfs", "/scratch"), "mount tmpfs on /scratch"),
        (mounts.Bind("/src", "/dst"), "bind /src to /dst"),
        (mounts.Bind("/src", "/dst", 0x2, tree_set=0x1), "bind /src to /dst (ro,nosuid)"),
        (mounts.Node("/dev/null", 1, 3), "device 1:3 at /dev/null"),
        (mounts.Link("/dev/fd", "/proc/self/fd"), "link /dev/fd to /proc/self/fd"),
        (mounts.Mask(("/proc/kcore", "/proc/keys")), "mask /proc/kcore /proc/keys"),
        (mounts.ReadOnly(("/proc/sys",)), "read-only /proc/sys"),
        (mounts.Seal("/sys/fs/cgroup"), "seal /sys/fs/cgroup"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_operations_describe_themselves(
    operation: mounts.MountOperation | mounts.Overlay | mounts.BindRoot, words: str
) -> None:
    assert operation.describe() == words


@pytest.mark.parametrize("sign", [":", ",", "\\"])
def test_a_layer_that_overlay_cannot_name_is_refused(tmp_path: Path, sign: str) -> None:
    layer = tmp_path / f"a{sign}b"
    layer.mkdir()
    before = os.getcwd()
    try:
        with pytest.raises(OSError, match="layer directory"):
            mounts.Overlay((str(layer),)).mount(str(tmp_path))
    finally:
        os.chdir(before)
