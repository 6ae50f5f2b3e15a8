# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from harness.rootfs import busybox, write_busybox_rootfs

pytestmark = pytest.mark.skipif(busybox() is None, reason="needs a static busybox")


def test_the_archive_has_a_shell_that_leads_to_busybox(tmp_path: Path) -> None:
    with tarfile.open(write_busybox_rootfs(tmp_path / "rootfs.tar")) as archive:
        assert archive.getmember("bin/sh").linkname == "/bin/busybox"
        assert archive.getmember("bin/busybox").mode == 0o755
        assert archive.getmember("tmp").mode == 0o1777
        passwd = archive.extractfile("etc/passwd")
        assert passwd is not None
        assert passwd.read().startswith(b"root:x:0:0:")


def test_every_entry_comes_after_its_directory(tmp_path: Path) -> None:
    with tarfile.open(write_busybox_rootfs(tmp_path / "rootfs.tar")) as archive:
        seen = {"."}
        for member in archive:
            assert str(Path(member.name).parent) in seen
            seen.add(member.name)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    first = write_busybox_rootfs(tmp_path / "a.tar", {"etc/extra": b"1"}).read_bytes()
    second = write_busybox_rootfs(tmp_path / "b.tar", {"etc/extra": b"1"}).read_bytes()
    assert first == second
