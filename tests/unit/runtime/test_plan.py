# SPDX-License-Identifier: Apache-2.0
"""Plans travel as JSON: whatever can be in one comes out of it again."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.runtime import mounts
from mooring_agent.runtime.borrow import Borrow
from mooring_agent.runtime.plan import Capabilities, JoinPlan, LaunchPlan, Process, Shape

texts = st.text(max_size=12)
# Data that was bytes on the way to Python carries surrogates (PEP 383).
paths = st.text(st.characters(codec="utf-8"), max_size=12) | st.just(
    b"/caf\xe9".decode("utf-8", "surrogateescape")
)
numbers = st.integers(0, 2**64 - 1)
tuples = st.lists(texts, max_size=3).map(tuple)
settings = st.lists(st.tuples(st.integers(0, 12), texts, texts), max_size=3).map(tuple)

id_maps = st.lists(st.tuples(numbers, numbers, numbers), max_size=2).map(tuple)
roots = st.one_of(
    st.builds(
        mounts.Overlay, st.lists(paths, min_size=1, max_size=4).map(tuple), paths, paths, id_maps, id_maps
    ),
    st.builds(mounts.BindRoot, paths, id_maps, id_maps),
)
operations = st.one_of(
    st.builds(mounts.Filesystem, texts, texts, paths, numbers, texts),
    st.builds(
        mounts.Bind,
        paths,
        paths,
        *(numbers for _ in range(4)),
        st.booleans(),
        numbers,
        uid_map=id_maps,
        gid_map=id_maps,
    ),
    st.builds(mounts.Change, paths, *(numbers for _ in range(5))),
    st.builds(mounts.ControlGroups, paths, numbers, st.booleans()),
    st.builds(Borrow, paths, paths, paths),
    st.builds(mounts.Node, paths, numbers, numbers, st.integers(0, 0o777)),
    st.builds(mounts.Link, paths, paths),
    st.builds(mounts.Mask, st.lists(paths, max_size=4).map(tuple)),
    st.builds(mounts.ReadOnly, st.lists(paths, max_size=4).map(tuple)),
    st.builds(mounts.Seal, paths),
    st.builds(mounts.Directory, paths),
)
processes = st.builds(
    Process,
    args=tuples,
    env=tuples,
    cwd=paths,
    user=texts,
    additional_gids=st.lists(numbers, max_size=3).map(tuple),
    umask=st.none() | st.integers(0, 0o777),
    terminal=st.booleans(),
    console_size=st.tuples(numbers, numbers),
    capabilities=st.builds(Capabilities, numbers, numbers, numbers, numbers, numbers),
    rlimits=st.lists(st.tuples(numbers, numbers, numbers), max_size=3).map(tuple),
    no_new_privileges=st.booleans(),
    seccomp=st.none() | paths,
    oom_score_adj=st.none() | st.integers(-1000, 1000),
)


@given(
    st.builds(
        LaunchPlan,
        id=texts,
        group=texts,
        root=roots,
        process=processes,
        hostname=texts,
        group_settings=settings,
        join=st.lists(st.tuples(texts, paths), max_size=2).map(tuple),
        netlink=st.lists(st.binary(max_size=8).map(bytes.hex), max_size=2).map(tuple),
        sysctls=st.lists(st.tuples(texts, texts), max_size=2).map(tuple),
        mounts=st.lists(operations, max_size=6).map(tuple),
        read_only_root=st.booleans(),
    )
)
def test_a_launch_plan_comes_back_as_it_went(plan: LaunchPlan) -> None:
    assert LaunchPlan.decode(plan.encode()) == plan


@given(
    st.builds(
        JoinPlan, pid=numbers, start_time=numbers, groups=tuples, process=processes, unified=st.booleans()
    )
)
def test_a_join_plan_comes_back_as_it_went(plan: JoinPlan) -> None:
    assert JoinPlan.decode(plan.encode()) == plan


@given(st.builds(Shape, tuples, tuples, settings, st.booleans(), st.booleans(), numbers))
def test_a_shape_comes_back_as_it_went(shape: Shape) -> None:
    assert Shape.from_json(json.loads(json.dumps(vars(shape)))) == shape


@pytest.mark.parametrize("operation", mounts.OPERATIONS, ids=lambda kind: kind.__name__)
def test_every_operation_is_among_those_that_are_tried(operation: type[Any]) -> None:
    """A new operation has to be added to the strategies above."""
    known = {"Overlay", "BindRoot", "Filesystem", "Bind", "Change", "ControlGroups", "Node", "Link"}
    known |= {"Mask", "ReadOnly", "Seal", "Borrow", "Directory"}
    assert operation.__name__ in known


def test_equal_shapes_are_equal_after_the_wire() -> None:
    """The keeper compares the shape that it is asked for with that of its pool."""
    shape = Shape(("mnt", "pid"), ("/sys/fs/cgroup/pids/m",), ((0, "pids.max", "5"),))
    other = Shape.from_json(json.loads(json.dumps(vars(shape))))
    assert (other == shape, hash(other) == hash(shape)) == (True, True)


@pytest.mark.parametrize(
    "change",
    [
        {"namespaces": "mnt"},
        {"namespaces": (5,)},
        {"namespaces": ()},
        {"namespaces": ("pid",)},
        {"groups": ("\ud800",)},
        {"groups": ("a\0b",)},
        {"group_settings": (("0", "a", "b"),)},
        {"join": (("net",),)},
        {"unified": 1},
        {"shm_size": True},
    ],
    ids=str,
)
def test_a_shape_of_other_types_or_without_mounts_of_its_own_is_refused(change: dict[str, object]) -> None:
    Shape(("mnt",)).check()
    Shape((), join=(("mnt", "/proc/1/ns/mnt"),)).check()
    with pytest.raises((TypeError, ValueError)):
        Shape(**{"namespaces": ("mnt",), **change}).check()
