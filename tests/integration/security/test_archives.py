# SPDX-License-Identifier: Apache-2.0
"""Images from archives that were made to write outside of them, or to fill the host."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.waiting import PATIENCE

from .attackers import Declare, Workshop, directory, file, hard_link, link, run, view

pytestmark = pytest.mark.root

MIB = 1 << 20


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """Return a directory of the host that no image may touch."""
    path = tmp_path / "outside"
    (path / "empty").mkdir(parents=True)
    (path / "victim").write_text("of the host\n")
    return path


def _import(agent: AgentUnderTest, path: Path) -> tuple[int, Any]:
    response = agent.request(
        "PUT", "/mooring/v1/images/hostile", {"import": {"path": str(path)}}, timeout=60.0 * PATIENCE
    )
    agent.api("DELETE", "/mooring/v1/images/hostile", check=False)
    return response.status, response.json()


def _unharmed(outside: Path) -> None:
    assert sorted(os.listdir(outside)) == ["empty", "victim"]
    assert os.listdir(outside / "empty") == []
    victim = outside / "victim"
    assert victim.read_text() == "of the host\n"
    assert (victim.stat().st_mode & 0o7777, victim.stat().st_nlink) == (0o644, 1)


def _ways_out(outside: Path) -> dict[str, list[Any]]:
    up = "../" * 24 + str(outside).lstrip("/")
    return {
        "dot-dot": [file(f"{up}/new", b"x")],
        "dot-dot in the middle": [directory("a"), file(f"a/{up}/new", b"x")],
        "absolute": [file(f"{outside}/new", b"x")],
        "file through a link": [link("way", str(outside)), file("way/new", b"x")],
        "file through a climbing link": [link("way", up), file("way/new", b"x")],
        "file over a link": [link("way", str(outside / "victim")), file("way", b"x")],
        "directory over a link": [link("way", str(outside)), directory("way"), file("way/new", b"x")],
        "link through a link": [link("a", str(outside)), link("b", "a"), file("b/new", b"x")],
        "hard link to the host": [hard_link("way", str(outside / "victim")), file("way", b"x")],
        "hard link by dot-dot": [hard_link("way", f"{up}/victim"), file("way", b"x")],
        "hard link to a link": [
            link("way", str(outside / "victim")),
            hard_link("same", "way"),
            file("same", b"x", 0o777),
        ],
        "hard link through a link": [link("way", str(outside)), hard_link("same", "way/victim")],
        "whiteout through a link": [link("way", str(outside)), file("way/.wh.victim")],
        "opaque through a link": [link("way", str(outside)), file("way/.wh..wh..opq")],
        "whiteout of dot-dot": [file(".wh...")],
        "whiteout by dot-dot": [file(f"{up}/.wh.victim")],
        "proc": [link("way", "/proc/1/root"), file(f"way{outside}/new", b"x")],
        "own root": [link("way", "/proc/self/root"), file(f"way{outside}/new", b"x")],
        "descriptor": [link("way", "/proc/self/fd"), *(file(f"way/{n}/new", b"x") for n in range(3, 30))],
        "mode through a link": [link("way", str(outside / "victim")), _chmod("way")],
        "root itself": [link(".", str(outside)), file("new", b"x")],
    }


def _chmod(path: str) -> tarfile.TarInfo:
    info = directory(path)
    info.mode, info.uid = 0o777, 4242
    return info


@pytest.mark.parametrize("way", list(_ways_out(Path("/"))))
def test_an_archive_writes_nothing_outside(
    agent: AgentUnderTest, workshop: Workshop, outside: Path, way: str
) -> None:
    """`..`, absolute names, links and hard links to them, whiteouts: CVE-2018-20190's and their like.

    Every name is resolved below the layer's own directory, and the last part of it is never followed.
    """
    _import(agent, workshop.archive("hostile", *_ways_out(outside)[way]))
    _unharmed(outside)


def test_whiteouts_take_away_nothing_of_the_host(
    agent: AgentUnderTest, workshop: Workshop, outside: Path
) -> None:
    """An opaque whiteout of the root, or of each name there could be (CVE-2017-5985's folder aside).

    A whiteout hides in the layers below; where the archive is the only layer it does nothing.
    """
    names = ("etc", "dev", "proc", "..", ".", "", "bin", ".wh..opq")
    path = workshop.archive("hostile", *(file(f".wh.{name}") for name in names[:3]), file(".wh..wh..opq"))
    status, _ = _import(agent, path)
    assert status < 500
    for name in names[3:]:
        status, _ = _import(agent, workshop.archive("hostile", file(f".wh.{name}")))
        assert status < 500
    _unharmed(outside)
    assert os.path.isdir("/etc")


def _resident(agent: AgentUnderTest) -> int:
    assert agent.process is not None
    for line in Path(f"/proc/{agent.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise AssertionError("the agent has no memory")


def _pax(records: bytes) -> bytes:
    info = tarfile.TarInfo("header")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    return info.tobuf(tarfile.USTAR_FORMAT) + records + bytes(-len(records) % 512)


def _huge(kind: bytes, size: int) -> bytes:
    info = tarfile.TarInfo("huge")
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


BOMBS = {
    "a long name of 512 MiB": (_huge(tarfile.GNUTYPE_LONGNAME, 512 * MIB), 512 * MIB),
    "a pax header of 512 MiB": (_huge(tarfile.XHDTYPE, 512 * MIB), 512 * MIB),
    "a global header of 512 MiB": (_huge(tarfile.XGLTYPE, 512 * MIB), 512 * MIB),
    "a file that is said to have 7 EiB": (_huge(tarfile.REGTYPE, (1 << 62) + (1 << 61)), 2 * MIB),
    "a sparse file of 8 EiB": (
        _pax(b"29 GNU.sparse.map=0,0,1,0\x00\n".replace(b"29", b"27").replace(b"\0", b"0"))
        + _huge(tarfile.REGTYPE, 0),
        MIB,
    ),
    "zeros behind the end": (bytes(1024), 512 * MIB),
    "no end of links": (b"".join(_huge(tarfile.LNKTYPE, 0) for _ in range(2000)), MIB),
}


@pytest.mark.parametrize("bomb", list(BOMBS))
def test_cve_2017_14992_a_small_file_fills_neither_memory_nor_disk(
    agent: AgentUnderTest, tmp_path: Path, bomb: str
) -> None:
    """dockerd read what a layer's headers promised into memory: a small packed image took all of the host's.

    Headers have a bound, data is streamed, and so is what a gzip bomb unpacks to.
    """
    head, zeros = BOMBS[bomb]
    path = tmp_path / "bomb.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as packed:
        packed.write(head)
        for _ in range(zeros // MIB):
            packed.write(bytes(MIB))
    assert path.stat().st_size < 4 * MIB
    before = _resident(agent)
    status, answer = _import(agent, path)
    assert _resident(agent) - before < 48 * MIB
    assert status == 400, answer
    layers = agent.config.data_root / "overlay/l"
    used = sum(each.stat().st_blocks for each in layers.rglob("huge") if each.is_file()) * 512
    assert used < MIB


def test_a_gzip_bomb_of_one_file_is_streamed(agent: AgentUnderTest, tmp_path: Path) -> None:
    """A member of 256 MiB of zeros in some 300 KiB: it is written, and never held."""
    path = tmp_path / "zeros.tar.gz"
    info = tarfile.TarInfo("zeros")
    info.size = 256 * MIB
    with gzip.open(path, "wb", compresslevel=1) as packed:
        packed.write(info.tobuf())
        for _ in range(256):
            packed.write(bytes(MIB))
        packed.write(bytes(1024))
    before = _resident(agent)
    status, _ = _import(agent, path)
    assert status < 400
    assert _resident(agent) - before < 48 * MIB


def test_cve_2021_41190_what_says_to_be_two_things_is_neither(
    agent: AgentUnderTest, workshop: Workshop, tmp_path: Path
) -> None:
    """A manifest that is also an index meant one image to whoever checked it and another to who ran it.

    The agent takes root file systems only; a layout, an index or a manifest in an archive is a file in it.
    What its own layout names is read by the media type of the descriptor, and verified by digest.
    """
    document = (
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
        b'"manifests":[{"digest":"sha256:00"}],"layers":[],"config":{}}'
    )
    path = workshop.archive(
        "hostile", file("manifest.json", document), file("index.json", document), file("oci-layout", b"{}")
    )
    response = agent.request("PUT", "/mooring/v1/images/twofold", {"import": {"path": str(path)}})
    assert response.status < 400
    index = (agent.config.data_root / "images/index.json").read_bytes()
    assert b'"sha256:00"' not in index
    agent.api("DELETE", "/mooring/v1/images/twofold")


def test_devices_and_attributes_of_an_image_are_harmless(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare
) -> None:
    """Nodes for the host's disk, setuid programs and capabilities of files in an image.

    A node cannot be opened (the control group), and no user of the host reaches the layers' directories.
    """
    disk = tarfile.TarInfo("disk")
    disk.type, disk.devmajor, disk.devminor, disk.mode = tarfile.BLKTYPE, 254, 0, 0o666
    memory = tarfile.TarInfo("memory")
    memory.type, memory.devmajor, memory.devminor, memory.mode = tarfile.CHRTYPE, 1, 1, 0o666
    image = workshop.image("nodes", disk, memory, file("up", b"#!/bin/sh\n", 0o6755))
    declare("nodes", image=image)
    for name in ("disk", "memory"):
        assert "not permitted" in run(agent, "nodes", "head", "-c", "1", f"/{name}")["stderr"]
    assert os.stat(agent.config.data_root / "overlay").st_mode & 0o007 == 0


def test_overlay_s_own_attributes_in_an_image_have_no_effect(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare, outside: Path
) -> None:
    """trusted.overlay.redirect and its like in an archive lead overlayfs to other directories.

    Attributes of overlay and of security modules are left out when a layer is unpacked.
    """
    lead = directory("lead")
    lead.pax_headers = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.trusted.overlay.opaque": "y",
        "SCHILY.xattr.trusted.overlay.metacopy": "",
        "SCHILY.xattr.user.overlay.redirect": "/etc",
    }
    declare("led", image=workshop.image("led", lead))
    assert run(agent, "led", "ls", "/lead")["stdout"] == ""
    found = list((agent.config.data_root / "overlay/l").glob("*/lead"))
    assert found
    for path in found:
        assert [name for name in os.listxattr(path) if name.startswith("trusted.overlay.redirect")] == []


def test_a_layer_s_files_are_not_the_host_s(
    agent: AgentUnderTest, workshop: Workshop, declare: Declare, outside: Path
) -> None:
    """Links in an image that look like the host's files are the container's when it follows them."""
    image = workshop.image("looks", link("victim", str(outside / "victim")), link("root", "/proc/1/root"))
    declare("looks", image=image)
    assert run(agent, "looks", "cat", "/victim")["exit_code"] != 0
    assert view(agent, "looks")["state"] == "running"
    _unharmed(outside)


@pytest.mark.parametrize("size", [0, 1, 511, 512, 513, 10240])
def test_an_archive_of_noise_is_refused_in_words(agent: AgentUnderTest, tmp_path: Path, size: int) -> None:
    """What is no archive is a user's mistake: 400, and a sentence."""
    path = tmp_path / "noise.tar"
    path.write_bytes(bytes((7 * number + 13) % 256 for number in range(size)))
    status, answer = _import(agent, path)
    assert status == 400
    assert answer["message"]
