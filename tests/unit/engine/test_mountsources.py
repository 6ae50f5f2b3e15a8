# SPDX-License-Identifier: Apache-2.0
"""Moving what an image has into a volume; the whole way is in tests/integration/docker_client and crash."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mooring_agent.engine import mountsources
from mooring_agent.engine.mountsources import _drafts_of, _fill, _move
from mooring_agent.storage.snapshotter import Rootfs


def test_what_is_in_a_volume_already_stays_and_the_rest_comes(tmp_path: Path) -> None:
    """A container that has it mounted may write there while the image's content is being copied."""
    copy, volume = tmp_path / "_copy", tmp_path / "_data"
    for place, name in ((copy, "image"), (volume, "container")):
        place.mkdir()
        for file in ("both", f"of-{name}"):
            (place / file).write_text(name)
        (place / "tree").mkdir()
        (place / "tree" / name).touch()
    (copy / "deep/below").mkdir(parents=True)
    (copy / "link").symlink_to("nowhere")
    (copy / "as-file").mkdir()
    (volume / "as-file").write_text("container")
    copy.chmod(0o1770)
    volume_before = volume.stat().st_ino

    _move(copy, volume)

    assert os.listdir(tmp_path) == ["_data"]
    assert (volume.stat().st_ino, stat.S_IMODE(volume.stat().st_mode)) == (volume_before, 0o1770)
    assert {path.name for path in volume.rglob("*")} == {
        *("both", "of-image", "of-container", "tree", "container", "deep", "below", "link", "as-file")
    }
    assert (volume / "both").read_text() == (volume / "as-file").read_text() == "container"
    assert os.readlink(volume / "link") == "nowhere"


def test_what_was_drafted_is_on_the_disk_before_it_has_the_name_of_what_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a power cut could leave empty files under it."""
    volume = tmp_path / "_data"
    volume.mkdir()
    synced = []

    def draw(rootfs: Rootfs, place: str, target: str, draft: Path) -> bool:
        draft.mkdir()
        (draft / "file").write_text("content")
        return True

    monkeypatch.setattr(mountsources, "_draw", draw)
    monkeypatch.setattr(
        mountsources, "syncfs", lambda fd: synced.append((os.listdir(fd), sorted(os.listdir(tmp_path))))
    )

    _fill(Rootfs((tmp_path,), None, None), "", "/at", _drafts_of(volume))

    assert synced == [(["file"], ["_data", "_draft"])]
    assert (volume / "file").read_text() == "content"
    assert os.listdir(tmp_path) == ["_data"]
