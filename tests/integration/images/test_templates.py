# SPDX-License-Identifier: Apache-2.0
"""Templates built on this host, and what programs in them see."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.apt_mirror import need_apt_mirror
from harness.host import need_programs
from integration.storage.mounts import mounted
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.image import ProgressEvent, check_runnable
from mooring_agent.images.specs import TemplateSpec, normalise_image_spec
from mooring_agent.images.store import ImageStore
from mooring_agent.storage.overlay import OverlaySnapshotter

pytestmark = pytest.mark.root

BUSYBOX = TemplateSpec.from_spec(normalise_image_spec({"template": "busybox"})["template"])


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[OverlaySnapshotter]:
    snapshots = OverlaySnapshotter(tmp_path / "overlay")
    yield snapshots
    snapshots.close()


@pytest.fixture
def store(tmp_path: Path, snapshots: OverlaySnapshotter) -> ImageStore:
    return ImageStore(tmp_path / "images", snapshots)


def test_busybox_runs(store: ImageStore, snapshots: OverlaySnapshotter) -> None:
    config = ImageConfig(env=("EXTRA=1",))
    image = store.from_template(BUSYBOX, "busybox", config)
    check_runnable(image)
    assert image.config["Cmd"] == ["sh"]
    assert [item.partition("=")[0] for item in image.config["Env"]] == ["PATH", "EXTRA"]
    rootfs = snapshots.prepare("container", store.ensure_unpacked(image))
    script = "id -un; ls -ld /tmp /root | cut -c1-10; cat /etc/hosts | head -1; env true; readlink /var/run"
    assert mounted(rootfs, f"chroot . /bin/sh -c '{script}'").split("\n") == [
        "root", "drwx------", "drwxrwxrwt", "127.0.0.1\tlocalhost", "../run", "",
    ]  # fmt: skip


def test_a_template_is_built_once(store: ImageStore, snapshots: OverlaySnapshotter, tmp_path: Path) -> None:
    image = store.from_template(BUSYBOX, "busybox")
    events: list[ProgressEvent] = []
    assert store.from_template(BUSYBOX, "busybox", progress=events.append) == image
    assert [event.step for event in events] == ["done"]
    other = store.from_template(BUSYBOX, "other", ImageConfig(cmd=("true",)))
    assert other.id != image.id
    assert other.diff_ids == image.diff_ids
    snapshots.close()
    again = OverlaySnapshotter(tmp_path / "overlay")
    try:
        assert ImageStore(tmp_path / "images", again).from_template(BUSYBOX, "busybox") == image
    finally:
        again.close()


def test_two_containers_of_one_image_cost_no_disk(store: ImageStore, snapshots: OverlaySnapshotter) -> None:
    image = store.from_template(BUSYBOX, "busybox")
    for number in range(20):
        mounted(snapshots.prepare(f"c{number}", image.chain_id), "chroot . /bin/sh -c 'echo hi > /tmp/x'")
    total = sum(snapshots.usage(f"c{number}").bytes for number in range(20))
    assert total < 20 * 20_000
    for number in range(20):
        snapshots.remove(f"c{number}")
    store.remove("busybox")
    assert snapshots.list() == ()


def test_the_layer_is_what_gnu_tar_makes_of_it(
    store: ImageStore, snapshots: OverlaySnapshotter, tmp_path: Path
) -> None:
    image = store.from_template(BUSYBOX, "busybox")
    blobs = tmp_path / "images" / "blobs" / "sha256"
    manifest = json.loads((blobs / image.manifest_digest[7:]).read_text())
    blob = blobs / manifest["layers"][0]["digest"][7:]
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["tar", "--numeric-owner", "-xpzf", blob, "-C", other], check=True)
    layer = snapshots.view("view", image.diff_ids[0]).lower[0]
    show = ["find", ".", "-printf", "%p %y %m %U %G %s %T@ %l\n"]
    ours, theirs = (
        sorted(
            subprocess.run(show, cwd=place, capture_output=True, text=True, check=True).stdout.splitlines()
        )
        for place in (layer, other)
    )
    assert [line for line in ours if " d " not in line] == [line for line in theirs if " d " not in line]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_debian_is_built_from_the_host_s_mirrors(store: ImageStore, snapshots: OverlaySnapshotter) -> None:
    need_programs("mmdebstrap")
    need_apt_mirror()
    events: list[ProgressEvent] = []
    spec = normalise_image_spec({"template": {"name": "debian", "variant": "essential"}})
    template = TemplateSpec.from_spec(spec["template"])
    image = store.from_template(template, "debian", progress=events.append)
    assert image.config["Cmd"] == ["bash"]
    assert {event.step for event in events} >= {"build", "import"}
    rootfs = snapshots.prepare("container", store.ensure_unpacked(image))
    assert (
        mounted(rootfs, "chroot . /bin/bash -c '. /etc/os-release; echo $ID $VERSION_CODENAME'")
        == "debian bookworm\n"
    )
    assert mounted(rootfs, "find etc/apt -name '*mooring*'") == ""
    assert store.from_template(template, "debian") == image
