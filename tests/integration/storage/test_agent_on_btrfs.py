# SPDX-License-Identifier: Apache-2.0
"""Containers of an agent whose data root is on btrfs."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentFailed, AgentUnderTest
from integration.images.building import build, config_file, tree_of, unpack_image, write_context
from mooring_agent.storage.btrfs import BtrfsSnapshotter
from unit.storage.snapshotter_contract import changes_of

pytestmark = [pytest.mark.root, pytest.mark.kernel("btrfs")]


@pytest.fixture(scope="module")
def agent(btrfs_root: Path, request: pytest.FixtureRequest) -> Iterator[AgentUnderTest]:
    """An agent on btrfs, wholly gone before the file system is unmounted."""
    btrfs_root.chmod(0o755)
    btrfs_root.parent.chmod(0o755)
    agent = AgentUnderTest(user=request.node.nodeid, directory=btrfs_root)
    try:
        agent.start()
        agent.add_busybox_image()
        yield agent
    finally:
        agent.destroy()


def put(agent: AgentUnderTest, name: str, **spec: Any) -> dict[str, Any]:
    body = {"image": "busybox", "command": ["sleep", "600"], "stop_timeout": 0, **spec}
    result: dict[str, Any] = agent.api("PUT", f"/mooring/v1/containers/{name}", body)["result"]
    return result


def inside(agent: AgentUnderTest, name: str, line: str) -> str:
    done = agent.api("POST", f"/mooring/v1/containers/{name}/exec", {"argv": ["sh", "-c", line]})
    assert done["exit_code"] == 0, done
    return str(done["stdout"])


def test_the_driver_is_chosen_by_the_file_system_and_told(agent: AgentUnderTest) -> None:
    assert agent.api("GET", "/info")["Driver"] == "btrfs"
    assert agent.api("GET", "/mooring/v1/host")["storage_driver"] == "btrfs"
    view = put(agent, "told")
    assert agent.api("GET", f"/containers/{view['id']}/json")["GraphDriver"]["Name"] == "btrfs"
    assert not (agent.config.data_root / "overlay").exists()


def test_a_new_volume_begins_with_what_the_image_has(agent: AgentUnderTest) -> None:
    put(agent, "bare")
    put(agent, "filled", volumes=["programs:/bin"])
    place = agent.config.data_root / "volumes/programs"
    assert os.listdir(place) == ["_data"]
    assert sorted(os.listdir(place / "_data")) == sorted(inside(agent, "bare", "ls /bin").split())
    agent.api("DELETE", "/mooring/v1/containers/filled")
    agent.api("DELETE", "/mooring/v1/volumes/programs")


def test_containers_share_an_image_and_keep_what_they_write(agent: AgentUnderTest) -> None:
    put(agent, "one")
    put(agent, "other")
    inside(agent, "one", "echo mine >/note; rm /bin/vi")
    assert inside(agent, "one", "cat /note; test ! -e /bin/vi") == "mine\n"
    inside(agent, "other", "test -e /bin/vi && test ! -e /note")
    agent.api("POST", "/mooring/v1/containers/one/restart?timeout=0")
    assert inside(agent, "one", "cat /note") == "mine\n"


def test_layers_are_shared_by_containers_with_users_of_their_own(agent: AgentUnderTest) -> None:
    one, other = (put(agent, name, userns="auto") for name in ("mapped", "mapped-too"))
    assert abs(one["first_id"] - other["first_id"]) >= 65536
    for name in ("mapped", "mapped-too"):
        assert inside(agent, name, "stat -c '%u:%g' / /bin/busybox").split() == ["0:0"] * 2
        inside(agent, name, "echo kept >/mine; chown 1000:1000 /mine")
    found = list(agent.config.data_root.glob("btrfs/v/*/mine"))
    assert len(found) == 2
    for path in found:
        assert (path.stat().st_uid, path.stat().st_gid) == (1000, 1000)
        assert os.stat(path.parent / "bin/busybox").st_uid == 0


def test_only_what_a_container_writes_is_among_its_changes(agent: AgentUnderTest) -> None:
    silent, writer = (put(agent, name)["id"] for name in ("silent", "writer"))
    inside(agent, "writer", "echo mine >/note; echo more >/etc/more; rm /bin/vi")
    agent.api("POST", "/mooring/v1/containers/writer/restart?timeout=0")
    assert agent.terminate() == 0
    snapshots = BtrfsSnapshotter(agent.config.data_root / "btrfs")
    try:
        assert changes_of(snapshots, silent) == {}
        assert changes_of(snapshots, writer) == {
            "bin": "modified",
            "bin/vi": "deleted",
            "etc": "modified",
            "etc/more": "added",
            "note": "added",
        }
    finally:
        snapshots.close()
        agent.start()


def test_a_killed_agent_finds_its_snapshots_again(agent: AgentUnderTest) -> None:
    put(agent, "survivor")
    inside(agent, "survivor", "echo kept >/note")
    agent.kill9()
    agent.start()
    assert inside(agent, "survivor", "cat /note") == "kept\n"
    agent.api("DELETE", "/mooring/v1/containers/survivor?force=true")


def test_a_data_root_stays_with_its_driver(agent: AgentUnderTest) -> None:
    assert agent.terminate() == 0
    before = agent.arguments
    try:
        agent.arguments = ("--storage-driver", "overlay")
        with pytest.raises(
            AgentFailed, match="made with the storage driver btrfs and cannot be used with over"
        ):
            agent.start()
    finally:
        agent.arguments = before
        agent.start()


def test_builds_leave_what_commands_wrote_and_no_more(agent: AgentUnderTest, tmp_path: Path) -> None:
    dockerfile = """
FROM busybox AS one
COPY f /d/f
RUN --mount=type=cache,target=/lacking/c --mount=type=tmpfs,target=/t rm /bin/vi; echo x > /d/x; ln /d/x /d/y
RUN --mount=type=bind,from=busybox,target=/not/b,rw touch /not/b/z
FROM busybox
RUN --mount=from=one,target=/one cat /one/d/x > /x
COPY --from=one /d /d
"""
    context = write_context(tmp_path / "context", dockerfile, {"f": "f\n"})
    one = build(agent, context, target="one")
    tree = tree_of(unpack_image(agent, one.id, tmp_path / "one"))
    assert {"d/f", "d/x", "d/y"} <= set(tree)
    assert {"bin/vi", "lacking", "t", "not"} & set(tree) == set()
    assert [entry.get("empty_layer", False) for entry in config_file(agent, one.id)["history"][1:]] == [
        False,
        False,
        True,
    ]
    built = build(agent, context)
    assert built.hits == 3
    assert {"x", "d/f", "d/x", "d/y"} <= set(tree_of(unpack_image(agent, built.id, tmp_path / "two")))
    assert build(agent, context).id == built.id
    put(agent, "built", image=built.id)
    assert inside(agent, "built", "cat /x /d/f") == "x\nf\n"


def test_a_layer_is_bounded_where_the_file_system_has_quotas(agent: AgentUnderTest, btrfs_root: Path) -> None:
    bounded = ("run", "--name", "bounded", "--storage-opt", "size=8m", "busybox", "sh", "-c")
    fill = "dd if=/dev/urandom of=/file bs=1M count=%d conv=fsync && echo done"
    refused = agent.docker(*bounded, fill % 4, check=False)
    assert refused.returncode == 125
    for words in ("storage_size", "has no quotas", "btrfs quota enable"):
        assert words in refused.stderr
    subprocess.run(["btrfs", "quota", "enable", str(btrfs_root)], check=True, timeout=60)
    try:
        subprocess.run(["btrfs", "quota", "rescan", "-w", str(btrfs_root)], check=True, timeout=60)
        assert agent.docker(*bounded, fill % 4).stdout == "done\n"
        view = agent.api("GET", "/containers/bounded/json")["HostConfig"]
        assert view["StorageOpt"] == {"size": "8m"}
        agent.restart()
        agent.docker("rm", "bounded")
        full = agent.docker(*bounded, fill % 16, check=False)
        assert "quota exceeded" in full.stderr
        # Volumes are not part of it, nor is what others write.
        inside(agent, "told", "dd if=/dev/urandom of=/file bs=1M count=16 conv=fsync")
        agent.docker("rm", "bounded")
    finally:
        subprocess.run(["btrfs", "quota", "disable", str(btrfs_root)], check=True, timeout=60)
