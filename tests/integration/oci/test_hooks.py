# SPDX-License-Identifier: Apache-2.0
"""Hooks: their order, what they are told, and what comes of those that fail."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from .conftest import Oci

pytestmark = pytest.mark.root

_INSIDE = ("startContainer",)
_ORDER = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "process",
    "poststart",
    "poststop",
]


def _noting(kind: str, file: Path) -> dict[str, Any]:
    """A hook that appends its kind and what it is told; those in the container write to the same directory,
    which is mounted there.
    """
    place = f"/shared/{file.name}" if kind in _INSIDE else str(file)
    shell = "/bin/sh"
    return {
        "path": shell,
        # In one write: the process notes something beside the poststart hook.
        "args": [shell, "-c", f"""told=$(cat); printf '%s %s\\n' {kind} "$told" >> {place}"""],
    }


def test_all_kinds_run_in_order_with_the_state_on_their_input(oci: Oci, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    notes = shared / "notes"

    def with_hooks(config: dict[str, Any]) -> None:
        config["hooks"] = {kind: [_noting(kind, notes)] for kind in _ORDER if kind != "process"}
        config["annotations"] = {"colour": "red"}
        config["mounts"].append({"destination": "/shared", "source": str(shared), "options": ["bind", "rw"]})

    (oci.rootfs / "shared").mkdir(exist_ok=True)
    bundle = oci.bundle("sh", "-c", "echo process >> /shared/notes; sleep 0.3", change=with_hooks)
    oci.quiet("create", "-b", bundle, oci.id())
    pid = oci.state(oci.id())["pid"]
    oci.ok("start", oci.id())
    oci.await_status(oci.id(), "stopped")
    oci.ok("delete", oci.id())
    lines = [line.partition(" ") for line in notes.read_text().splitlines() if line]
    # The process runs beside the poststart hook.
    seen = [name for name, _, _ in lines]
    assert [name for name in seen if name != "process"] == [name for name in _ORDER if name != "process"]
    assert seen.index("process") in (4, 5)
    told = {name: json.loads(state) for name, _, state in lines if state}
    assert {state["id"] for state in told.values()} == {oci.id()}
    assert {state["bundle"] for state in told.values()} == {bundle}
    assert told["prestart"]["annotations"] == {"colour": "red"}
    statuses = [(told[name]["status"], told[name].get("pid")) for name in _ORDER if name != "process"]
    assert statuses == [
        ("creating", pid),
        ("creating", pid),
        ("creating", 1),
        ("created", 1),
        ("running", pid),
        ("stopped", None),
    ]


def test_createContainer_sees_the_mounts_below_the_bundle_and_its_own_environment(
    oci: Oci, tmp_path: Path
) -> None:
    hook = {
        "path": "/bin/sh",
        "args": [
            "/bin/sh",
            "-c",
            f"test $COLOUR = red && test -e {oci.rootfs}/proc/self && pwd > {tmp_path}/pwd",
        ],
        "env": ["COLOUR=red"],
    }
    bundle = oci.bundle("true", change=lambda config: config.update(hooks={"createContainer": [hook]}))
    oci.ok("run", "-b", bundle, oci.id())
    assert (tmp_path / "pwd").read_text().strip() == bundle


@pytest.mark.parametrize(
    "kind", ["prestart", "createRuntime", "createContainer", "startContainer", "poststart"]
)
def test_a_failure_ends_the_container_and_leaves_nothing_but_poststop(
    oci: Oci, tmp_path: Path, kind: str
) -> None:
    failing = {"path": "/bin/sh", "args": ["/bin/sh", "-c", "echo because >&2; exit 3"]}
    after = {"path": "/bin/touch", "args": ["touch", str(tmp_path / "stopped")]}
    hooks = {kind: [failing], "poststop": [after]}
    answer = oci("run", "-b", oci.bundle("true", change=lambda config: config.update(hooks=hooks)), oci.id())
    assert answer.returncode == 1
    assert f"{kind} hook failed with exit code 3" in answer.stderr
    assert "because" in answer.stderr
    assert (tmp_path / "stopped").exists()
    assert oci.remains() == []


def test_a_hook_has_its_time_and_no_more(oci: Oci) -> None:
    hook = {"path": "/bin/sleep", "args": ["sleep", "50"], "timeout": 1}
    bundle = oci.bundle("true", change=lambda config: config.update(hooks={"createRuntime": [hook]}))
    assert "timeout of 1 s" in oci("run", "-b", bundle, oci.id()).stderr


def test_poststop_hooks_that_fail_keep_nothing_back(oci: Oci, tmp_path: Path) -> None:
    hooks = [{"path": "/bin/false"}, {"path": "/bin/touch", "args": ["touch", str(tmp_path / "second")]}]
    bundle = oci.bundle("true", change=lambda config: config.update(hooks={"poststop": hooks}))
    answer = oci("run", "-b", bundle, oci.id())
    assert answer.returncode == 0
    assert "poststop hook failed with exit code 1" in answer.stderr
    assert (tmp_path / "second").exists()
