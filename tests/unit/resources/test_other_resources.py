# SPDX-License-Identifier: Apache-2.0
"""Networks, volumes, cgroups, names and the document of a whole host."""

from __future__ import annotations

from typing import Any

import pytest

from mooring_agent.engine.resources import (
    CgroupSpec,
    Item,
    NetworkSpec,
    VolumeSpec,
    check_name,
    compare,
    order,
    phases,
    signal_number,
)
from mooring_agent.errors import InvalidSpec


@pytest.mark.parametrize("name", ["web1", "a.b-c_d", "0x", "W" * 128])
def test_names(name: str) -> None:
    assert check_name("container", name) == name


@pytest.mark.parametrize(
    "name", ["", "a", "a/b", "-web", ".web", "web 1", "wéb", "W" * 129, "web\n", None, 12]
)
def test_a_bad_name_is_refused_with_what_was_expected(name: object) -> None:
    with pytest.raises(InvalidSpec, match=r"the name of a container is .*, expected 2 to 128 letters"):
        check_name("container", name)


def test_a_cgroup_changes_live() -> None:
    stored = CgroupSpec.parse({"memory": "64m", "pids_limit": 10}, name="batch")
    wanted = CgroupSpec.parse({"memory": 134217728, "cpus": 2}, name="batch")

    assert [str(change) for change in compare(stored, wanted)] == [
        "memory 64m → 128m, live",
        "cpus unset → 2, live",
        "pids_limit 10 → unset, live",
    ]


def test_a_network_checks_keys_and_types() -> None:
    assert NetworkSpec.parse({"subnet": "10.9.0.0/24", "nat": "no"}).given == {
        "subnet": "10.9.0.0/24",
        "nat": False,
    }
    with pytest.raises(InvalidSpec, match='network web has no option "subnett"; did you mean "subnet"'):
        NetworkSpec.parse({"subnett": "10.9.0.0/24"}, name="web")
    with pytest.raises(InvalidSpec, match=r"driver is .*, expected one of bridge"):
        NetworkSpec.parse({"driver": "ipvlan"}, name="web")


def test_a_volume_has_labels() -> None:
    assert VolumeSpec.parse({"labels": ["a=1"]}).given == {"labels": {"a": "1"}}
    assert VolumeSpec.parse({}).hash == VolumeSpec.parse({"labels": None}).hash


@pytest.mark.parametrize(("name", "number"), [("TERM", 15), ("SIGKILL", 9), ("2", 2), ("rtmin+3", 37)])
def test_signals(name: str, number: int) -> None:
    assert signal_number(name) == number


def test_a_document_is_put_into_the_order_of_dependencies() -> None:
    document: dict[str, Any] = {
        "containers": {"web1": {"image": "busybox"}},
        "volumes": {"data": None},
        "images": {"busybox": {"template": "busybox"}},
        "networks": {},
        "cgroups": None,
    }

    items = order(document)

    assert items == (
        Item("image", "busybox", {"template": "busybox"}),
        Item("volume", "data", {}),
        Item("container", "web1", {"image": "busybox"}),
    )
    assert [[item.name for item in phase] for phase in phases(items)] == [["busybox", "data"], ["web1"]]
    assert phases(()) == ()


def test_containers_come_after_those_that_they_join() -> None:
    items = order(
        {
            "containers": {
                "a": {"pid": "container:b"},
                "b": {"networks": [{"name": "container:c"}]},
                "c": {"ipc": "container:elsewhere", "networks": "bridge"},
                "d": {"networks": ["container:d"]},
                "x": {"pid": "container:y"},
                "y": {"pid": "container:x"},
            }
        }
    )
    assert [[item.name for item in phase] for phase in phases(items)] == [
        ["c", "d"],
        ["b"],
        ["a"],
        ["x", "y"],
    ]


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ([], "the state is [], expected a mapping"),
        ({"container": {}}, 'the state has no section "container"; did you mean "containers"?'),
        ({"containers": []}, "the state's containers is [], expected a mapping of names to specs"),
        (
            {"containers": {"web1": "busybox"}},
            'the state\'s containers.web1 is "busybox", expected a mapping',
        ),
        (
            {"containers": {1: {}}},
            "a name in the state's containers is 1, expected a string: put it in quotes",
        ),
    ],
)
def test_a_document_of_another_shape_is_refused(document: object, sentence: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        order(document)
    assert sentence in caught.value.message
