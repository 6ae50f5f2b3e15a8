# SPDX-License-Identifier: Apache-2.0
"""The types of a config from outside."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mooring_agent.errors import InvalidSpec
from mooring_agent.oci.config_types import check_config, check_process

CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "process": {"args": ["sh"], "cwd": "/", "user": {"uid": 0, "gid": 0, "additionalGids": [1]}},
    "mounts": [{"destination": "/proc", "type": "proc", "options": ["nosuid"]}],
    "linux": {
        "namespaces": [{"type": "mount"}],
        "sysctl": {"net.ipv4.ip_forward": "1"},
        "timeOffsets": {"monotonic": {"secs": 1}},
        "resources": {"unified": {"memory.max": "1"}, "devices": [{"allow": True}]},
    },
}


def test_a_config_of_the_right_types_passes_and_nulls_are_absent() -> None:
    config = copy.deepcopy(CONFIG) | {"hooks": None, "org.example": {"anything": [1, None]}}
    config["process"]["capabilities"] = None
    config["linux"]["resources"]["memory"] = {"limit": None}
    check_config(config)
    assert "hooks" not in config
    assert config["linux"]["resources"]["memory"] == {}
    assert config["org.example"] == {"anything": [1, None]}


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        (("process",), [], r"config.process is \[\], expected an object"),
        (("process", "args"), "sh", r"config.process.args is 'sh', expected a list"),
        (("process", "args", 0), 5, r"config.process.args\[0\] is 5, expected a text"),
        (("process", "args", 0), "a\0b", r"args\[0\] has a NUL character"),
        (("process", "cwd"), "\ud800", r"cwd has half a surrogate pair"),
        (("process", "user", "uid"), True, r"uid is True, expected a whole number"),
        (("process", "user", "additionalGids", 0), "1", r"additionalGids\[0\] is '1', expected a whole"),
        (("mounts", 0), None, r"config.mounts\[0\] is None, expected an object"),
        (("linux", "sysctl", "net.ipv4.ip_forward"), 1, r"ip_forward is 1, expected a text"),
        (("linux", "timeOffsets", "monotonic", "secs"), 1.5, r"secs is 1.5, expected a whole number"),
        (("linux", "resources", "devices", 0, "allow"), 1, r"allow is 1, expected true or false"),
        (("root", "path"), "x" * 500 + "\0", r"config.root.path has a NUL"),
    ],
)
def test_another_type_is_named(path: tuple[Any, ...], value: Any, what: str) -> None:
    config = copy.deepcopy(CONFIG)
    place: Any = config
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InvalidSpec, match=what) as refused:
        check_config(config)
    assert len(refused.value.message) < 200


def test_a_process_alone() -> None:
    check_process(copy.deepcopy(CONFIG["process"]))
    with pytest.raises(InvalidSpec, match=r"process.env is 'A=b', expected a list"):
        check_process({"env": "A=b"})
