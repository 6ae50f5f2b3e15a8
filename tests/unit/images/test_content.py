# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from mooring_agent.errors import InvalidSpec, NotFound, Unavailable
from mooring_agent.images.content import MEDIA_CONFIG, ContentStore, Descriptor


def describe(data: bytes, size: int | None = None) -> Descriptor:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Descriptor("application/octet-stream", digest, len(data) if size is None else size)


def put(content: ContentStore, data: bytes, expected: Descriptor | None = None) -> Descriptor:
    with content.ingest(expected) as blob:
        blob.write(data[:3])
        blob.write(data[3:])
        blob.finish()
        content.publish(blob)
    return describe(data)


def test_a_directory_in_the_oci_layout(tmp_path: Path) -> None:
    content = ContentStore(tmp_path)
    descriptor = content.add(MEDIA_CONFIG, {"architecture": "amd64", "text": "ä"})
    content.write_index([descriptor])
    assert json.loads((tmp_path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["schemaVersion"] == 2
    assert index["manifests"] == [
        {"mediaType": MEDIA_CONFIG, "digest": descriptor.digest, "size": descriptor.size}
    ]
    blob = (tmp_path / "blobs" / "sha256" / descriptor.digest.removeprefix("sha256:")).read_bytes()
    assert hashlib.sha256(blob).hexdigest() == descriptor.digest.removeprefix("sha256:")
    assert len(blob) == descriptor.size
    assert ContentStore(tmp_path).read_index() == [descriptor]
    assert json.loads(ContentStore(tmp_path).read(descriptor)) == {"architecture": "amd64", "text": "ä"}


def test_a_blob_appears_when_it_is_published(tmp_path: Path) -> None:
    content = ContentStore(tmp_path)
    with content.ingest() as blob:
        blob.write(b"half")
        assert content.digests() == set()
    assert os.listdir(tmp_path / "ingest") == []
    descriptor = put(content, b"whole")
    put(content, b"whole")
    assert content.digests() == {descriptor.digest}
    assert b"".join(content.chunks(descriptor)) == b"whole"
    content.remove(descriptor.digest)
    content.remove(descriptor.digest)
    assert content.digests() == set()


def test_size_and_digest_are_verified_on_the_way_in(tmp_path: Path) -> None:
    content = ContentStore(tmp_path)
    for came, what in ((b"wAnted", "came as"), (b"want", "came as"), (b"wanted!", "longer than the 6")):
        with pytest.raises(InvalidSpec, match=what):
            put(content, came, expected=describe(b"wanted"))
    put(content, b"wanted", expected=describe(b"wanted"))
    assert content.digests() == {describe(b"wanted").digest}


def test_damage_is_found_on_the_way_out(tmp_path: Path) -> None:
    content = ContentStore(tmp_path)
    descriptor = put(content, b"wanted")
    content.path(descriptor.digest).write_bytes(b"wAnted")
    with pytest.raises(Unavailable, match=r"damaged.*import or pull"):
        b"".join(content.chunks(descriptor))
    with pytest.raises(NotFound, match="import or pull"):
        b"".join(content.chunks(describe(b"never there")))
    with pytest.raises(InvalidSpec, match="a document at most"):
        content.read(describe(b"x", 1 << 30))


@pytest.mark.parametrize(
    "digest", ["sha512:" + "0" * 128, "sha256:../../etc/passwd", "sha256:" + "G" * 64, "x", ""]
)
def test_only_sha256_names_a_blob(tmp_path: Path, digest: str) -> None:
    with pytest.raises(InvalidSpec, match="64 hexadecimal digits"):
        ContentStore(tmp_path).path(digest)


def test_what_a_killed_process_left_is_deleted(tmp_path: Path) -> None:
    content = ContentStore(tmp_path)
    (tmp_path / "ingest" / "17").write_bytes(b"half a blob")
    (tmp_path / "ingest" / "18-index.json").write_bytes(b"{")
    (tmp_path / "ingest" / "19" / "a" / "b").mkdir(parents=True)
    content = ContentStore(tmp_path)
    assert os.listdir(tmp_path / "ingest") == []
    with content.scratch() as scratch:
        (scratch / "below").mkdir()
        assert scratch.parent == tmp_path / "ingest"
    assert os.listdir(tmp_path / "ingest") == []
