# SPDX-License-Identifier: Apache-2.0
"""The image store with the overlay driver below it, as far as that needs no root."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mooring_agent.errors import Conflict, InvalidSpec, NotFound, Unavailable
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.image import Image, ProgressEvent
from mooring_agent.images.layers import Limits
from mooring_agent.images.platform import host_architecture
from mooring_agent.images.readying import ensure_layers
from mooring_agent.images.store import Removed
from mooring_agent.images.turns import Cancelled, Stop
from mooring_agent.storage import recorded
from unit.images import houses
from unit.images.archives import archive, directory, link, member

ROOTFS = archive(
    directory("etc"), member("etc/name", data=b"one\n"), link("bin", "usr/bin"), directory("usr/bin")
)
OTHER = archive(member("other", data=b"two\n"))


class House(houses.House):
    """With something to add, if nothing else is said."""

    def add(self, name: str | None, data: bytes = ROOTFS, config: ImageConfig | None = None) -> Image:
        return super().add(name, data, config)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path)
    try:
        yield house
        house.check()
    finally:
        house.snapshots.close()


def test_an_import_makes_an_image_of_one_layer(house: House) -> None:
    config = ImageConfig(cmd=("sh",), env=("A=1",), labels={"a": "b"}, exposed_ports=("80/tcp",))
    events: list[ProgressEvent] = []
    image = house.store.import_rootfs(io.BytesIO(ROOTFS), "web:1", config, events.append, comment="by hand")
    assert image.references == ("docker.io/library/web:1",)
    assert image.name == "web:1"
    assert image.config == {
        "Cmd": ["sh"], "Env": ["A=1"], "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}},
    }  # fmt: skip
    assert image.diff_ids == (f"sha256:{hashlib.sha256(ROOTFS).hexdigest()}",)
    assert image.chain_id == image.diff_ids[0]
    assert (image.architecture, image.os) == (host_architecture(), "linux")
    assert image.history[0]["comment"] == "by hand"
    assert image.size > 0
    rootfs = house.snapshots.prepare("container", image.chain_id)
    assert (rootfs.lower[0] / "etc/name").read_text() == "one\n"
    assert events[-1].step == "import"
    assert events[-1].current == len(ROOTFS)
    view = image.view()
    assert view["references"] == ["web:1"]
    assert view["created_at"].endswith("Z")
    assert view["layers"] == list(image.diff_ids)
    house.snapshots.remove("container")


def test_the_layout_is_what_other_tools_read(house: House) -> None:
    image = house.add("me/web:1")
    index = json.loads((house.root / "images/index.json").read_text())
    (entry,) = index["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "docker.io/me/web:1"}
    manifest = json.loads((house.root / "images/blobs/sha256" / entry["digest"][7:]).read_text())
    assert manifest["config"]["digest"] == image.id
    assert manifest["layers"][0]["mediaType"] == "application/vnd.oci.image.layer.v1.tar"
    config = json.loads((house.root / "images/blobs/sha256" / image.id[7:]).read_text())
    assert config["rootfs"] == {"type": "layers", "diff_ids": list(image.diff_ids)}
    assert config["os"] == "linux"


@pytest.mark.parametrize(
    ("pack", "suffix", "kept"),
    [(gzip.compress, "+gzip", True), (bz2.compress, "+gzip", False), (bytes, "", True)],
)
def test_packed_archives(house: House, pack: object, suffix: str, kept: bool) -> None:
    data = pack(ROOTFS)  # type: ignore[operator]
    image = house.add("web", data)
    manifest = json.loads((house.root / "images/blobs/sha256" / image.manifest_digest[7:]).read_text())
    (layer,) = manifest["layers"]
    assert layer["mediaType"] == f"application/vnd.oci.image.layer.v1.tar{suffix}"
    assert image.diff_ids == (f"sha256:{hashlib.sha256(ROOTFS).hexdigest()}",)
    assert (layer["digest"] == f"sha256:{hashlib.sha256(data).hexdigest()}") is kept


def test_a_directory_is_imported(house: House, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "etc").mkdir(parents=True)
    (source / "etc/name").write_text("from a directory")
    image = house.store.import_rootfs(source, "dir")
    layer = house.snapshots.prepare("c", image.chain_id).lower[0]
    assert (layer / "etc/name").read_text() == "from a directory"
    house.snapshots.remove("c")
    assert house.store.import_rootfs(source, "dir").id == image.id
    with pytest.raises(InvalidSpec, match=r"the agent's own images"):
        house.store.import_rootfs(house.root)


def test_the_same_import_twice_is_one_image(house: House, tmp_path: Path) -> None:
    first = house.add("web")
    again = house.add("web")
    assert again == first
    assert house.add(None).id == first.id
    assert house.add("web", gzip.compress(ROOTFS)).id == first.id
    named = house.add("other")
    assert named.id == first.id
    assert named.references == ("docker.io/library/other:latest", "docker.io/library/web:latest")
    different = house.add("web", config=ImageConfig(cmd=("x",)))
    assert different.id != first.id
    assert different.diff_ids == first.diff_ids
    assert len(house.store.list()) == 2


def test_everything_is_there_after_opening_again(house: House) -> None:
    house.add("web:1", config=ImageConfig(cmd=("a",)))
    house.add("web:2", OTHER)
    house.store.tag("web:1", "quay.example/me/web:v1")
    house.add(None, ROOTFS, ImageConfig(user="nameless"))
    before = house.store.list()
    house.reopen()
    assert set(house.store.list()) == set(before)
    assert house.store.get("quay.example/me/web:v1").config == {"Cmd": ["a"]}


def test_a_name_that_moves_leaves_its_old_image_nameless(house: House) -> None:
    old = house.add("web")
    new = house.add("web", OTHER)
    assert house.store.get("web") == new
    assert house.store.get(old.id).references == ()
    assert house.store.get(old.id).name == old.id[7:19]
    house.reopen()
    assert house.store.get(old.id).references == ()
    assert house.store.prune() == Removed((), (old.id,))
    assert house.store.prune() == Removed((), ())
    with pytest.raises(NotFound):
        house.store.get(old.id)


def test_removal_by_name_and_by_id(house: House) -> None:
    image = house.add("web:1")
    house.store.tag("web:1", "web:2")
    assert house.store.remove("web:1") == Removed(("docker.io/library/web:1",), ())
    house.store.tag("web:2", "web:3")
    with pytest.raises(Conflict, match=r"web:2, web:3.*by name or with force"):
        house.store.remove(image.id)
    removed = house.store.remove(image.id, force=True)
    assert removed == Removed(("docker.io/library/web:2", "docker.io/library/web:3"), (image.id,))
    assert house.blobs() == set()
    with pytest.raises(NotFound, match="web:2"):
        house.store.remove("web:2")


def test_layers_that_another_image_needs_stay(house: House) -> None:
    house.add("one", config=ImageConfig(cmd=("1",)))
    two = house.add("two", config=ImageConfig(cmd=("2",)))
    house.store.remove("one")
    assert two.chain_id is not None
    assert house.store.ensure_unpacked(two) == two.chain_id
    house.store.remove("two")
    assert house.snapshots.list() == ()


def test_an_image_in_use_is_not_deleted(house: House) -> None:
    image = house.add("web")
    house.used = {image.id}
    with pytest.raises(Conflict, match=r"web:latest.*in use"):
        house.store.remove("web")
    assert house.store.remove("web", force=True) == Removed(("docker.io/library/web:latest",), ())
    with pytest.raises(Conflict, match="in use"):
        house.store.remove(image.id, force=True)
    assert house.store.prune() == Removed((), ())
    house.used = set()
    assert house.store.prune() == Removed((), (image.id,))


def test_a_layer_under_a_container_goes_after_it(house: House) -> None:
    image = house.add("web")
    rootfs = house.snapshots.prepare("container", image.chain_id)
    house.store.remove("web")
    assert (rootfs.lower[0] / "etc/name").exists()
    house.snapshots.remove("container")
    house.reopen()
    assert house.snapshots.list() == ()


def test_names_are_checked_before_anything_is_read(house: House) -> None:
    with pytest.raises(InvalidSpec, match="lower case"):
        house.add("Web")
    with pytest.raises(InvalidSpec, match="digest"):
        house.add(f"web@sha256:{'0' * 64}")
    house.add("web")
    with pytest.raises(InvalidSpec, match="tag"):
        house.store.tag("web", "web:-")
    with pytest.raises(NotFound, match="nothing"):
        house.store.tag("nothing", "web:2")


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (b"no archive at all" * 100, "octal|checksum"),
        (ROOTFS[:700], "truncated"),
        (gzip.compress(ROOTFS)[:-9], "gzip"),
        (archive(member("../../etc/passwd")), "leads out"),
        (archive(member("x", data=b"1" * 5000)), "limit"),
    ],
)
def test_a_bad_archive_leaves_nothing(house: House, data: bytes, what: str) -> None:
    with pytest.raises(InvalidSpec, match=f"import from a stream: .*({what})"):
        house.store.import_rootfs(io.BytesIO(data), "web", limits=Limits(stream_bytes=len(ROOTFS)))
    assert house.blobs() == set()
    assert house.snapshots.list() == ()
    with pytest.raises(NotFound):
        house.store.get("web")


def test_a_path_that_is_not_there_is_named(house: House, tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"absent\.tar: it cannot be opened: No such file"):
        house.store.import_rootfs(tmp_path / "absent.tar")


def test_a_source_that_fails_is_named(house: House) -> None:
    class Failing(io.RawIOBase):
        def read(self, size: int = -1) -> bytes:
            raise OSError(5, "Input/output error")

    with pytest.raises(Unavailable, match="import from a stream cannot be read: Input/output error"):
        house.store.import_rootfs(Failing())  # type: ignore[arg-type]
    assert house.snapshots.list() == ()


def test_the_architecture_is_found_in_the_archive(house: House) -> None:
    def elf(machine: int) -> bytes:
        return (
            b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + b"\x02\x00" + machine.to_bytes(2, "little") + bytes(44)
        )

    arm = house.add(
        "arm", archive(link("bin", "usr/bin"), directory("usr/bin"), member("usr/bin/sh", data=elf(183)))
    )
    assert arm.architecture == "arm64"
    amd = house.add(
        "amd", archive(directory("bin"), member("bin/busybox", data=elf(62)), link("bin/sh", "busybox"))
    )
    assert amd.architecture == "amd64"
    given = house.store.import_rootfs(
        io.BytesIO(OTHER), "win", architecture="amd64", operating_system="windows"
    )
    assert (given.os, given.architecture) == ("windows", "amd64")


def test_layers_that_are_gone_are_unpacked_again(house: House) -> None:
    image = house.add("web", gzip.compress(ROOTFS))
    assert image.chain_id is not None
    house.snapshots.remove(image.chain_id)
    house.reopen()
    image = house.store.get("web")
    assert house.store.ensure_unpacked(image) == image.chain_id
    rootfs = house.snapshots.prepare("container", image.chain_id)
    assert (rootfs.lower[0] / "etc/name").read_text() == "one\n"
    house.snapshots.remove("container")


def test_layers_that_a_power_failure_may_have_taken_are_unpacked_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = house.add("web", gzip.compress(ROOTFS))
    assert image.chain_id is not None
    (house.snapshots.prepare("c", image.chain_id).lower[0] / "etc/name").write_text("")
    house.snapshots.remove("c")
    monkeypatch.setattr(recorded, "boot_id", lambda: "another")
    house.reopen()
    rootfs = house.snapshots.prepare("c", house.store.ensure_unpacked(house.store.get("web")))
    assert (rootfs.lower[0] / "etc/name").read_text() == "one\n"
    house.snapshots.remove("c")


def test_damage_is_told_by_name(house: House) -> None:
    image = house.add("web")
    house.add("fine", OTHER)
    path = house.root / "images/blobs/sha256" / image.id[7:]
    path.write_bytes(path.read_bytes().replace(b"linux", b"lunix"))
    house.reopen()
    with pytest.raises(Unavailable, match=r"web:latest is damaged"):
        house.store.get("web")
    assert house.store.get("fine").name == "fine:latest"
    assert house.add("web").id != image.id
    assert house.store.get("web").name == "web:latest"


def test_a_damaged_index_is_named(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.add("web")
    house.snapshots.close()
    (tmp_path / "images/index.json").write_text("{")
    with pytest.raises(Unavailable, match=r"index\.json is no index of images"):
        House(tmp_path)


def test_a_damaged_layer_is_not_unpacked(house: House) -> None:
    image = house.add("web")
    assert image.chain_id is not None
    house.snapshots.remove(image.chain_id)
    layer = house.root / "images/blobs/sha256" / image.diff_ids[0][7:]
    good = layer.read_bytes()
    layer.write_bytes(good.replace(b"one\n", b"One\n"))
    with pytest.raises(Unavailable, match="damaged"):
        house.store.ensure_unpacked(image)
    assert house.snapshots.list() == ()
    layer.write_bytes(good)
    assert house.store.ensure_unpacked(image) == image.chain_id


def test_many_threads_at_once(house: House) -> None:
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for number in range(4):
                data = archive(member("file", data=b"%d" % (number % 2)))
                image = house.add(f"w{worker}:{number}", data)
                assert house.store.get(f"w{worker}:{number}").id == image.id
                if number % 2:
                    house.store.remove(f"w{worker}:{number}")
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    (image,) = house.store.list()
    assert len(image.references) == 10


def test_a_full_disk_leaves_what_was_there(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    image = house.add("web")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("mooring_agent.images.content.ContentStore._replace", full)
        with pytest.raises(Unavailable, match="No space left"):
            house.add("web", OTHER)
        with pytest.raises(Unavailable, match="No space left"):
            house.add("other")
    assert house.store.get("web") == image
    assert len(house.store.list()) == 1
    house.add("web", OTHER)


_KILLED = """
import io, os, signal, sys
from pathlib import Path
from mooring_agent.images import content, ingest, layers, state, store
from mooring_agent.storage.overlay import OverlaySnapshotter

root, where, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
archives = [Path(name).read_bytes() for name in sys.argv[4:6]]
snapshots = OverlaySnapshotter(root / "overlay")
images = store.ImageStore(root / "images", snapshots)
images.import_rootfs(io.BytesIO(archives[0]), "web")
owner, name = {
    "write": (layers._Unpacking, "add"),
    "finish": (content.BlobWriter, "finish"),
    "move": (content.BlobWriter, "move"),
    "commit": (OverlaySnapshotter, "commit"),
    "index": (content.ContentStore, "_replace"),
    "collect": (state.StoreState, "collect"),
    "discard": (content.ContentStore, "remove"),
}[where.split("-")[1]]
original = getattr(owner, name)

def fatal(*arguments, **options):
    global count
    count -= 1
    if count == 0 and where.startswith("before"):
        os.kill(os.getpid(), signal.SIGKILL)
    result = original(*arguments, **options)
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(owner, name, fatal)
images.import_rootfs(io.BytesIO(archives[1]), "web")
images.prune()
"""


@pytest.mark.parametrize(
    ("where", "count"),
    [
        ("before-write", 1), ("after-write", 1),
        ("before-finish", 1), ("after-finish", 1), ("before-finish", 2), ("after-finish", 3),
        ("before-move", 1), ("after-move", 1), ("after-move", 2), ("after-move", 3),
        ("before-commit", 1), ("after-commit", 1),
        ("before-index", 1), ("after-index", 1), ("after-index", 2),
        ("before-collect", 1), ("after-collect", 1), ("before-collect", 2),
        ("before-discard", 1), ("after-discard", 1), ("after-discard", 2),
    ],
)  # fmt: skip
def test_a_kill_leaves_an_image_wholly_or_not_at_all(tmp_path: Path, where: str, count: int) -> None:
    (tmp_path / "one.tar").write_bytes(ROOTFS)
    (tmp_path / "two.tar").write_bytes(OTHER)
    root = tmp_path / "root"
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            _KILLED,
            str(root),
            where,
            str(count),
            str(tmp_path / "one.tar"),
            str(tmp_path / "two.tar"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    house = House(root)
    try:
        house.check()
        image = house.store.get("web")
        layer = house.snapshots.prepare("container", house.store.ensure_unpacked(image)).lower[0]
        assert (layer / "etc/name").exists() != (layer / "other").exists()
        house.snapshots.remove("container")
        assert house.add("web", OTHER).references == ("docker.io/library/web:latest",)
        house.check()
    finally:
        house.snapshots.close()


def test_an_import_that_nobody_wants_any_more_leaves_nothing(house: House) -> None:
    cancelled = threading.Event()
    told: list[ProgressEvent] = []

    def tell(event: ProgressEvent) -> None:
        told.append(event)
        cancelled.set()

    source = house.root / "rootfs.tar"
    source.write_bytes(archive(*(member(f"file-{number}", data=bytes(100_000)) for number in range(20))))
    with pytest.raises(Cancelled, match=f"import of {source}"):
        house.store.import_rootfs(source, "web", progress=tell, cancelled=cancelled)
    assert told
    assert house.store.list() == ()


def test_layers_are_not_unpacked_for_a_work_that_has_ended(house: House) -> None:
    image = house.add("web", archive(member("a", data=b"1")))
    assert image.chain_id is not None
    house.snapshots.remove(image.chain_id)
    state, cancelled = house.store.state, threading.Event()
    whole = Stop("the build", cancelled)
    cancelled.set()
    with pytest.raises(Cancelled, match="the build"):
        ensure_layers(state, state.holdings.of_image(image.id)[-1], within=whole)
    assert house.snapshots.list() == ()
    ensure_layers(state, state.holdings.of_image(image.id)[-1])
