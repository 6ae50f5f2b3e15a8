# SPDX-License-Identifier: Apache-2.0
"""What Docker's clients say of volumes, images and layers becomes what is declared, or is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from mooring_agent.api.docker.convert import convert
from mooring_agent.engine.resources import ContainerSpec
from mooring_agent.errors import InvalidSpec, MooringError, NotSupported


def converted(**host: Any) -> Any:
    found = convert({"Image": "web", "HostConfig": host})
    ContainerSpec.parse(found.spec, name="web")
    return found


@pytest.mark.parametrize(
    ("given", "volume"),
    [
        ("size=50%", {"size": "50%"}),
        ("size=1g,ro", {"size": 1 << 30, "read_only": True}),
        (
            "nr_inodes=1k,mode=700,uid=5,gid=6",
            {"options": ["nr_inodes=1k", "mode=700", "uid=5", "gid=6"]},
        ),
    ],
)
def test_options_of_a_tmpfs(given: str, volume: dict[str, Any]) -> None:
    assert converted(Tmpfs={"/t": given}).spec["volumes"] == [{"type": "tmpfs", "target": "/t", **volume}]


@pytest.mark.parametrize("given", ["size=%", "size=1.5%", "size=99999%", "size=-5%", "size=lots"])
def test_a_size_that_is_none_is_refused(given: str) -> None:
    with pytest.raises(InvalidSpec, match="size"):
        converted(Tmpfs={"/t": given})


def test_an_image_is_mounted_whole_or_in_part() -> None:
    mounts = [
        {"Type": "image", "Source": "tools:2", "Target": "/a", "ReadOnly": True, "ImageOptions": {}},
        {"Type": "image", "Source": "tools:2", "Target": "/b", "ImageOptions": {"Subpath": "bin/x"}},
    ]
    assert converted(Mounts=mounts).spec["volumes"] == [
        {"type": "image", "source": "tools:2", "target": "/a", "read_only": True},
        {"type": "image", "source": "tools:2", "target": "/b", "subpath": "bin/x"},
    ]


def test_a_volume_is_made_with_its_labels_and_the_options_of_its_driver() -> None:
    options = {"type": "nfs", "o": "addr=h", "device": ":/srv"}
    mount = {
        "Type": "volume",
        "Source": "data",
        "Target": "/d",
        "VolumeOptions": {"Labels": {"a": "b"}, "DriverConfig": {"Name": "local", "Options": options}},
    }
    found = converted(Mounts=[mount])
    assert found.volume_specs == {"data": {"labels": {"a": "b"}, "driver_opts": options}}
    assert found.spec["volumes"] == [{"type": "volume", "source": "data", "target": "/d"}]


def test_the_size_of_a_layer_is_shown_as_it_was_given() -> None:
    found = converted(StorageOpt={"size": "1.5G"})
    assert found.spec["storage_size"] == 3 << 29
    assert found.extra["StorageOpt"] == {"size": "1.5G"}


@pytest.mark.parametrize(
    ("host", "error", "words"),
    [
        ({"Mounts": [{"Type": "image", "Target": "/a"}]}, InvalidSpec, "give the image to mount"),
        (
            {"Mounts": [{"Type": "image", "Source": "a b", "Target": "/a"}]},
            InvalidSpec,
            "expected the name of an image",
        ),
        (
            {"Mounts": [{"Type": "image", "Source": "a", "Target": "/a", "ImageOptions": {"X": 1}}]},
            NotSupported,
            "ImageOptions.X",
        ),
        (
            {"Mounts": [{"Type": "image", "Source": "a", "Target": "/a", "ImageOptions": {"Subpath": "/b"}}]},
            InvalidSpec,
            "subpath",
        ),
        (
            {"Mounts": [{"Type": "bind", "Source": "/a", "Target": "/a", "ImageOptions": {"Subpath": "b"}}]},
            InvalidSpec,
            "subpath",
        ),
        ({"StorageOpt": {"size": "big"}}, InvalidSpec, "StorageOpt.size"),
        ({"StorageOpt": {"dm.basesize": "1g"}}, NotSupported, "StorageOpt.dm.basesize"),
        (
            {
                "Mounts": [
                    {
                        "Type": "volume",
                        "Target": "/a",
                        "VolumeOptions": {"DriverConfig": {"Options": {"type": "tmpfs", "device": "x"}}},
                    }
                ]
            },
            NotSupported,
            "name the volume",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(
    host: dict[str, Any], error: type[MooringError], words: str
) -> None:
    with pytest.raises(error, match=words):
        converted(**host)
