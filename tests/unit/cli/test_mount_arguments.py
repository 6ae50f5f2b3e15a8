# SPDX-License-Identifier: Apache-2.0
"""`mooring run --mount` becomes what a container is declared with."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mooring_agent.api.docker.convert import convert
from mooring_agent.cli.arguments import parser
from mooring_agent.cli.mountarguments import mounts
from mooring_agent.cli.run import _body
from mooring_agent.errors import InvalidSpec


def volumes(*mount: str) -> list[dict[str, Any]]:
    words = [word for one in mount for word in ("--mount", one)]
    spec = convert(_body(parser().parse_args(["run", *words, "busybox"]))).spec
    return spec["volumes"]


@pytest.mark.parametrize(
    ("said", "volume"),
    [
        (
            "type=image,source=busybox:1,target=/i,image-subpath=bin",
            {"type": "image", "source": "busybox:1", "target": "/i", "subpath": "bin"},
        ),
        ("source=data,dst=/d,ro", {"type": "volume", "source": "data", "target": "/d", "read_only": True}),
        (
            "type=volume,src=data,target=/d,volume-nocopy,volume-subpath=a/b,readonly=false",
            {"type": "volume", "source": "data", "target": "/d", "nocopy": True, "subpath": "a/b"},
        ),
        (
            "type=bind,source=.,destination=/d,bind-propagation=rslave",
            {"type": "bind", "source": os.getcwd(), "target": "/d", "propagation": "rslave"},
        ),
        (
            "type=tmpfs,target=/t,tmpfs-size=1m,tmpfs-mode=1770",
            {"type": "tmpfs", "target": "/t", "size": 1 << 20, "options": ["mode=1770"]},
        ),
        (
            'source=data,target=/d,"volume-opt=o=addr=h,rw",volume-opt=type=nfs,volume-opt=device=:/d',
            {"type": "volume", "source": "data", "target": "/d"},
        ),
    ],
)
def test_a_mount_is_what_was_said(said: str, volume: dict[str, Any]) -> None:
    assert volumes(said) == [volume]


def test_options_of_a_driver_are_of_the_volume_that_is_made() -> None:
    (mount,) = mounts(['source=data,target=/d,volume-driver=local,"volume-opt=o=addr=h,rw"'])
    assert mount["VolumeOptions"] == {"DriverConfig": {"Name": "local", "Options": {"o": "addr=h,rw"}}}


@pytest.mark.parametrize(
    "said",
    ["type", "colour=blue", "target=/t,readonly=maybe", "type=tmpfs,tmpfs-mode=9", "volume-opt=x", '"target'],
)
def test_what_is_no_mount_is_refused_with_what_was_said(said: str) -> None:
    with pytest.raises(InvalidSpec, match=r"--mount"):
        mounts([said])


@given(st.text(alphabet='=,"/.-abctypesourcetarget0', max_size=40))
def test_any_text_is_a_mount_or_an_error(said: str) -> None:
    try:
        mounts([said])
    except InvalidSpec as error:
        assert "--mount" in error.message  # noqa: PT017 (either is right)
