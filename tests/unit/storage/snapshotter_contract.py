# SPDX-License-Identifier: Apache-2.0
"""What every snapshotter has to do.

A driver passes by a class `Test… (SnapshotterContract)` with a method `make`.
"""

from __future__ import annotations

import os
import stat
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.waiting import eventually
from mooring_agent.errors import Conflict, InvalidSpec, NotFound
from mooring_agent.storage import recorded, syncing
from mooring_agent.storage.snapshotter import Rootfs, SnapshotKind, Snapshotter, WhiteoutStyle

_IDLE = 20.0  # seconds


def find(rootfs: Rootfs, name: str) -> Path | None:
    """Where the file `name` is seen in a root file system, whiteouts not heeded."""
    layers = ([rootfs.upper] if rootfs.upper is not None else []) + list(rootfs.lower)
    return next((layer / name for layer in layers if (layer / name).exists()), None)


def add_layer(snapshots: Snapshotter, name: str, parent: str | None, files: dict[str, str]) -> None:
    """Commit a layer of small files."""
    key = f"extract-{name}"
    snapshots.prepare(key, parent, temporary=True)
    target = snapshots.unpack_target(key)
    for path, text in files.items():
        (target.directory / path).parent.mkdir(parents=True, exist_ok=True)
        (target.directory / path).write_text(text)
    snapshots.commit(key, name)


def hide(snapshots: Snapshotter, key: str, name: str) -> None:
    """Remove a file of the parent, as whoever unpacks a layer writes it down."""
    target = snapshots.unpack_target(key)
    if target.whiteouts is WhiteoutStyle.DELETE:
        (target.directory / name).unlink()
    else:
        os.mknod(target.directory / name, stat.S_IFCHR, os.makedev(0, 0))


def changes_of(snapshots: Snapshotter, key: str) -> dict[str, str]:
    """The changes of a snapshot, each path once and directories before what lies in them."""
    told = [(os.fsdecode(change.path), str(change.kind)) for change in snapshots.changes(key)]
    paths = [path for path, _ in told]
    assert len(paths) == len(set(paths))
    for number, path in enumerate(paths):
        parent = path.rpartition("/")[0]
        assert not parent or parent in paths[:number], f"{path} comes before {parent}"
    return dict(told)


class SnapshotterContract(ABC):
    """The contract, in words and in tests; see Snapshotter."""

    @abstractmethod
    def make(self, root: Path) -> Snapshotter:
        """Open the driver below `root`; called again it has to find what was there."""

    @pytest.fixture
    def snapshots(self, tmp_path: Path) -> Iterator[Snapshotter]:
        snapshots = self.make(tmp_path / "store")
        yield snapshots
        snapshots.close()

    def reopen(self, snapshots: Snapshotter, tmp_path: Path) -> Snapshotter:
        snapshots.close()
        return self.make(tmp_path / "store")

    def test_a_container_sees_its_image_and_writes_apart(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {"etc/name": "base"})
        first = snapshots.prepare("first", "base")
        second = snapshots.prepare("second", "base")
        assert first.upper is not None
        (first.upper / "own").write_text("first")
        for rootfs in (first, second):
            found = find(rootfs, "etc/name")
            assert found is not None
            assert found.read_text() == "base"
        assert find(second, "own") is None
        assert snapshots.rootfs("first") == first

    def test_a_chain_of_layers_is_topmost_first(self, snapshots: Snapshotter) -> None:
        parent = None
        for number in range(20):
            add_layer(snapshots, f"layer-{number}", parent, {"who": str(number), f"only-{number}": ""})
            parent = f"layer-{number}"
        rootfs = snapshots.prepare("container", parent)
        who = find(rootfs, "who")
        assert who is not None
        assert who.read_text() == "19"
        assert all(find(rootfs, f"only-{number}") for number in range(20))

    def test_two_snapshots_can_share_one_parent(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {"a": "1"})
        add_layer(snapshots, "left", "base", {"b": "left"})
        add_layer(snapshots, "right", "base", {"b": "right"})
        for name in ("left", "right"):
            found = find(snapshots.prepare(f"of-{name}", name), "b")
            assert found is not None
            assert found.read_text() == name

    def test_what_is_told_of_a_snapshot(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {})
        snapshots.prepare("active", "base")
        snapshots.view("view", "base")
        kinds = {info.key: (info.kind, info.parent) for info in snapshots.list()}
        assert kinds == {
            "base": (SnapshotKind.COMMITTED, None),
            "active": (SnapshotKind.ACTIVE, "base"),
            "view": (SnapshotKind.VIEW, "base"),
        }
        assert snapshots.stat("active").parent == "base"
        assert [info.key for info in snapshots.list()] == ["base", "active", "view"]

    def test_a_commit_takes_the_key_away_and_keeps_the_parent(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {"a": "1"})
        rootfs = snapshots.prepare("container", "base")
        assert rootfs.upper is not None
        (rootfs.upper / "b").write_text("2")
        snapshots.commit("container", "image")
        with pytest.raises(NotFound):
            snapshots.stat("container")
        assert snapshots.stat("image").parent == "base"
        derived = snapshots.prepare("container", "image")
        assert find(derived, "a")
        assert find(derived, "b")

    def test_a_layer_that_was_made_before_the_one_below_is_put_on_it(self, snapshots: Snapshotter) -> None:
        snapshots.prepare("above", None, temporary=True)
        (snapshots.unpack_target("above").directory / "b").write_text("2")
        if not snapshots.stacked:
            add_layer(snapshots, "base", None, {"a": "1"})
            for call in (
                lambda: snapshots.unpack_target("above", on="base"),
                lambda: snapshots.commit("above", "image", parent="base"),
            ):
                with pytest.raises(Conflict, match="above cannot be put on base"):
                    call()
            return
        for absent in (
            lambda: snapshots.unpack_target("above", on="base"),
            lambda: snapshots.commit("above", "image", parent="base"),
        ):
            with pytest.raises(NotFound, match="base"):
                absent()
        add_layer(snapshots, "base", None, {"a": "1"})
        below = snapshots.prepare("look", "base").lower
        assert snapshots.unpack_target("above", on="base").parents == below
        snapshots.commit("above", "image", parent="base")
        assert snapshots.stat("image").parent == "base"
        derived = snapshots.prepare("container", "image")
        assert find(derived, "a")
        assert find(derived, "b")
        snapshots.remove("container")
        snapshots.remove("look")
        with pytest.raises(Conflict, match="image"):
            snapshots.remove("base")
        assert changes_of(snapshots, "image") == {"b": "added"}

    def test_only_what_is_temporary_and_on_nothing_is_put_on_another(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {"a": "1"})
        add_layer(snapshots, "other", None, {"a": "2"})
        snapshots.prepare("kept", None)
        snapshots.prepare("on-other", "other", temporary=True)
        for key in ("kept", "on-other"):
            with pytest.raises(Conflict, match=f"{key} cannot be put on base"):
                snapshots.commit(key, "image", parent="base")
            assert snapshots.stat(key).kind is SnapshotKind.ACTIVE

    def test_what_was_put_on_another_is_so_after_reopening(
        self, snapshots: Snapshotter, tmp_path: Path
    ) -> None:
        if not snapshots.stacked:
            return
        snapshots.prepare("above", None, temporary=True)
        snapshots.prepare("left", None, temporary=True)
        add_layer(snapshots, "base", None, {"a": "1"})
        snapshots.commit("above", "image", parent="base")
        again = self.reopen(snapshots, tmp_path)
        try:
            assert {each.key: each.parent for each in again.list()} == {"image": "base", "base": None}
            assert find(again.prepare("container", "image"), "a")
        finally:
            again.close()

    def test_a_view_cannot_be_written_or_committed(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {"a": "1"})
        view = snapshots.view("view", "base")
        assert view.read_only
        assert view.upper is None
        assert find(view, "a")
        with pytest.raises(Conflict):
            snapshots.commit("view", "image")
        with pytest.raises(Conflict):
            snapshots.unpack_target("view")
        with pytest.raises(Conflict):
            snapshots.remove("base")
        snapshots.remove("view")
        snapshots.remove("base")

    def test_a_key_is_used_once(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {})
        snapshots.prepare("key", "base")
        for again in ("key", "base"):
            with pytest.raises(Conflict, match=again):
                snapshots.prepare(again, "base")
            with pytest.raises(Conflict, match=again):
                snapshots.view(again, "base")
            with pytest.raises(Conflict, match=again):
                snapshots.commit("key", again)
        assert snapshots.stat("key").kind is SnapshotKind.ACTIVE

    def test_only_what_is_committed_is_a_parent(self, snapshots: Snapshotter) -> None:
        snapshots.prepare("active", None)
        with pytest.raises(Conflict, match="active"):
            snapshots.prepare("child", "active")
        with pytest.raises(NotFound, match="nowhere"):
            snapshots.prepare("child", "nowhere")
        with pytest.raises(NotFound):
            snapshots.stat("child")
        add_layer(snapshots, "base", None, {})
        with pytest.raises(Conflict):
            snapshots.rootfs("base")
        with pytest.raises(Conflict):
            snapshots.commit("base", "again")

    @pytest.mark.parametrize(
        "key", ["", ".", "..", "../up", "a/b", "/etc", ".hidden", "a\0b", "a b", "a\n", "ä", "x" * 256, "-rf"]
    )
    def test_hostile_keys_are_refused(self, snapshots: Snapshotter, key: str) -> None:
        with pytest.raises(InvalidSpec, match="expected"):
            snapshots.prepare(key, None)
        snapshots.prepare("good", None)
        with pytest.raises(InvalidSpec, match="expected"):
            snapshots.commit("good", key)
        assert [info.key for info in snapshots.list()] == ["good"]

    def test_unknown_keys_are_named(self, snapshots: Snapshotter) -> None:
        for call in (
            snapshots.stat,
            snapshots.rootfs,
            snapshots.remove,
            snapshots.usage,
            snapshots.unpack_target,
            lambda key: snapshots.commit(key, "name"),
        ):
            with pytest.raises(NotFound, match="unheard-of"):
                call("unheard-of")

    def test_a_parent_stays_as_long_as_it_has_children(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {})
        add_layer(snapshots, "top", "base", {})
        snapshots.prepare("container", "top")
        for parent, child in (("base", "top"), ("top", "container")):
            with pytest.raises(Conflict, match=child):
                snapshots.remove(parent)
        for key in ("container", "top", "base"):
            snapshots.remove(key)
        assert snapshots.list() == ()

    def test_a_removed_key_is_free_at_once_and_its_files_go(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {})
        used = []
        for _ in range(3):
            snapshots.prepare("container", "base")
            own = snapshots.unpack_target("container").directory
            used.append(own)
            assert list(own.iterdir()) == []
            for number in range(50):
                (own / str(number)).mkdir()
                (own / str(number) / "file").write_text("x" * 1000)
            (own / "link").symlink_to("/etc")
            snapshots.remove("container")
        assert snapshots.wait_idle(_IDLE)
        assert not any(own.exists() for own in used)
        assert Path("/etc/passwd").exists()

    def test_a_tree_of_any_depth_is_measured_and_removed(self, snapshots: Snapshotter) -> None:
        rootfs = snapshots.prepare("deep", None)
        assert rootfs.upper is not None
        fd = os.open(rootfs.upper, os.O_RDONLY)
        depth = 1500
        for _ in range(depth):
            os.mkdir("d" * 20, dir_fd=fd)
            below = os.open("d" * 20, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        assert snapshots.usage("deep").inodes == depth
        snapshots.remove("deep")
        assert snapshots.wait_idle(_IDLE)
        assert not rootfs.upper.exists()

    def test_usage_counts_what_is_own(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {"big": "x" * 1_000_000})
        rootfs = snapshots.prepare("container", "base")
        assert snapshots.usage("container").bytes < 100_000
        assert snapshots.usage("container").inodes == 0
        assert rootfs.upper is not None
        (rootfs.upper / "file").write_text("y" * 200_000)
        os.link(rootfs.upper / "file", rootfs.upper / "other name")
        assert 200_000 <= snapshots.usage("container").bytes < 400_000
        assert snapshots.usage("container").inodes == 1
        assert snapshots.usage("base").bytes >= 1_000_000

    def test_the_root_has_the_mode_of_the_layer_below(self, snapshots: Snapshotter) -> None:
        snapshots.prepare("extract", None, temporary=True)
        directory = snapshots.unpack_target("extract").directory
        assert directory.stat().st_mode & 0o7777 == 0o755
        directory.chmod(0o1711)
        snapshots.commit("extract", "base")
        rootfs = snapshots.prepare("container", "base")
        assert rootfs.upper is not None
        assert rootfs.upper.stat().st_mode & 0o7777 == 0o1711

    def test_changes_against_the_parent(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {"etc/a": "1", "etc/b": "2", "usr/x": "3", "top": "4"})
        add_layer(snapshots, "upper", "base", {"etc/c": "1", "usr/local/y": "2"})
        rootfs = snapshots.prepare("container", "upper")
        assert changes_of(snapshots, "container") == {}
        assert rootfs.upper is not None
        (rootfs.upper / "etc").mkdir(exist_ok=True)
        (rootfs.upper / "etc/a").write_text("changed")
        hide(snapshots, "container", "etc/c")
        hide(snapshots, "container", "top")
        (rootfs.upper / "new/deep").mkdir(parents=True)
        (rootfs.upper / "new/deep/file").write_text("x")
        expected = {
            "etc": "modified",
            "etc/a": "modified",
            "etc/c": "deleted",
            "new": "added",
            "new/deep": "added",
            "new/deep/file": "added",
            "top": "deleted",
        }
        assert changes_of(snapshots, "container") == expected
        snapshots.commit("container", "image")
        assert changes_of(snapshots, "image") == expected
        assert changes_of(snapshots, "base") == dict.fromkeys(
            ("etc", "etc/a", "etc/b", "usr", "usr/x", "top"), "added"
        )

    def test_a_name_that_came_back_is_modified(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {"was-file": "1", "was-gone": "2"})
        snapshots.prepare("extract", "base", temporary=True)
        hide(snapshots, "extract", "was-gone")
        snapshots.commit("extract", "without")
        rootfs = snapshots.prepare("container", "without")
        assert rootfs.upper is not None
        (rootfs.upper / "was-file").unlink(missing_ok=True)
        (rootfs.upper / "was-file").mkdir()
        (rootfs.upper / "was-file/in").write_text("x")
        (rootfs.upper / "was-gone").write_text("back")
        assert changes_of(snapshots, "container") == {
            "was-file": "modified",
            "was-file/in": "added",
            "was-gone": "added",
        }

    def test_a_view_changes_nothing_and_unknown_keys_are_refused_at_once(
        self, snapshots: Snapshotter
    ) -> None:
        add_layer(snapshots, "base", None, {"a": "1"})
        snapshots.view("view", "base")
        assert list(snapshots.changes("view")) == []
        with pytest.raises(NotFound, match="unheard-of"):
            snapshots.changes("unheard-of")

    def test_everything_answered_for_is_there_after_reopening(
        self, snapshots: Snapshotter, tmp_path: Path
    ) -> None:
        add_layer(snapshots, "base", None, {"a": "1"})
        rootfs = snapshots.prepare("container", "base")
        assert rootfs.upper is not None
        (rootfs.upper / "b").write_text("2")
        snapshots.view("view", "base")
        snapshots.usage("base")
        before = snapshots.list()
        again = self.reopen(snapshots, tmp_path)
        try:
            assert again.list() == before
            assert again.rootfs("container") == rootfs
            assert again.usage("base").inodes == 1
            assert (rootfs.upper / "b").read_text() == "2"
            assert again.prepare("new", "base").upper != rootfs.upper
        finally:
            again.close()

    def test_what_is_temporary_is_gone_after_reopening(self, snapshots: Snapshotter, tmp_path: Path) -> None:
        add_layer(snapshots, "base", None, {"a": "1"})
        snapshots.prepare("extract", "base", temporary=True)
        target = snapshots.unpack_target("extract").directory
        (target / "half").write_text("made")
        again = self.reopen(snapshots, tmp_path)
        try:
            assert [info.key for info in again.list()] == ["base"]
            assert again.wait_idle(_IDLE)
            assert not target.exists()
            again.remove("base")
        finally:
            again.close()

    def test_layers_that_were_not_synced_do_not_outlive_the_boot(
        self, snapshots: Snapshotter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        synced = threading.Event()
        monkeypatch.setattr(syncing, "_DELAY", 0.0)
        monkeypatch.setattr(syncing, "syncfs", lambda fd: synced.set())
        add_layer(snapshots, "below", None, {"a": "1"})
        assert synced.wait(_IDLE)
        eventually(lambda: not snapshots._records.unsynced(), _IDLE, "the note of it")  # type: ignore[attr-defined]
        monkeypatch.setattr(syncing, "_DELAY", 600.0)
        snapshots = self.reopen(snapshots, tmp_path)
        add_layer(snapshots, "above", "below", {"b": "2"})
        snapshots.prepare("container", "below")
        snapshots = self.reopen(snapshots, tmp_path)
        assert {each.key for each in snapshots.list()} == {"below", "above", "container"}
        monkeypatch.setattr(recorded, "boot_id", lambda: "another")
        snapshots = self.reopen(snapshots, tmp_path)
        assert {each.key for each in snapshots.list()} == {"below", "container"}
        add_layer(snapshots, "above", "below", {"b": "2"})
        assert find(snapshots.prepare("another", "above"), "b") is not None
        snapshots.close()

    def test_a_sync_that_fails_is_tried_again_with_the_next(
        self, snapshots: Snapshotter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answers = iter([OSError(5, "Input/output error"), None])
        asked = threading.Semaphore(0)

        def sync(fd: int) -> None:
            answer = next(answers)
            asked.release()
            if answer is not None:
                raise answer

        monkeypatch.setattr(syncing, "_DELAY", 0.0)
        monkeypatch.setattr(syncing, "syncfs", sync)
        add_layer(snapshots, "one", None, {"a": "1"})
        assert asked.acquire(timeout=_IDLE)
        assert list(snapshots._records.unsynced()) == ["one"]  # type: ignore[attr-defined]
        add_layer(snapshots, "two", None, {"a": "1"})
        assert asked.acquire(timeout=_IDLE)
        eventually(lambda: not snapshots._records.unsynced(), _IDLE, "the note of it")  # type: ignore[attr-defined]

    def test_the_directory_has_one_owner(self, snapshots: Snapshotter, tmp_path: Path) -> None:
        with pytest.raises(Conflict, match="in use"):
            self.make(tmp_path / "store")
        snapshots.prepare("still", None)

    def test_closing_twice_is_fine(self, snapshots: Snapshotter) -> None:
        snapshots.prepare("key", None)
        snapshots.close()
        snapshots.close()

    def test_many_threads_at_once(self, snapshots: Snapshotter) -> None:
        add_layer(snapshots, "base", None, {})
        failures: list[BaseException] = []

        def work(worker: int) -> None:
            try:
                for number in range(20):
                    key = f"c-{worker}-{number}"
                    rootfs = snapshots.prepare(key, "base")
                    assert rootfs.upper is not None
                    (rootfs.upper / key).write_text(key)
                    assert [entry.name for entry in rootfs.upper.iterdir()] == [key]
                    if number % 2:
                        snapshots.remove(key)
            except BaseException as error:  # noqa: BLE001 - raised again below
                failures.append(error)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert len(snapshots.list()) == 1 + 6 * 10
        assert snapshots.wait_idle(_IDLE)
