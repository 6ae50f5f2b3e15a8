# SPDX-License-Identifier: Apache-2.0
"""The overlay driver with the kernel's overlay mounted in mount namespaces of their own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from integration.storage.mounts import mounted
from mooring_agent.storage.overlay import OverlaySnapshotter
from unit.storage.snapshotter_contract import add_layer

pytestmark = pytest.mark.root


@pytest.fixture
def snapshots(tmp_path: Path) -> Iterator[OverlaySnapshotter]:
    snapshots = OverlaySnapshotter(tmp_path / "overlay")
    yield snapshots
    snapshots.close()


def test_two_containers_share_one_image(snapshots: OverlaySnapshotter, tmp_path: Path) -> None:
    add_layer(snapshots, "image", None, {"etc/name": "image", "etc/other": "image", "big": "x" * 1_000_000})
    first = snapshots.prepare("first", "image")
    second = snapshots.prepare("second", "image")
    mounted(first, "echo first > etc/name; echo new > new; rm etc/other; test ! -e etc/other")
    assert mounted(second, "cat etc/name etc/other; ls -A") == "imageimagebig\netc\n"
    assert mounted(first, "cat etc/name new; ls etc") == "first\nnew\nname\n"
    assert mounted(snapshots.rootfs("second"), "head -c 3 big") == "xxx"
    for key in ("first", "second"):
        assert snapshots.usage(key).bytes < 50_000
    assert (first.lower[0] / "etc/name").read_text() == "image"
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_a_stopped_container_keeps_its_files(snapshots: OverlaySnapshotter, tmp_path: Path) -> None:
    add_layer(snapshots, "image", None, {"a": "1"})
    mounted(snapshots.prepare("container", "image"), "echo kept > file; rm a")
    snapshots.close()
    again = OverlaySnapshotter(tmp_path / "overlay")
    try:
        assert mounted(again.rootfs("container"), "ls; cat file") == "file\nkept\n"
    finally:
        again.close()


def test_a_hundred_layers_can_be_mounted() -> None:
    with TemporaryDirectory(prefix="m", dir="/tmp") as short:  # as short as /var/lib/mooring/overlay
        snapshots = OverlaySnapshotter(Path(short))
        parent = None
        for number in range(100):
            add_layer(snapshots, f"layer{number}", parent, {f"f{number}": str(number), "top": str(number)})
            parent = f"layer{number}"
        rootfs = snapshots.prepare("container", parent)
        try:
            assert mounted(rootfs, "ls | wc -l; cat f0 f57 top") == "101\n05799"
        finally:
            snapshots.close()


def test_views_are_read_only(snapshots: OverlaySnapshotter) -> None:
    add_layer(snapshots, "one", None, {"a": "1"})
    add_layer(snapshots, "two", "one", {"b": "2"})
    for name, listing in (("one", "a\n"), ("two", "a\nb\n")):
        view = snapshots.view(f"view-{name}", name)
        assert mounted(view, "if touch x 2>/dev/null; then echo written; fi; ls") == listing


def test_a_snapshot_without_parent_is_a_plain_directory(snapshots: OverlaySnapshotter) -> None:
    rootfs = snapshots.prepare("scratch", None)
    assert mounted(rootfs, "echo x > file; ls") == "file\n"
    snapshots.commit("scratch", "image")
    assert mounted(snapshots.prepare("container", "image"), "cat file") == "x\n"


def test_the_root_of_a_container_looks_like_the_image_s(snapshots: OverlaySnapshotter) -> None:
    snapshots.prepare("extract", None, temporary=True)
    root = snapshots.unpack_target("extract").directory
    root.chmod(0o1750)
    os.chown(root, 123, 456)
    snapshots.commit("extract", "image")
    assert mounted(snapshots.prepare("container", "image"), "stat -c '%a %u %g' .") == "1750 123 456\n"


def test_removal_while_it_is_mounted(snapshots: OverlaySnapshotter) -> None:
    add_layer(snapshots, "image", None, {"a": "1"})
    rootfs = snapshots.prepare("container", "image")
    script = 'mount -t overlay -o "$1" overlay /mnt && echo ready && exec sleep 60'
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh"]
    process = subprocess.Popen([*command, rootfs.overlay_options()], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        snapshots.remove("container")
        assert snapshots.wait_idle(20)
        again = snapshots.prepare("container", "image")
        assert mounted(again, "ls") == "a\n"
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.bench
def test_prepare_is_fast(snapshots: OverlaySnapshotter) -> None:
    """The way of every `create`: less than 0.3 ms in the middle, at the pace of a busy host."""
    add_layer(snapshots, "image", None, {"a": "1"})
    times = []
    for number in range(300):
        started = time.perf_counter()
        snapshots.prepare(f"{number:064x}", "image")
        times.append(time.perf_counter() - started)
        time.sleep(0.005)
        if number >= 10:
            snapshots.remove(f"{number - 10:064x}")
    times.sort()
    median, slow, worst = (round(times[place] * 1e6) for place in (150, 285, -1))
    print(f"prepare: median {median} µs, 95 % {slow} µs, worst {worst} µs")
    assert times[150] < 0.0003
