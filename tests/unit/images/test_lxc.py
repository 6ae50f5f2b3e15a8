# SPDX-License-Identifier: Apache-2.0
"""LXC images: metadata of Incus and of LXC, archives in one piece, squashfs."""

from __future__ import annotations

import lzma
import subprocess
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.host import need_programs
from mooring_agent.errors import InvalidSpec, MissingProgram
from mooring_agent.images import lxc
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.lxc import LxcMetadata, UnifiedImage, parse_config, parse_metadata, read_metadata
from mooring_agent.images.stream import HashingReader
from mooring_agent.images.tar_reader import read_entries
from unit.images.archives import archive, directory, hard_link, link, member
from unit.images.houses import House

METADATA = b"""\
architecture: x86_64
creation_date: 1700000000
expiry_date: 1800000000
properties:
  os: Debian
  release: bookworm
  serial: 20231114
  description: Debian bookworm amd64
templates:
  /etc/hostname:
    when: [create, copy]
    template: hostname.tpl
"""
ROOTFS = (directory("rootfs"), directory("rootfs/etc"), member("rootfs/etc/name", data=b"one\n"))
LABELS = {
    "image.os": "Debian",
    "image.release": "bookworm",
    "image.serial": "20231114",
    "image.description": "Debian bookworm amd64",
    "org.opencontainers.image.description": "Debian bookworm amd64",
}


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_metadata_of_incus_say_what_the_image_is() -> None:
    assert parse_metadata(METADATA) == LxcMetadata("amd64", 1700000000.0, LABELS)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("aarch64", "arm64"), ("armv7l", "arm"), ("i686", "386"), ("amd64", "amd64"), ("riscv64", "riscv64")],
)
def test_architectures_have_their_oci_names(name: str, architecture: str) -> None:
    assert parse_metadata(f"architecture: {name}".encode()).architecture == architecture
    assert parse_config(f"lxc.include = x\nlxc.arch = {name}\n".encode()).architecture == architecture


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"a: [", ["no YAML"]),
        (b"\xff\xfe\xff", ["no YAML"]),
        (b"[]", ["no keys", "architecture"]),
        (b"architecture: 7", ["architecture", "7", "x86_64"]),
        (b"architecture: a/b/c", ["a/b/c"]),
        (b"architecture: amd64\ncreation_date: yesterday", ["creation_date", "yesterday", "epoch"]),
        (b"architecture: amd64\nproperties: [1]", ["properties", "[1]"]),
    ],
)
def test_wrong_metadata_are_told_by_their_key(text: bytes, words: list[str]) -> None:
    with pytest.raises(InvalidSpec) as caught:
        parse_metadata(text)
    for word in words:
        assert word in caught.value.message


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.binary(max_size=200)
    | st.fixed_dictionaries(
        {"architecture": st.just("x86_64") | json_values},
        optional={"creation_date": json_values, "properties": json_values},
    ).map(lambda value: yaml.safe_dump(value).encode())
)
def test_any_text_is_metadata_or_an_error(text: bytes) -> None:
    try:
        found = parse_metadata(text)
    except InvalidSpec:
        return
    assert found.architecture
    assert all(isinstance(label, str) for pair in found.labels.items() for label in pair)


@pytest.mark.parametrize("pack", [bytes, lzma.compress], ids=["plain", "xz"])
@pytest.mark.parametrize(
    ("members", "found"),
    [
        (
            (directory("templates"), member("metadata.yaml", data=METADATA)),
            LxcMetadata("amd64", 1700000000.0, LABELS),
        ),
        (
            (
                member(
                    "config",
                    data=b"lxc.include = LXC_TEMPLATE_CONFIG/debian.common.conf\nlxc.arch = x86_64\n",
                ),
                member("create-message", data=b"You just created a Debian\nbookworm container.\n\nEnjoy."),
                member("expiry", data=b"1800000000"),
            ),
            LxcMetadata("amd64", None, {lxc.DESCRIPTION: "You just created a Debian bookworm container."}),
        ),
    ],
    ids=["incus", "lxc"],
)
def test_metadata_come_in_archives_too(
    tmp_path: Path, pack: type[bytes], members: tuple[bytes, ...], found: LxcMetadata
) -> None:
    assert read_metadata(write(tmp_path / "meta.tar.xz", pack(archive(*members)))) == found


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (None, ["cannot be opened"]),
        (archive(member("rootfs.txt")), ["neither metadata.yaml nor config"]),
        (archive(member("metadata.yaml", data=b"#" * (2 << 20))), ["2097152 bytes"]),
        (b"x: " + b"y" * (2 << 20), ["more than"]),
    ],
    ids=["absent", "nothing in it", "huge member", "huge file"],
)
def test_a_file_without_metadata_is_told_by_name(
    tmp_path: Path, data: bytes | None, words: list[str]
) -> None:
    path = tmp_path / "meta"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(InvalidSpec) as caught:
        read_metadata(path)
    for word in [str(path), *words]:
        assert word in caught.value.message


def test_a_rootfs_with_metadata_is_dated_and_labelled(house: House, tmp_path: Path) -> None:
    rootfs = write(tmp_path / "rootfs.tar.xz", lzma.compress(archive(directory("etc"), member("etc/name"))))
    metadata = write(tmp_path / "metadata.yaml", METADATA)

    config = ImageConfig(labels={"image.os": "mine", "own": "1"})
    image = house.store.import_rootfs(rootfs, "web", config, metadata=metadata)

    assert image.created_at == 1700000000.0
    assert image.architecture == "amd64"
    assert image.config["Labels"] == {**LABELS, "image.os": "mine", "own": "1"}
    assert house.store.import_rootfs(rootfs, "web", config, metadata=metadata) == image


def test_metadata_of_another_processor_are_refused(house: House, tmp_path: Path) -> None:
    elf = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x02\x00" + (183).to_bytes(2, "little") + bytes(44)
    rootfs = write(tmp_path / "rootfs.tar", archive(directory("bin"), member("bin/sh", data=elf)))
    metadata = write(tmp_path / "metadata.yaml", METADATA)

    with pytest.raises(InvalidSpec, match=r"rootfs.tar: its metadata says amd64 .* for arm64"):
        house.store.import_rootfs(rootfs, "web", metadata=metadata)


@pytest.mark.parametrize("last", [False, True], ids=["metadata first", "metadata last"])
@pytest.mark.parametrize("pack", [bytes, lzma.compress], ids=["plain", "xz"])
def test_an_image_in_one_archive_is_its_rootfs(
    house: House, tmp_path: Path, pack: type[bytes], *, last: bool
) -> None:
    described = (member("metadata.yaml", data=METADATA), member("templates/hostname.tpl", data=b"{{ name }}"))
    hard = hard_link("rootfs/etc/other", "rootfs/etc/name")
    tree = (*ROOTFS, hard, link("rootfs/etc/soft", "rootfs/x"))
    parts = (*tree, *described) if last else (*described, *tree)
    path = write(tmp_path / "incus.tar", pack(archive(*parts)))

    image = house.store.import_rootfs(path, "web")

    assert image.config["Labels"] == LABELS
    assert image.created_at == 1700000000.0
    root = house.snapshots.view("view", image.chain_id).lower[0]
    assert sorted(str(found.relative_to(root)) for found in root.rglob("*")) == [
        "etc", "etc/name", "etc/other", "etc/soft",
    ]  # fmt: skip
    assert (root / "etc/name").samefile(root / "etc/other")
    assert (root / "etc/soft").readlink() == Path("rootfs/x")
    house.snapshots.remove("view")


def test_a_directory_of_an_incus_image_is_its_rootfs(house: House, tmp_path: Path) -> None:
    source = tmp_path / "image"
    (source / "rootfs/etc").mkdir(parents=True)
    (source / "metadata.yaml").write_bytes(METADATA)

    image = house.store.import_rootfs(source, "web")

    assert image.config["Labels"] == LABELS
    assert [entry.name for entry in house.snapshots.view("view", image.chain_id).lower[0].iterdir()] == [
        "etc"
    ]
    house.snapshots.remove("view")


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ((member("metadata.yaml", data=METADATA),), "no directory rootfs"),
        (ROOTFS, "no metadata.yaml"),
        (
            (*ROOTFS, hard_link("rootfs/x", "metadata.yaml")),
            "'rootfs/x' is a link to 'metadata.yaml' out of its rootfs",
        ),
        ((member("metadata.yaml", data=b"[]"), *ROOTFS), "metadata.yaml has no keys"),
    ],
)
def test_half_an_image_is_refused(
    house: House, tmp_path: Path, members: tuple[bytes, ...], sentence: str
) -> None:
    path = write(tmp_path / "incus.tar", archive(*members))
    with pytest.raises(InvalidSpec) as caught:
        house.store.import_rootfs(path, "web")
    assert caught.value.message.startswith(f"{path}: ")
    assert sentence in caught.value.message


names = st.lists(st.sampled_from(["a", "b", "rootfs", "metadata.yaml"]), min_size=1, max_size=3).map("/".join)


@given(st.lists(st.tuples(names, st.binary(max_size=700)), max_size=5))
def test_of_one_archive_just_what_is_below_rootfs_is_taken(files: list[tuple[str, bytes]]) -> None:
    data = archive(
        member("metadata.yaml", data=METADATA),
        directory("rootfs"),
        *(member(f"rootfs/{name}", data=content) for name, content in files),
        *(member(f"templates/{name}", data=content) for name, content in files),
    )
    chunks = list(UnifiedImage(iter([data])).rootfs())
    assert all(chunks)
    reader = HashingReader(chunks, 1 << 20)
    found = [(entry.path, reader.read(entry.stored)) for entry in read_entries(reader)]
    assert found == [(b"./", b""), *((f"./{name}".encode(), content) for name, content in files)]


def test_a_squashfs_names_the_program_that_it_needs(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "rootfs.squashfs", b"hsqs" + bytes(92))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingProgram, match=r"rootfs.squashfs is a squashfs.*unsquashfs.*squashfs-tools"):
        house.store.import_rootfs(path, "web")


@pytest.mark.root
def test_a_squashfs_is_unpacked(house: House, tmp_path: Path) -> None:
    need_programs("mksquashfs")
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/name").write_text("one\n")
    path = tmp_path / "rootfs.squashfs"
    subprocess.run(["mksquashfs", tree, path, "-quiet", "-no-progress"], check=True, timeout=60)

    image = house.store.import_rootfs(path, "web")

    root = house.snapshots.view("view", image.chain_id).lower[0]
    assert (root / "etc/name").read_text() == "one\n"
    house.snapshots.remove("view")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InvalidSpec, match=r"squashfs that unsquashfs does not unpack \(status"):
        house.store.import_rootfs(path, "other")
