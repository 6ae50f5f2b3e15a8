# SPDX-License-Identifier: Apache-2.0
"""Mount operations on a real kernel, each in a forked child with a mount namespace of its own."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.forked import in_child
from mooring_agent.linux import syscalls
from mooring_agent.runtime import mounts, stage, standard
from mooring_agent.runtime.mounts import Bind, BindRoot, Filesystem, Link, Mask, Node, Overlay, ReadOnly, Seal

pytestmark = pytest.mark.root

Work = Callable[[int, Path], Any]


def in_root(base: Path, work: Work) -> Any:
    """Return what `work(root, its path)` returns, with mounts that nobody else sees."""

    def child() -> Any:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        inside = base / "root"
        inside.mkdir(exist_ok=True)
        os.umask(0)
        root = os.open(inside, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        before = len(os.listdir("/proc/self/fd"))
        result = work(root, inside)
        # Fewer where what another test of this process has left is collected meanwhile.
        assert len(os.listdir("/proc/self/fd")) <= before, "a descriptor was left open"
        return result

    return in_child(child)


def failure(call: Callable[[], object]) -> list[Any]:
    try:
        call()
    except OSError as error:
        return [error.errno, error.strerror]
    return [0, ""]


def options(path: Path) -> set[str]:
    """The options of the mount at a path, proc(5) mountinfo."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[4] == str(path):
            return set(fields[5].split(","))
    return set()


def test_a_file_system_is_mounted_with_its_options(tmp_path: Path) -> None:
    def work(root: int, inside: Path) -> list[Any]:
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV
        Filesystem("tmpfs", "tmpfs", "/new/scratch", flags, "size=64k,mode=1777").execute(root)
        place = inside / "new/scratch"
        space = os.statvfs(place)
        return [
            {"nosuid", "nodev"} <= options(place),
            space.f_blocks * space.f_frsize,
            stat.S_IMODE(place.stat().st_mode),
        ]

    assert in_root(tmp_path, work) == [True, 64 << 10, 0o1777]


def test_a_file_system_that_is_not_known_is_named(tmp_path: Path) -> None:
    number, words = in_root(
        tmp_path, lambda root, _: failure(lambda: Filesystem("nofs", "x", "/x").execute(root))
    )
    assert number == errno.ENODEV
    assert "nofs" in words


@pytest.mark.parametrize("read_only", [False, True])
def test_a_bind_shows_the_source_and_is_read_only_all_the_way_down(tmp_path: Path, read_only: bool) -> None:
    source = tmp_path / "source"
    (source / "deeper").mkdir(parents=True)

    def work(root: int, inside: Path) -> list[Any]:
        syscalls.mount("tmpfs", str(source / "deeper"), "tmpfs", 0)
        (source / "deeper/file").write_text("content")
        Bind(str(source), "/data", tree_set=syscalls.MOUNT_ATTR_RDONLY if read_only else 0).execute(root)
        place = inside / "data"
        writes = [failure((place / name).touch)[0] for name in ("new", "deeper/new")]
        (source / "deeper/later").write_text("the source itself is as it was")
        return [(place / "deeper/file").read_text(), writes]

    expected = errno.EROFS if read_only else 0
    assert in_root(tmp_path, work) == ["content", [expected, expected]]


def test_a_bind_that_is_not_recursive_leaves_other_mounts_out(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deeper").mkdir(parents=True)

    def work(root: int, inside: Path) -> list[str]:
        syscalls.mount("tmpfs", str(source / "deeper"), "tmpfs", 0)
        (source / "deeper/file").touch()
        Bind(str(source), "/data", recursive=False).execute(root)
        return os.listdir(inside / "data/deeper")

    assert in_root(tmp_path, work) == []


def test_a_file_is_bound_to_a_file(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 localhost\n")

    def work(root: int, inside: Path) -> str:
        Bind(str(tmp_path / "hosts"), "/etc/hosts").execute(root)
        return (inside / "etc/hosts").read_text()

    assert in_root(tmp_path, work) == "127.0.0.1 localhost\n"


@pytest.mark.parametrize("way", ["a file over a directory", "a directory over a file"])
def test_what_does_not_fit_is_refused_by_name(tmp_path: Path, way: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "directory").mkdir()

    def work(root: int, inside: Path) -> list[Any]:
        (inside / "directory").mkdir()
        (inside / "file").write_text("")
        source, target = ("file", "/directory") if way.startswith("a file") else ("directory", "/file")
        return failure(lambda: Bind(str(tmp_path / source), target).execute(root))

    number, words = in_root(tmp_path, work)
    assert number in (errno.ENOTDIR, errno.EISDIR)
    assert ("/directory" if way.startswith("a file") else "/file") in words


def test_a_source_that_is_missing_is_named(tmp_path: Path) -> None:
    number, words = in_root(
        tmp_path, lambda root, _: failure(lambda: Bind("/no/such/source", "/x").execute(root))
    )
    assert (number, "/no/such/source" in words) == (errno.ENOENT, True)


def test_a_bind_through_a_link_stays_inside(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "source").mkdir()
    (tmp_path / "source/file").touch()

    def work(root: int, inside: Path) -> list[Any]:
        (inside / "way").symlink_to(f"../../../../../..{tmp_path}/outside")
        Bind(str(tmp_path / "source"), "/way/x").execute(root)
        return [os.listdir(tmp_path / "outside"), os.listdir(f"{inside}{tmp_path}/outside/x")]

    assert in_root(tmp_path, work) == [[], ["file"]]


def test_devices_are_made_and_work(tmp_path: Path) -> None:
    def work(root: int, inside: Path) -> list[Any]:
        Filesystem("tmpfs", "tmpfs", "/dev", 0).execute(root)
        Node("/dev/zero", 1, 5).execute(root)
        Link("/dev/core", "/proc/kcore").execute(root)
        found = (inside / "dev/zero").stat()
        return [
            stat.S_ISCHR(found.st_mode),
            stat.S_IMODE(found.st_mode),
            (inside / "dev/zero").open("rb").read(3).hex(),
            os.readlink(inside / "dev/core"),
        ]

    assert in_root(tmp_path, work) == [True, 0o666, "000000", "/proc/kcore"]


def test_masked_files_are_empty_and_masked_directories_too(tmp_path: Path) -> None:
    def work(root: int, inside: Path) -> list[Any]:
        for name in ("one", "two"):
            (inside / name).mkdir()
            (inside / name / "secret").write_text("x")
        (inside / "file").write_text("secret")
        Mask(("/one", "/file", "/missing", "/two")).execute(root)
        return [
            os.listdir(inside / "one"),
            os.listdir(inside / "two"),
            (inside / "file").read_text(),
            failure((inside / "one/new").touch)[0],
            failure((inside / "two/new").touch)[0],
            (inside / "one").stat().st_dev == (inside / "two").stat().st_dev,  # they share one mount
        ]

    assert in_root(tmp_path, work) == [[], [], "", errno.EROFS, errno.EROFS, True]


def test_a_path_is_read_only_in_place(tmp_path: Path) -> None:
    def work(root: int, inside: Path) -> list[Any]:
        (inside / "settings").mkdir()
        (inside / "settings/one").write_text("1")
        (inside / "other").write_text("")
        ReadOnly(("/settings", "/missing", "/other")).execute(root)
        return [
            (inside / "settings/one").read_text(),
            failure(lambda: (inside / "settings/one").write_text("2"))[0],
            failure(lambda: (inside / "other").write_text("2"))[0],
            failure((inside / "free").touch)[0],
        ]

    assert in_root(tmp_path, work) == ["1", errno.EROFS, errno.EROFS, 0]


def test_a_mount_is_sealed_without_another_over_it(tmp_path: Path) -> None:
    def work(root: int, inside: Path) -> list[Any]:
        Filesystem("tmpfs", "tmpfs", "/sealed", 0).execute(root)
        (inside / "sealed/file").touch()
        count = Path("/proc/self/mountinfo").read_text().count(str(inside / "sealed"))
        Seal("/sealed").execute(root)
        after = Path("/proc/self/mountinfo").read_text().count(str(inside / "sealed"))
        return [failure((inside / "sealed/new").touch)[0], count == after]

    assert in_root(tmp_path, work) == [errno.EROFS, True]


def test_a_tree_is_moved_and_not_through_a_link(tmp_path: Path) -> None:
    def work(root: int, inside: Path) -> list[Any]:
        staged = tmp_path / "staged"
        staged.mkdir()
        syscalls.mount("tmpfs", str(staged), "tmpfs", 0)
        (staged / "null").touch()
        (inside / "tmp").mkdir()
        (inside / "dev").symlink_to("/tmp")
        refused = failure(lambda: mounts.move_tree(str(staged), root, "/dev"))
        untouched = os.listdir(inside / "tmp")
        (inside / "dev").unlink()
        mounts.move_tree(str(staged), root, "/dev")
        return [refused, untouched, os.listdir(inside / "dev"), os.listdir(staged)]

    refused, untouched, moved, left = in_root(tmp_path, work)
    assert refused == [errno.ELOOP, "/dev of the image is a symbolic link: expected a directory"]
    assert (untouched, moved, left) == ([], ["null"], [])


@pytest.mark.parametrize("layers", [1, 3, 100])
def test_an_overlay_shows_its_layers_and_writes_to_its_own(tmp_path: Path, layers: int) -> None:
    """A hundred layers with long names are more than a page of options would take."""
    store = tmp_path / ("s" * 60)
    for number in range(layers):
        (store / f"layer-{number:03}").mkdir(parents=True)
        (store / f"layer-{number:03}" / f"file{number}").touch()
        (store / f"layer-{number:03}" / "common").write_text(str(number))
    (store / "upper").mkdir()
    (store / "work").mkdir()
    lower = tuple(str(store / f"layer-{number:03}") for number in range(layers))

    def work(root: int, inside: Path) -> list[Any]:
        Overlay(lower, str(store / "upper"), str(store / "work")).mount(str(inside))
        (inside / "common").write_text("changed")
        return [len(os.listdir(inside)), (inside / "common").read_text()]

    assert in_root(tmp_path, work) == [layers + 1, "changed"]
    assert (store / "upper/common").read_text() == "changed"
    assert (store / "layer-000/common").read_text() == "0"


def test_an_overlay_of_directories_that_share_nothing(tmp_path: Path) -> None:
    """Their names are then relative to the root directory."""
    (tmp_path / "lower").mkdir()
    (tmp_path / "lower/file").write_text("below")

    def work(root: int, inside: Path) -> str:
        for name in ("upper", "work"):
            Path(f"/dev/shm/mrgt-{os.getpid()}-{name}").mkdir()
        try:
            upper, work_directory = (f"/dev/shm/mrgt-{os.getpid()}-{name}" for name in ("upper", "work"))
            syscalls.mount("tmpfs", "/dev/shm", "tmpfs", 0)
            for path in (upper, work_directory):
                os.mkdir(path)
            Overlay((str(tmp_path / "lower"),), upper, work_directory).mount(str(inside))
            found = (inside / "file").read_text()
            syscalls.umount(str(inside))
        finally:
            os.chdir("/")
            syscalls.umount("/dev/shm", syscalls.MNT_DETACH)
            for path in (upper, work_directory):
                os.rmdir(path)
        return found

    assert in_root(tmp_path, work) == "below"


def test_a_read_only_overlay_takes_no_writes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    def work(root: int, inside: Path) -> int:
        Overlay((str(tmp_path / "a"), str(tmp_path / "b"))).mount(str(inside))
        number: int = failure((inside / "new").touch)[0]
        return number

    assert in_root(tmp_path, work) == errno.EROFS


def test_a_directory_of_the_host_can_be_the_root(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "rootfs/file").touch()

    def work(root: int, inside: Path) -> list[str]:
        BindRoot(str(tmp_path / "rootfs")).mount(str(inside))
        return os.listdir(inside)

    assert in_root(tmp_path, work) == ["file"]


def test_the_standard_trees_are_built_and_moved_into_a_root(tmp_path: Path) -> None:
    def work(root: int, inside: Path) -> list[Any]:
        place = tmp_path / "stage"
        place.mkdir()
        sysctls = stage.build_trees(str(place), standard.TREES, standard.standard_mounts(1 << 20))
        os.close(sysctls)
        for tree in standard.TREES:
            mounts.move_tree(f"{place}/{tree}", root, f"/{tree}")
        shm = os.statvfs(inside / "dev/shm")
        return [
            sorted(os.listdir(inside)),
            sorted(os.listdir(inside / "dev")),
            shm.f_blocks * shm.f_frsize,
            [path for path in standard.MASKED_PATHS if shows_something(inside / path[1:])],
            failure(lambda: (inside / "proc/sys/kernel/hostname").write_text("x"))[0],
            failure((inside / "sys/new").touch)[0],
            os.path.exists(inside / "proc/self/status"),
        ]

    trees, devices, size, masked, settings, system, process = in_root(tmp_path, work)
    assert trees == ["dev", "proc", "sys"]
    expected = "core fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    assert " ".join(devices) == expected
    assert (size, masked, process) == (1 << 20, [], True)
    assert settings == errno.EROFS
    assert system in (errno.EROFS, errno.EACCES, errno.EPERM)


def shows_something(path: Path) -> bool:
    """Whether there is anything to see at a path."""
    if not path.exists():
        return False
    return bool(os.listdir(path)) if path.is_dir() else bool(path.open("rb").read(1))
