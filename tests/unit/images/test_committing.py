# SPDX-License-Identifier: Apache-2.0
"""Images from containers, their changes, their history, and their whole trees."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring_agent.errors import InvalidSpec, NotFound
from mooring_agent.images.committing import Commit
from mooring_agent.images.usage import tell_history
from mooring_agent.storage.snapshotter import Change, ChangeKind
from unit.images.archives import archive, directory, link, member
from unit.images.houses import House
from unit.images.repositories import Repository, build, digest_of

NAME = "registry.example/me/web:1"
BASE = archive(directory("etc"), member("etc/name", data=b"one\n"), member("etc/other"), link("bin", "usr"))
TOP = archive(directory("etc"), member("etc/top", data=b"t" * 5000))


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    repository = Repository()
    runtime = {"Cmd": ["sh"], "Env": ["A=1"], "Volumes": {"/data": {}}, "Healthcheck": {"Test": ["NONE"]}}
    repository.add(build(BASE, TOP, docker=True, runtime=runtime), "1")
    image = house.store.pull(repository, NAME)
    house.snapshots.prepare("container", image.chain_id)
    yield house
    house.snapshots.remove("container")
    house.check()
    house.snapshots.close()


def written(house: House) -> Path:
    upper = house.snapshots.rootfs("container").upper
    assert upper is not None
    return upper


def test_a_commit_is_a_layer_more(house: House) -> None:
    base = house.store.get(NAME)
    upper = written(house)
    (upper / "etc").mkdir()
    (upper / "etc/name").write_text("two\n")
    (upper / "new").write_text("new")
    os.link(upper / "new", upper / "linked")
    with open(upper / "sparse", "wb") as file:
        file.seek(1 << 20)
        file.write(b"end")
    image = house.store.commit(
        "container",
        base,
        "web:mine",
        Commit(
            changes=('CMD ["serve"]', "ENV B=2", "VOLUME /more", "ONBUILD RUN make", "LABEL a=b"),
            author="Me <me@example.com>",
            message="by hand",
            created_by="sh -c true",
        ),
    )
    assert image.references == ("docker.io/library/web:mine",)
    assert image.diff_ids[:2] == base.diff_ids
    assert len(image.diff_ids) == 3
    assert image.author == "Me <me@example.com>"
    assert image.config == {
        "Cmd": ["serve"],
        "Env": ["A=1", "B=2"],
        "Labels": {"a": "b"},
        "OnBuild": ["RUN make"],
        "Volumes": {"/data": {}, "/more": {}},
        "Healthcheck": {"Test": ["NONE"]},
    }
    manifest = house.document(image.manifest_digest)
    assert {each["mediaType"] for each in manifest["layers"]} == {
        "application/vnd.oci.image.layer.v1.tar+gzip"
    }
    newest, *older = house.store.history("web:mine")
    assert (newest.comment, newest.created_by, newest.author) == (
        "by hand", "sh -c true", "Me <me@example.com>",
    )  # fmt: skip
    assert len(older) == 2
    rootfs = house.snapshots.prepare("again", image.chain_id)
    layer = rootfs.lower[0]
    assert (layer / "etc/name").read_text() == "two\n"
    assert (layer / "new").stat().st_ino == (layer / "linked").stat().st_ino
    assert (layer / "sparse").stat().st_size == (1 << 20) + 3
    assert (layer / "sparse").stat().st_blocks * 512 < 1 << 20
    house.snapshots.remove("again")


def test_the_same_changes_give_the_same_layer(house: House) -> None:
    (written(house) / "new").write_text("new")
    first = house.store.commit("container", house.store.get(NAME), "web:1")
    second = house.store.commit("container", house.store.get(NAME), "web:2")
    assert first.diff_ids == second.diff_ids


def test_nothing_changed_is_no_layer(house: House) -> None:
    base = house.store.get(NAME)
    image = house.store.commit("container", base, "web:same", Commit(message="nothing"))
    assert image.diff_ids == base.diff_ids
    assert house.store.history("web:same")[0].empty
    with pytest.raises(InvalidSpec, match="ONBUILD ONBUILD is not allowed"):
        house.store.commit("container", base, None, Commit(changes=("ONBUILD ONBUILD RUN x",)))


def test_changes_are_told(house: House) -> None:
    (written(house) / "new").write_text("new")
    assert list(house.store.changes("container")) == [Change(b"new", ChangeKind.ADDED)]


def test_an_export_is_the_merged_tree(house: House) -> None:
    upper = written(house)
    (upper / "etc").mkdir()
    (upper / "etc/name").write_text("two\n")
    with tarfile.open(fileobj=io.BytesIO(b"".join(house.store.export("container")))) as opened:
        names = opened.getnames()
        file = opened.extractfile("./etc/name") if "./etc/name" in names else opened.extractfile("etc/name")
        assert file is not None
        assert file.read() == b"two\n"
    assert names == [".", "bin", "etc", "etc/name", "etc/other", "etc/top"]
    with pytest.raises(NotFound):
        house.store.export("unheard-of")


def test_history_has_the_sizes_of_layers(house: House) -> None:
    newest, oldest = house.store.history(NAME)
    assert (newest.created_by, oldest.created_by) == ("step 1", "step 0")
    assert newest.size >= 5000
    told = tell_history(({"created_by": "a"}, {"created_by": "b", "empty_layer": True}), [1, 2])
    assert [(entry.created_by, entry.size) for entry in told] == [("", 2), ("b", 0), ("a", 1)]


def test_usage(house: House) -> None:
    (written(house) / "new").write_text("n" * 10_000)
    image = house.store.get(NAME)
    mine = house.store.commit("container", image, "web:mine")
    usage = house.store.usage({image.id: 2})
    by_id = {each.image.id: each for each in usage.images}
    assert by_id[image.id].unique == 0
    assert by_id[image.id].containers == 2
    assert by_id[mine.id].unique >= 10_000
    assert by_id[mine.id].shared == by_id[image.id].size
    assert usage.layers == by_id[mine.id].size
    assert usage.reclaimable == by_id[mine.id].unique
    assert usage.blobs == sum(path.stat().st_size for path in (house.root / "images/blobs/sha256").iterdir())
    assert digest_of(BASE) == image.diff_ids[0]
