# SPDX-License-Identifier: Apache-2.0
"""What is done to a store in a process that a test has killed: `python store_works.py ROOT WORK`."""

from __future__ import annotations

import sys
from pathlib import Path

from unit.images.archives import in_pieces
from unit.images.houses import House
from unit.images.repositories import Repository, build, layer

NAME = "registry.example/me/web:1"
OTHER = "registry.example/me/other:1"
LAYERS = tuple(layer(number) for number in range(3))


def repository() -> Repository:
    found = Repository()
    found.add(build(*LAYERS), "1")
    return found


def prepare(house: House) -> None:
    """What is there before: another image, and a container of it that wrote something."""
    found = Repository()
    found.add(build(LAYERS[0], layer(9)), "1")
    image = house.store.pull(found, OTHER)
    upper = house.snapshots.prepare("container", image.chain_id).upper
    assert upper is not None
    (upper / "new").write_text("new")
    house.used.add(image.id)


def archive_of(root: Path) -> bytes:
    """The image as an archive, made in a store of its own."""
    house = House(root)
    house.store.pull(repository(), NAME)
    data = b"".join(house.store.save([NAME]))
    house.snapshots.close()
    return data


def work(house: House, what: str, archive: bytes) -> None:
    """Do one thing that makes or takes the image NAME."""
    if what == "pull":
        house.store.pull(repository(), NAME, parallel=1)  # fail points are counted by one thread at a time
    elif what == "load":
        house.store.load(in_pieces(archive))
    elif what == "import":
        house.add(NAME, LAYERS[2])
    elif what == "commit":
        house.store.commit("container", house.store.get(OTHER), NAME)
    elif what == "remove":
        house.store.pull(repository(), NAME)
        house.store.remove(NAME)
    else:
        house.store.pull(repository(), NAME)
        house.add(NAME, layer(5))
        house.store.prune()


if __name__ == "__main__":
    house = House(Path(sys.argv[1]))
    house.used.add(house.store.get(OTHER).id)
    work(house, sys.argv[2], Path(sys.argv[3]).read_bytes())
