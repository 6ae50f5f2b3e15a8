# SPDX-License-Identifier: Apache-2.0
"""What a launcher is sent: shorter by what has its default, and the same when it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mooring_agent.errors import InvalidSpec, NotFound
from mooring_agent.oci import bundles
from mooring_agent.oci.spec import template
from mooring_agent.runtime.mounts import BindRoot
from mooring_agent.runtime.plan import Hook, JoinPlan, LaunchPlan, Process


def _bundle(base: Path, config: dict[str, Any]) -> str:
    (base / "rootfs").mkdir(exist_ok=True)
    (base / "config.json").write_text(json.dumps(config))
    return str(base)


def test_a_plan_is_read_as_it_was_written_and_says_nothing_twice(tmp_path: Path) -> None:
    config = template(rootless=False)
    config["process"]["terminal"] = False
    config["hooks"] = {"createContainer": [{"path": "/bin/true", "args": ["true"], "timeout": 3}]}
    bundle = bundles.load(_bundle(tmp_path, config), "config.json")
    plan, shape = bundle.compile(
        id="x", preserve_fds=2, pivot=False, new_keyring=True, listener=5, state="{}", enter=("/g/tasks",)
    )
    assert LaunchPlan.decode(plan.encode()) == plan
    assert (plan.create_container, plan.pivot, plan.process.preserve_fds) == (
        (Hook("/bin/true", ("true",), None, 3),),
        False,
        2,
    )
    assert (shape.place, shape.enter) == (str(tmp_path / "rootfs"), ("/g/tasks",))
    shortest = LaunchPlan(id="x", group="", root=BindRoot("/r"), process=Process(("a",), ()))
    assert json.loads(shortest.encode()) == {
        "id": "x",
        "group": "",
        "root": {"op": "BindRoot", "source": "/r"},
        "process": {"args": ["a"], "env": []},
    }
    join = JoinPlan(pid=1, start_time=2, groups=(), process=Process(("a",), ()), namespaces=("mnt",))
    assert JoinPlan.decode(join.encode()) == join


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"root": None}, "root"),
        ({"root": {"path": "absent"}}, "absent"),
        ({"ociVersion": "2.0.0"}, "ociVersion"),
        ({"process": {"args": [], "cwd": "/"}}, "args"),
        ({"process": {"args": ["x"], "cwd": "here"}}, "cwd"),
        ({"linux": {"namespaces": [{"type": "pid"}]}}, "mount namespace"),
        ({"linux": {"namespaces": [{"type": "moon"}]}}, "moon"),
    ],
)
def test_a_config_that_cannot_be_is_refused_by_name(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    with pytest.raises((InvalidSpec, NotFound), match=words):
        bundles.load(_bundle(tmp_path, {**template(rootless=False), **change}), "config.json")


def test_hooks_want_an_absolute_path() -> None:
    with pytest.raises(InvalidSpec, match="absolute"):
        bundles.hooks_of({"hooks": {"prestart": [{"path": "true"}]}}, "prestart")


def test_listening_descriptors_are_announced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "web")
    assert bundles.listen_environment(1) == ("LISTEN_FDS=1", "LISTEN_PID=1", "LISTEN_FDNAMES=web")
    monkeypatch.delenv("LISTEN_FDS")
    assert bundles.listen_environment(1) == ()
