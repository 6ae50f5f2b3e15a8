# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from mooring_agent.errors import InvalidSpec, MissingProgram
from mooring_agent.images import busybox
from mooring_agent.images.busybox import Busybox, busybox_layer, find_busybox
from mooring_agent.images.stream import HashingReader
from mooring_agent.images.tar_reader import DIRECTORY, SYMLINK, TarEntry, read_entries


def members(source: Busybox) -> dict[str, TarEntry]:
    reader = HashingReader(busybox_layer(source), 1 << 30)
    return {entry.path.decode().rstrip("/"): entry for entry in read_entries(reader)}


PROGRAM = Busybox(
    Path("/x"), b"program", "amd64", ("bin/ls", "bin/sh", "sbin/init", "usr/bin/env", "usr/sbin/httpd")
)


def test_a_whole_root_file_system() -> None:
    found = members(PROGRAM)
    assert found["bin/busybox"].mode == 0o755
    assert found["bin/busybox"].size == len(b"program")
    for path, target in (
        ("bin/sh", b"busybox"),
        ("sbin/init", b"../bin/busybox"),
        ("usr/bin/env", b"../../bin/busybox"),
        ("var/run", b"../run"),
    ):
        assert (found[path].kind, found[path].link) == (SYMLINK, target)
    for path, mode in (
        ("tmp", 0o1777),
        ("root", 0o700),
        ("proc", 0o555),
        ("dev", 0o755),
        ("run", 0o755),
        ("var/tmp", 0o1777),
    ):
        assert (found[path].kind, found[path].mode) == (DIRECTORY, mode)
    assert {"etc/passwd", "etc/group", "etc/hosts", "etc/nsswitch.conf"} <= set(found)
    for path in found:
        parent = os.path.dirname(path)
        assert not parent or found[parent].kind == DIRECTORY


def test_the_same_program_gives_the_same_bytes() -> None:
    assert b"".join(busybox_layer(PROGRAM)) == b"".join(busybox_layer(PROGRAM))
    assert PROGRAM.version == Busybox(Path("/y"), b"program", "amd64", ()).version
    assert PROGRAM.version != Busybox(Path("/x"), b"another", "amd64", ()).version


def elf(dynamic: bool) -> bytes:
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    return header + struct.pack("<I", 3 if dynamic else 1).ljust(56, b"\0")


@pytest.fixture
def only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(busybox, "_candidates", lambda: [str(tmp_path / "busybox")])
    return tmp_path / "busybox"


def test_what_is_missing_is_named_with_its_package(only: Path) -> None:
    with pytest.raises(MissingProgram, match="no busybox on this host: install package busybox-static"):
        find_busybox()
    only.write_bytes(elf(dynamic=True))
    only.chmod(0o755)
    with pytest.raises(MissingProgram, match="linked dynamically: install package busybox-static"):
        find_busybox()


def test_what_is_no_program_is_refused(only: Path) -> None:
    for content in (b"#!/bin/sh\n", elf(dynamic=False)[:66], b""):
        only.write_bytes(content)
        only.chmod(0o755)
        with pytest.raises(InvalidSpec, match="no ELF program"):
            find_busybox()
    only.write_bytes(elf(dynamic=False))
    with pytest.raises(InvalidSpec, match=r"cannot be run|does not name the applet sh"):
        find_busybox()
