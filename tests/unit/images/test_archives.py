# SPDX-License-Identifier: Apache-2.0
"""Images in archives: what comes back, what others write, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import subprocess
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.host import need_programs
from mooring_agent.errors import InvalidSpec, NotFound
from mooring_agent.images import tar_reader as tar
from mooring_agent.images.content import MEDIA_INDEX
from mooring_agent.images.layers import Limits
from mooring_agent.images.platform import Platform, host_architecture
from unit.images.archives import archive, directory, hard_link, in_pieces, link, member
from unit.images.houses import House
from unit.images.repositories import Built, Repository, build, digest_of, index_of, layer, to_json

NAME = "registry.example/me/web:1"
LAYERS = tuple(layer(number) for number in range(3))


def filled(house: House, *tags: str) -> Built:
    repository = Repository()
    built = repository.add(build(*LAYERS), *tags)
    for tag in tags:
        house.store.pull(repository, f"registry.example/me/web:{tag}")
    return built


def legacy(*layers: bytes, tags: list[str] | None = None, links: dict[str, str] | None = None) -> bytes:
    """As docker save wrote it before version 25: a directory a layer."""
    document = {
        "architecture": host_architecture(),
        "os": "linux",
        "created": "2020-01-01T00:00:00Z",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(data) for data in layers]},
    }
    config = to_json(document)
    members = []
    names = []
    for number, data in enumerate(layers):
        path = f"{number:064x}"
        names.append(f"{path}/layer.tar")
        members += [
            directory(path),
            member(f"{path}/VERSION", data=b"1.0"),
            member(f"{path}/json", data=b"{}"),
            member(f"{path}/layer.tar", data=data),
        ]
    for name, target in (links or {}).items():
        members.append(link(name, target))
        names.append(name)
    manifest = [{"Config": f"{digest_of(config)[7:]}.json", "RepoTags": tags, "Layers": names}]
    return archive(
        *members,
        member(f"{digest_of(config)[7:]}.json", data=config),
        member("manifest.json", data=to_json(manifest)),
        member("repositories", data=b"{}"),
    )


def layout(built: Built, *entries: Any, blobs: dict[str, bytes] | None = None, more: bytes = b"") -> bytes:
    """An OCI archive; without `entries` its index names the image alone."""
    found = [entry.to_json() for entry in entries or (built.manifest,)]
    index = to_json({"schemaVersion": 2, "mediaType": MEDIA_INDEX, "manifests": found})
    whole = built.blobs | (blobs or {})
    return archive(
        member("oci-layout", data=b'{"imageLayoutVersion":"1.0.0"}'),
        *(member(f"blobs/sha256/{digest[7:]}", data=data) for digest, data in whole.items()),
        more,
        member("index.json", data=index),
    )


def test_what_is_saved_loads_with_its_digests(house: House, other: House) -> None:
    built = filled(house, "1", "2")
    data = b"".join(house.store.save(["registry.example/me/web"]))
    assert data == b"".join(house.store.save([f"{NAME[:-1]}{tag}" for tag in "12"]))
    (image,) = set(other.store.load(in_pieces(data)))
    assert image == house.store.get(NAME)
    assert image.references == (NAME, "registry.example/me/web:2")
    assert image.manifest_digest == built.manifest.digest
    assert other.store.load(in_pieces(gzip.compress(data))) == [image]


def test_an_image_by_its_id_has_no_name_in_the_archive(house: House, other: House) -> None:
    filled(house, "1")
    image = house.store.get(NAME)
    (loaded,) = other.store.load(iter([b"".join(house.store.save([image.id[7:19]], docker=False))]))
    assert (loaded.id, loaded.references) == (image.id, ())
    with pytest.raises(NotFound, match="nothing"):
        house.store.save(["nothing"])


def test_several_images_in_one_archive(house: House, other: House) -> None:
    first = house.add("one", layer(1))
    second = house.add("two", layer(2))
    data = b"".join(house.store.save(["one", "two"]))
    with tarfile.open(fileobj=io.BytesIO(data)) as opened:
        names = opened.getnames()
        manifest = json.load(opened.extractfile("manifest.json"))  # type: ignore[arg-type]
    assert len(names) == len(set(names))
    assert [entry["RepoTags"] for entry in manifest] == [["one:latest"], ["two:latest"]]
    assert [image.id for image in other.store.load(iter([data]))] == [first.id, second.id]
    assert other.store.get("two").diff_ids == second.diff_ids


def test_an_archive_of_an_older_docker(house: House) -> None:
    (image,) = house.store.load(in_pieces(legacy(*LAYERS, tags=["web:old", "example.com/web:1"])))
    assert image.references == ("docker.io/library/web:old", "example.com/web:1")
    assert image.diff_ids == tuple(digest_of(data) for data in LAYERS)
    rootfs = house.snapshots.prepare("c", house.store.ensure_unpacked(image))
    assert (rootfs.lower[0] / "file-2").exists()
    house.snapshots.remove("c")


def test_a_layer_that_is_a_link_to_another(house: House) -> None:
    data = archive(
        member("a.tar", data=LAYERS[0]),
        link("b/layer.tar", "../a.tar"),
        member("c.json", data=(config := to_json({
            "architecture": host_architecture(), "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [digest_of(LAYERS[0])] * 2},
        }))),
        member("manifest.json", data=to_json([{"Config": "c.json", "Layers": ["a.tar", "b/layer.tar"]}])),
    )  # fmt: skip
    (image,) = house.store.load(in_pieces(data))
    assert image.id == digest_of(config)
    assert len(image.diff_ids) == 2


def test_an_index_in_an_archive(house: House) -> None:
    own, foreign = build(LAYERS[0]), build(LAYERS[1], architecture="s390x")
    descriptor, body = index_of(
        replace(foreign.manifest, platform=Platform("linux", "s390x")),
        replace(own.manifest, platform=Platform("linux", host_architecture())),
    )
    attestation = replace(foreign.manifest, platform=Platform("unknown", "unknown"))
    entry = replace(descriptor, annotations={"org.opencontainers.image.ref.name": "me/web:1"})
    data = layout(own, attestation, entry, blobs=foreign.blobs | {descriptor.digest: body})
    (image,) = house.store.load(in_pieces(data))
    assert (image.id, image.references) == (own.config.digest, ("docker.io/me/web:1",))
    house.store.load(in_pieces(data), platform=Platform.parse("linux/s390x"))
    assert house.store.get("me/web:1").architecture == "s390x"


def test_a_tag_alone_names_nothing(house: House) -> None:
    built = build(LAYERS[0])
    entry = replace(built.manifest, annotations={"org.opencontainers.image.ref.name": "latest"})
    (image,) = house.store.load(in_pieces(layout(built, entry)))
    assert image.references == ()


BUILT = build(*LAYERS)
BLOB = BUILT.layers[0].digest[7:]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "no images"),
        (b"x" * 2000, "octal|checksum"),
        (archive(member("hello", data=b"x")), "no images"),
        (archive(member("repositories", data=b"{}")), r"before 1\.10"),
        (layout(BUILT)[:-9000], "truncated"),
        (layout(BUILT, more=member("../../etc/passwd")), "leads out"),
        (layout(BUILT, more=member("/etc/passwd")), "leads out"),
        (layout(BUILT, more=member("a/../../index.json")), "leads out"),
        (layout(BUILT, more=member(f"blobs/sha256/{BLOB}", data=BUILT.blobs[f"sha256:{BLOB}"])), "twice"),
        (layout(BUILT, more=member(f"./blobs//sha256/{BLOB}")), "twice"),
        (layout(BUILT, more=member(f"blobs/sha256/{'0' * 64}", data=b"x")), "damaged, or not what"),
        (layout(BUILT, more=link("blobs/sha256/link", "/etc/passwd")), "of type '2'"),
        (layout(BUILT, more=hard_link("x.tar", f"blobs/sha256/{BLOB}")), "of type '1'"),
        (layout(BUILT, more=member("x", tar.CHARACTER, device=(1, 3))), "of type '3'"),
        (layout(BUILT, more=link("x/layer.tar", "../../etc/shadow")), "leads out"),
        (layout(BUILT, more=link("x.tar", "/etc/shadow")), "leads out"),
        (legacy(LAYERS[0], tags=["Bad Name"]), "not valid"),
        (legacy(LAYERS[0], links={"y/layer.tar": "../z/layer.tar"}), "speaks of"),
        (legacy(LAYERS[0], links={"y.tar": "z.tar", "z.tar": "y.tar"}), "speaks of"),
        (layout(replace(BUILT, blobs={k: v for k, v in BUILT.blobs.items() if k[7:] != BLOB})), "incomplete"),
        (layout(BUILT, replace(BUILT.manifest, artifact_type="application/x")), "no image"),
        (legacy(archive(member("../x")), tags=["web"]), "leads out of the root"),
        (legacy(archive(member("big", data=bytes(60_000))), tags=["web"]), "limit"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_nothing(house: House, data: bytes, what: str) -> None:
    with pytest.raises((InvalidSpec, NotFound), match=what):
        house.store.load(in_pieces(data), limits=Limits(stream_bytes=50_000))
    assert house.blobs() == set()
    assert house.store.list() == ()


def test_one_bad_image_keeps_the_good_ones_out(house: House) -> None:
    good, bad = build(LAYERS[0]), build(LAYERS[1], config=build(LAYERS[2]).config.to_json())
    data = layout(good, good.manifest, bad.manifest, blobs=bad.blobs | build(LAYERS[2]).blobs)
    with pytest.raises(InvalidSpec, match="unpacks to"):
        house.store.load(in_pieces(data))
    assert house.store.list() == ()


def test_a_removal_while_it_is_saved(house: House) -> None:
    filled(house, "1")
    saving = house.store.save([NAME])
    pieces = [next(saving)]
    house.store.remove(NAME)
    data = b"".join([*pieces, *saving])
    assert house.store.load(iter([data]))[0].references == (NAME,)


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_skopeo_reads_and_writes_the_same(house: House, other: House, tmp_path: Path, kind: str) -> None:
    filled(house, "1")
    image = house.store.get(NAME)
    ours, theirs = tmp_path / "ours.tar", tmp_path / "theirs.tar"
    ours.write_bytes(b"".join(house.store.save([NAME])))
    reference = NAME if kind == "docker-archive" else "1"
    skopeo("inspect", f"{kind}:{ours}:{reference}")
    found = json.loads(skopeo("inspect", "--config", f"{kind}:{ours}:{reference}"))
    assert found["rootfs"]["diff_ids"] == list(image.diff_ids)
    skopeo("copy", f"{kind}:{ours}:{reference}", f"{kind}:{theirs}:{NAME}")
    with open(theirs, "rb") as file:
        (loaded,) = other.store.load(iter(lambda: file.read(1 << 16), b""))
    assert (loaded.id, loaded.diff_ids, loaded.references) == (image.id, image.diff_ids, (NAME,))
    if kind == "oci-archive":
        assert loaded.manifest_digest == image.manifest_digest


def skopeo(*arguments: str) -> str:
    need_programs("skopeo")
    command = ["skopeo", "--insecure-policy", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_names_on_the_disk_are_ours(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    real = open

    def spy(path: Any, *arguments: Any, **options: Any) -> Any:
        opened.append(os.fspath(path) if not isinstance(path, int) else str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr("mooring_agent.images.archives.members.open", spy, raising=False)
    house.store.load(in_pieces(legacy(LAYERS[0], tags=["web"])))
    assert opened
    assert all(Path(path).name.isdecimal() for path in opened)
    assert hashlib.sha256(LAYERS[0]).hexdigest() in house.blobs()
