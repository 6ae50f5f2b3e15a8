# SPDX-License-Identifier: Apache-2.0
"""Moving what an image has into a volume; the whole way is in tests/integration/docker_client and crash."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from mooring_agent.engine.mountsources import _move


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
