# SPDX-License-Identifier: Apache-2.0
"""Unpacking without root; devices, owners, overlay's attributes are in tests/integration/images."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mooring_agent.errors import InvalidSpec
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.archive import archive_directory
from mooring_agent.images.layers import AppliedLayer, Limits, apply_layer
from mooring_agent.images.member_names import split_path
from mooring_agent.storage.snapshotter import UnpackTarget, WhiteoutStyle
from unit.images.archives import archive, directory, hard_link, in_pieces, link, member

SECRET = "outside"


class Place:
    """A directory to unpack into, with something beside it that must never change."""

    def __init__(self, base: Path) -> None:
        self.root = base / "root"
        self.outside = base / "outside"
        self.root.mkdir()
        self.outside.mkdir()
        (self.outside / "secret").write_text(SECRET)

    def apply(
        self, *members: bytes, limits: Limits | None = None, whiteouts: WhiteoutStyle = WhiteoutStyle.OVERLAY
    ) -> AppliedLayer:
        data = archive(*members)
        result = apply_layer(in_pieces(data), UnpackTarget(self.root, whiteouts, ()), limits)
        assert result.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"
        assert result.stream_bytes == len(data)
        self.check()
        return result

    def refuse(self, *members: bytes, match: str, limits: Limits | None = None) -> None:
        with pytest.raises(InvalidSpec, match=match):
            self.apply(*members, limits=limits)
        self.check()

    def check(self) -> None:
        assert sorted(os.listdir(self.outside)) == ["secret"]
        assert (self.outside / "secret").read_text() == SECRET
        assert (self.outside / "secret").stat().st_nlink == 1
        assert sorted(os.listdir(self.root.parent)) == ["outside", "root"]

    def names(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*"))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = len(os.listdir("/proc/self/fd"))
    yield Place(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == opened


def test_files_directories_and_links(place: Place) -> None:
    result = place.apply(
        directory("./", mode=0o711, mtime_ns=5_000_000_000),
        directory("etc/", mtime_ns=1_000_000_007),
        member("etc/passwd", data=b"root\n", mode=0o4640, mtime_ns=1_600_000_000_123_456_789),
        link("bin", "usr/bin"),
        directory("usr/bin"),
        member("bin/sh", data=b"#!", mode=0o755),
        hard_link("bin/ash", "usr/bin/sh"),
        member("fifo", tar.FIFO, mode=0o600),
        member("./no/parents/given", data=b"x"),
        member("/absolute", data=b"y"),
    )
    root = place.root
    assert stat.S_IMODE(root.stat().st_mode) == 0o711
    assert root.stat().st_mtime_ns == 5_000_000_000
    assert (root / "etc").stat().st_mtime_ns == 1_000_000_007
    assert (root / "etc/passwd").read_text() == "root\n"
    assert stat.S_IMODE((root / "etc/passwd").stat().st_mode) == 0o4640
    assert (root / "etc/passwd").stat().st_mtime_ns == 1_600_000_000_123_456_789
    assert os.readlink(root / "bin") == "usr/bin"
    assert (root / "usr/bin/ash").samefile(root / "usr/bin/sh")
    assert stat.S_ISFIFO((root / "fifo").stat().st_mode)
    assert (root / "no/parents/given").read_text() == "x"
    assert stat.S_IMODE((root / "no/parents").stat().st_mode) == 0o755
    assert (root / "absolute").read_text() == "y"
    assert result.entries == 10
    assert result.file_bytes == 9


@pytest.mark.parametrize("name", ["../up", "a/../../up", "..", "/..", "./../x", "a/b/../../../x"])
def test_names_that_lead_out_are_refused(place: Place, name: str) -> None:
    place.refuse(member(name, data=b"x"), match="leads out")
    place.refuse(hard_link("fine", name), match="leads out|not in the archive|root directory")


def test_names_that_stay_inside_are_cleaned() -> None:
    assert split_path(b"a/./b//../c/") == (b"a", b"c")
    assert split_path(b"./") == (b"", b"")
    assert split_path(b"/") == (b"", b"")
    assert split_path(b"/etc/x") == (b"etc", b"x")


def test_a_link_to_outside_leads_inside(place: Place) -> None:
    outside = str(place.outside)
    place.apply(directory(outside.lstrip("/")), link("way", outside), member("way/secret", data=b"changed"))
    assert (place.root / outside.lstrip("/") / "secret").read_text() == "changed"
    up = "../" * 20 + outside.lstrip("/")
    place.apply(link("up", up), member("up/secret", data=b"again"))
    assert (place.root / outside.lstrip("/") / "secret").read_text() == "again"


def test_a_link_to_nowhere_is_no_parent(place: Place) -> None:
    place.refuse(link("way", str(place.outside)), member("way/secret", data=b"x"), match="no directory")
    place.refuse(link("self", "self"), member("self/x", data=b"x"), match="symbolic links")
    place.refuse(member("file"), member("file/x", data=b"x"), match="no directory")
    place.refuse(link("p", "/proc/self/root"), member("p/etc/x", data=b"x"), match="no directory")


def test_a_link_put_in_the_place_of_a_node_meanwhile_is_not_followed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a container may do it while files are copied into it."""
    chown = os.chown
    secret = place.outside / "secret"
    mode = secret.stat().st_mode

    def swap(name: bytes, *ids: int, **where: Any) -> None:
        chown(name, *ids, **where)
        if name == b"fifo":
            (place.root / "fifo").unlink()
            (place.root / "fifo").symlink_to(secret)

    monkeypatch.setattr(os, "chown", swap)
    place.refuse(member("fifo", tar.FIFO, mode=0o4777), match="cannot be unpacked")
    assert (place.root / "fifo").is_symlink()
    assert secret.stat().st_mode == mode


def test_an_archive_that_is_no_layer_leaves_the_directory_as_it_is(place: Place) -> None:
    place.root.chmod(0o1777)
    place.apply(directory("./", mode=0o700), member(".wh.file"), whiteouts=WhiteoutStyle.NONE)
    assert stat.S_IMODE(place.root.stat().st_mode) == 0o1777
    assert place.names() == [".wh.file"]


def test_a_directory_that_becomes_a_link_is_not_followed_any_more(place: Place) -> None:
    place.refuse(
        directory("d"),
        member("d/first", data=b"1"),
        link("d", str(place.outside)),
        member("d/secret", data=b"changed"),
        match="no directory",
    )
    place.apply(
        directory("e"),
        member("e/first", data=b"1"),
        directory("other"),
        link("e", "other"),
        member("e/second", data=b"2"),
    )
    assert (place.root / "other/second").read_text() == "2"


def test_a_file_is_never_written_through_a_link(place: Place) -> None:
    secret = str(place.outside / "secret")
    place.apply(link("x", secret), member("x", data=b"changed"))
    assert (place.root / "x").read_text() == "changed"
    place.apply(link("l", secret), hard_link("h", "l"), member("h", data=b"changed"), hard_link("h2", "l"))
    assert (place.root / "h").read_text() == "changed"
    assert os.readlink(place.root / "h2") == secret
    place.apply(link("d", str(place.outside)), directory("d"), member("d/secret", data=b"own"))
    assert (place.root / "d/secret").read_text() == "own"


def test_hard_links_stay_inside(place: Place) -> None:
    secret = str(place.outside / "secret")
    place.refuse(hard_link("x", secret), match="not in the archive|No such file")
    place.refuse(
        link("way", str(place.outside)), hard_link("x", "way/secret"), match="cannot be unpacked|not in"
    )
    place.refuse(hard_link("x", "x"), match="itself")
    place.refuse(member("y"), hard_link("y", "y"), match="itself")
    place.refuse(hard_link("x", "/"), match="root directory")
    place.refuse(directory("d"), hard_link("x", "d"), match="cannot be unpacked")


def test_the_last_of_two_members_wins(place: Place) -> None:
    place.apply(
        member("a", data=b"1"),
        member("a", data=b"2"),
        directory("b"),
        member("b/inside", data=b"x"),
        member("b", data=b"now a file"),
        member("c", data=b"file"),
        directory("c"),
        directory("d", mode=0o700),
        member("d/kept", data=b"x"),
        directory("d", mode=0o750),
    )
    assert (place.root / "a").read_text() == "2"
    assert (place.root / "b").read_text() == "now a file"
    assert (place.root / "c").is_dir()
    assert (place.root / "d/kept").exists()
    assert stat.S_IMODE((place.root / "d").stat().st_mode) == 0o750


def test_what_a_root_cannot_be(place: Place) -> None:
    place.refuse(member("/", data=b"x"), match="root directory")
    place.refuse(link("./", "/etc"), match="root directory")
    place.refuse(member("x", b"Z"), match="type")
    place.refuse(member("n" * 300), match="too long")


@pytest.mark.parametrize(
    ("members", "limits", "what"),
    [
        ([member("x", data=b"1" * 5000)], Limits(stream_bytes=4000), "limit of 4000 bytes"),
        ([member("x", data=b"1" * 5000)], Limits(file_bytes=4000), "more than the limit of 4000"),
        ([member("a"), member("b"), member("c")], Limits(entries=2), "limit of 2 members"),
        (
            [member("x", data=b"", size=1 << 50, stored=0, parts=())],
            Limits(),
            "more than the limit",
        ),
    ],
)
def test_bombs_are_stopped(place: Place, members: list[bytes], limits: Limits, what: str) -> None:
    place.refuse(*members, limits=limits, match=what)


def test_an_archive_may_lack_its_end_but_not_everything(place: Place) -> None:
    target = UnpackTarget(place.root, WhiteoutStyle.OVERLAY, ())
    apply_layer(iter([member("x", data=b"1")]), target)
    assert place.names() == ["x"]
    with pytest.raises(InvalidSpec, match="empty"):
        apply_layer(iter([]), target)


def test_what_follows_the_end_belongs_to_the_digest(place: Place) -> None:
    data = archive(member("x")) + b"trailing" * 1000
    result = apply_layer(in_pieces(data), UnpackTarget(place.root, WhiteoutStyle.OVERLAY, ()))
    assert result.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_sparse_files_keep_their_holes(place: Place) -> None:
    place.apply(
        member(
            "s", data=b"onetwo", size=40 << 20, stored=6, parts=((1 << 20, 3), (30 << 20, 3), (40 << 20, 0))
        )
    )
    status = (place.root / "s").stat()
    assert status.st_size == 40 << 20
    assert status.st_blocks * 512 < 1 << 20
    with open(place.root / "s", "rb") as file:
        file.seek(30 << 20)
        assert file.read(4) == b"two\0"


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_whiteouts_of_nothing_are_refused(place: Place, name: str) -> None:
    place.refuse(member(f"d/{name}"), match="removes no name")


def test_whiteouts_delete_where_the_parent_shows(place: Place) -> None:
    for name in ("gone/deep/file", "kept/file", "opaque/old/file", "opaque/both", "nested/old"):
        (place.root / name).parent.mkdir(parents=True, exist_ok=True)
        (place.root / name).write_text("parent")
    (place.root / "link").symlink_to(place.outside)
    place.apply(
        member(".wh.gone"),
        member(".wh.link"),
        member(".wh.never-there"),
        member("opaque/new", data=b"layer"),
        member("opaque/both", data=b"layer"),
        member("opaque/.wh..wh..opq"),
        member("opaque/after", data=b"layer"),
        directory("nested"),
        member("nested/new", data=b"layer"),
        member(".wh.nested"),
        whiteouts=WhiteoutStyle.DELETE,
    )
    assert place.names() == [
        "kept", "kept/file", "nested", "nested/new", "opaque", "opaque/after", "opaque/both", "opaque/new",
    ]  # fmt: skip
    assert (place.root / "opaque/both").read_text() == "layer"


def test_deep_and_many(place: Place) -> None:
    deep = "/".join(["d" * 10] * 150)
    place.apply(
        *(member(f"{index % 70}/{index // 70}/file", data=b"x") for index in range(1000)),
        member(f"{deep}/file", data=b"deep"),
        member(deep.split("/")[0], data=b"replaces all of it"),
    )
    assert (place.root / ("d" * 10)).read_text() == "replaces all of it"
    assert len(place.names()) == 1 + 70 + 1000 + 1000


VARIED = archive(
    directory("d"),
    member("d/file", data=b"x" * 600, xattrs={b"user.a": b"1"}),
    link("link", "d"),
    member("null", tar.CHARACTER, device=(1, 3)),
    member("n" * 150, tar.FIFO),
    member("sparse", data=b"abc", size=10_000, stored=3, parts=((4096, 3), (10_000, 0))),
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(VARIED) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_archive_is_unpacked_or_refused(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    data = bytearray(VARIED)
    for position, value in changes:
        data[position] = value
    for start in range(0, len(data), 512):  # make the checksums right again, so that more than they is tried
        block = bytearray(data[start : start + 512])
        if block[257:262] == b"ustar":
            block[148:156] = b" " * 8
            data[start + 148 : start + 156] = b"%06o\0 " % sum(block)
    place = Place(tmp_path_factory.mktemp("place"))
    limits = Limits(stream_bytes=1 << 20, file_bytes=1 << 30)
    with suppress(InvalidSpec):
        apply_layer(in_pieces(bytes(data)), UnpackTarget(place.root, WhiteoutStyle.OVERLAY, ()), limits)
    place.check()


names = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ".wh.a", "d"]), min_size=1, max_size=4).map(
    "/".join
)
anything = st.one_of(
    st.builds(lambda name, data: member(name, data=data), names, st.binary(max_size=8)),
    st.builds(directory, names),
    st.builds(
        link,
        names,
        st.one_of(names, names.map("/".__add__), st.just("../../outside"), st.just("../outside/secret")),
    ),
    st.builds(hard_link, names, names),
)


@settings(suppress_health_check=[HealthCheck.too_slow], max_examples=300)
@given(st.lists(anything, max_size=8), st.sampled_from(WhiteoutStyle))
def test_nothing_outside_ever_changes(
    tmp_path_factory: pytest.TempPathFactory, members: list[bytes], style: WhiteoutStyle
) -> None:
    if os.geteuid() != 0 and style is WhiteoutStyle.OVERLAY:
        members = [data for data in members if b".wh." not in data[:512]]  # needs CAP_MKNOD
    place = Place(tmp_path_factory.mktemp("place"))
    try:
        place.apply(*members, whiteouts=style)
    except InvalidSpec:
        place.check()


content = st.recursive(
    st.binary(max_size=600) | st.sampled_from(["link", "fifo"]),
    lambda inner: st.dictionaries(
        st.text("abc_é \n", min_size=1, max_size=5) | st.just("long" * 40), inner, max_size=4
    ),
    max_leaves=12,
)


def build(root: Path, tree: object, written: list[Path]) -> None:
    if isinstance(tree, dict):
        root.mkdir(exist_ok=True)
        for name, below in tree.items():
            build(root / name, below, written)
    elif tree == "link":
        root.symlink_to("nowhere/at/all")
    elif tree == "fifo":
        os.mkfifo(root)
    elif written and len(written) % 3 == 2:
        os.link(written[-1], root)
    else:
        assert isinstance(tree, bytes)
        root.write_bytes(tree)
        written.append(root)
    os.utime(root, ns=(10**18, 10**18 + len(str(root))), follow_symlinks=False)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text("xyz", min_size=1, max_size=3), content, max_size=4))
def test_a_directory_survives_the_way_through_a_layer(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]
) -> None:
    base = tmp_path_factory.mktemp("trip")
    build(base / "one", tree, [])
    (base / "two").mkdir()
    first = b"".join(archive_directory(base / "one"))
    apply_layer(in_pieces(first), UnpackTarget(base / "two", WhiteoutStyle.OVERLAY, ()))
    assert b"".join(archive_directory(base / "two")) == first


def test_holes_survive_the_way_through_a_layer(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with open(tmp_path / "one" / "sparse", "wb") as file:
        for place in range(0, 64 << 20, 4 << 20):
            file.seek(place + 123)
            file.write(b"data")
        file.truncate(65 << 20)
    with open(tmp_path / "one" / "empty", "wb") as file:
        file.truncate(1 << 30)
    data = b"".join(archive_directory(tmp_path / "one"))
    assert len(data) < 1 << 20
    apply_layer(in_pieces(data, 10_000), UnpackTarget(tmp_path / "two", WhiteoutStyle.OVERLAY, ()))
    assert (tmp_path / "two/sparse").read_bytes() == (tmp_path / "one/sparse").read_bytes()
    assert (tmp_path / "two/empty").stat().st_size == 1 << 30
    assert (tmp_path / "two/empty").stat().st_blocks == 0


def test_reserved_names_cannot_be_archived(tmp_path: Path) -> None:
    (tmp_path / ".wh.file").write_text("x")
    with pytest.raises(InvalidSpec, match=r"\.wh\.file"):
        b"".join(archive_directory(tmp_path))
