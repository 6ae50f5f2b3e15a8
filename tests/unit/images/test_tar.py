# SPDX-License-Identifier: Apache-2.0
"""Reading and writing of archives, against each other, tarfile and GNU tar."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.archive import archive_directory
from mooring_agent.images.stream import HashingReader
from mooring_agent.images.tar_writer import END, member_header, padding
from unit.images.archives import archive, in_pieces, member

LIMIT = 1 << 40

name = st.binary(min_size=1, max_size=12).map(lambda raw: raw.translate(None, b"\0/")).filter(bool)
path = st.lists(name, min_size=1, max_size=30).map(b"/".join)
entries = st.builds(
    lambda kind, data, **fields: (
        tar.TarEntry(kind=kind, size=len(data), stored=len(data), **fields)
        if kind == tar.REGULAR
        else tar.TarEntry(kind=kind, **fields),
        data if kind == tar.REGULAR else b"",
    ),
    kind=st.sampled_from([tar.REGULAR, tar.DIRECTORY, tar.SYMLINK, tar.HARD_LINK, tar.FIFO]),
    data=st.binary(max_size=1500),
    path=path,
    link=path,
    mode=st.integers(0, 0o7777),
    uid=st.integers(0, (1 << 32) - 2),
    gid=st.integers(0, (1 << 32) - 2),
    mtime_ns=st.integers(-(1 << 60), 1 << 60),
    xattrs=st.dictionaries(
        name.map(lambda raw: b"user." + raw.replace(b"=", b"")), st.binary(max_size=40), max_size=2
    ),
)


def read(data: bytes, piece: int = 1000) -> list[tuple[tar.TarEntry, bytes]]:
    reader = HashingReader(in_pieces(data, piece), LIMIT)
    return [(entry, reader.read(entry.stored)) for entry in tar.read_entries(reader)]


@given(st.lists(entries, max_size=5), st.integers(1, 3000))
def test_what_is_written_is_read(members: list[tuple[tar.TarEntry, bytes]], piece: int) -> None:
    data = b"".join(member_header(entry) + body + padding(len(body)) for entry, body in members) + END
    for (entry, body), (found, found_body) in zip(members, read(data, piece), strict=True):
        if entry.kind == tar.DIRECTORY:
            found = replace(found, path=found.path.removesuffix(b"/"))
        assert (found, found_body) == (entry, body)


@given(st.lists(entries, max_size=4))
def test_tarfile_reads_what_is_written(members: list[tuple[tar.TarEntry, bytes]]) -> None:
    data = b"".join(member_header(entry) + body + padding(len(body)) for entry, body in members) + END
    with tarfile.open(fileobj=io.BytesIO(data), encoding="utf-8", errors="surrogateescape") as other:
        infos = other.getmembers()
    assert len(infos) == len(members)
    for (entry, _), info in zip(members, infos, strict=True):
        assert os.fsencode(info.name) == entry.path.rstrip(b"/")
        assert (info.mode, info.uid, info.gid) == (entry.mode, entry.uid, entry.gid)
        assert info.type == entry.kind


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_tarfile_writes_is_read(form: int) -> None:
    long = "d" * 90 + "/" + "f" * 95
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as other:
        info = tarfile.TarInfo(long)
        info.size, info.mode, info.uid, info.gid, info.mtime = 5, 0o4755, 1000, 2000, 1_600_000_000
        other.addfile(info, io.BytesIO(b"hello"))
        info = tarfile.TarInfo("link")
        info.type, info.linkname = tarfile.SYMTYPE, long[:90]
        other.addfile(info)
        info = tarfile.TarInfo("dev")
        info.type, info.devmajor, info.devminor = tarfile.CHRTYPE, 1, 3
        other.addfile(info)
        if form != tarfile.USTAR_FORMAT:
            info = tarfile.TarInfo("big")
            info.uid, info.mtime = 3_000_000_000, 1_600_000_000.5 if form == tarfile.PAX_FORMAT else 1
            info.linkname, info.type = "x" * 300, tarfile.SYMTYPE
            other.addfile(info)
    found = read(buffer.getvalue())
    first, body = found[0]
    assert (first.path, body, first.mode) == (long.encode(), b"hello", 0o4755)
    assert (first.uid, first.gid, first.mtime_ns) == (1000, 2000, 1_600_000_000 * 10**9)
    assert (found[1][0].kind, found[1][0].link) == (tar.SYMLINK, b"d" * 90)
    assert (found[2][0].kind, found[2][0].device) == (tar.CHARACTER, (1, 3))
    if form != tarfile.USTAR_FORMAT:
        assert found[3][0].uid == 3_000_000_000
        assert found[3][0].link == b"x" * 300
    if form == tarfile.PAX_FORMAT:
        assert found[3][0].mtime_ns == 1_600_000_000_500_000_000


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=pax", "--sparse-version=0.0"],
        ["--format=pax", "--sparse-version=0.1"],
        ["--format=pax", "--sparse-version=1.0"],
    ],
)
def test_sparse_files_of_gnu_tar_are_read(tmp_path: Path, options: list[str]) -> None:
    places = [(1 << 20) * number for number in range(1, 40)]
    with open(tmp_path / "sparse", "wb") as file:
        for place in places:
            file.seek(place)
            file.write(b"data at %d" % place)
        file.truncate(50 << 20)
    subprocess.run(["tar", "-C", tmp_path, "-cSf", tmp_path / "a.tar", *options, "sparse"], check=True)
    data = (tmp_path / "a.tar").read_bytes()
    assert len(data) < 2 << 20
    ((entry, body),) = read(data)
    assert (entry.path, entry.kind, entry.size) == (b"sparse", tar.REGULAR, 50 << 20)
    assert entry.parts is not None
    content = bytearray(entry.size)
    for offset, length in entry.parts:
        content[offset : offset + length], body = body[:length], body[length:]
    assert content == (tmp_path / "sparse").read_bytes()


def test_gnu_tar_reads_sparse_files_that_are_written(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name, size in (("ends in data", 4_000_004), ("ends in a hole", 5_000_000)):
        with open(tmp_path / "one" / name, "wb") as file:
            for place, data in ((4096, b"one"), (1_000_000, b"x" * 5000), (4_000_000, b"four")):
                file.seek(place)
                file.write(data)
            file.truncate(size)
    (tmp_path / "a.tar").write_bytes(b"".join(archive_directory(tmp_path / "one")))
    assert (tmp_path / "a.tar").stat().st_size < 60_000
    result = subprocess.run(
        ["tar", "-C", tmp_path / "two", "-xf", tmp_path / "a.tar"], check=True, capture_output=True
    )
    assert result.stderr == b""
    for name in os.listdir(tmp_path / "one"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


WHOLE = archive(member("first", data=b"1" * 700), member("a" * 200, data=b"2"), member("last", data=b"3"))


@given(st.integers(0, len(WHOLE) - 1))
def test_a_truncated_archive_is_found_out_or_lacks_its_end_only(length: int) -> None:
    try:
        found = read(WHOLE[:length])
    except InvalidSpec:
        return
    assert [entry.path for entry, _ in found] == [b"first", b"a" * 200, b"last"][: len(found)]
    assert length % tar.BLOCK == 0 or len(found) == 3


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
@example(156, ord("S"))
@example(124, 0x80)
def test_a_changed_byte_breaks_nothing_but_the_archive(position: int, value: int) -> None:
    changed = bytearray(WHOLE)
    changed[position] = value
    for start in (0, 1536, 3072):  # make the checksum right again where a header may be
        block = changed[start : start + 512]
        block[148:156] = b" " * 8
        changed[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    try:
        found = read(bytes(changed))
    except InvalidSpec:
        return
    assert len(found) <= 6


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"not a tar archive".ljust(1024, b"!"), "octal|checksum"),
        (b"short", "truncated"),
        (member("x", data=b"1" * 600)[:700] + END[:100], "truncated"),
        (member("x")[:-1], "truncated"),
        (archive(member("x" * 300))[:1024] + END, "within a member's headers"),
    ],
)
def test_what_is_no_archive(data: bytes, what: str) -> None:
    with pytest.raises(InvalidSpec, match=what):
        read(data)


def extended(*records: tuple[bytes, bytes], kind: bytes = b"x", then: bytes = b"") -> bytes:
    body = b""
    for key, value in records:
        record = b" %s=%s\n" % (key, value)
        length = len(record) + 2 if len(record) < 98 else len(record) + 3
        body += b"%d%s" % (length, record)
    header = member_header(tar.TarEntry(b"PaxHeaders/x", kind, stored=len(body)))
    return header + body + padding(len(body)) + (then or member("short", data=b"12345")) + END


@pytest.mark.parametrize(
    ("records", "what"),
    [
        ([(b"size", b"99999999999999999999999")], "no number"),
        ([(b"size", b"-5")], "size"),
        ([(b"uid", b"4294967295")], "belongs to"),
        ([(b"gid", b"-1")], "belongs to"),
        ([(b"mtime", b"1e400")], "no number"),
        ([(b"mtime", b"9999999999999999999")], "modification time"),
        ([(b"path", b"a\0b")], "NUL"),
        ([(b"SCHILY.xattr.user.a\0b", b"1")], "attribute"),
        ([(b"SCHILY.xattr.", b"1")], "attribute"),
        ([(b"linkpath", b"a\0b")], "NUL"),
        ([(b"GNU.sparse.major", b"7")], "sparse"),
        ([(b"GNU.sparse.map", b"0,5,3")], "parts"),
        ([(b"GNU.sparse.map", b"3,5,0,1"), (b"GNU.sparse.size", b"10")], "overlap"),
        ([(b"GNU.sparse.map", b"0,9"), (b"GNU.sparse.size", b"5")], "exceed"),
        ([(b"GNU.sparse.map", b"0,4"), (b"GNU.sparse.size", b"5")], "stored"),
        (
            [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"5")],
            "sparse|truncated|number",
        ),
    ],
)
def test_hostile_records_are_refused(records: list[tuple[bytes, bytes]], what: str) -> None:
    with pytest.raises(InvalidSpec, match=what):
        read(extended(*records))


def test_malformed_records_and_big_headers_are_refused() -> None:
    for body in (b"no length", b"5 a=b\n", b"99 a=b\n", b"7 a=bcd", b"0 a=\n"):
        header = member_header(tar.TarEntry(b"PaxHeaders/x", b"x", stored=len(body)))
        with pytest.raises(InvalidSpec, match="pax record"):
            read(header + body + padding(len(body)) + member("x") + END)
    header = member_header(tar.TarEntry(b"PaxHeaders/x", b"x", stored=1 << 30))
    with pytest.raises(InvalidSpec, match="extended header"):
        read(header)


def test_a_global_record_holds_for_what_follows() -> None:
    data = extended(
        (b"uid", b"77"), (b"comment", b"by git"), kind=b"g", then=member("a", uid=1) + member("b", uid=2)
    )
    assert [entry.uid for entry, _ in read(data)] == [77, 77]
