# SPDX-License-Identifier: Apache-2.0
"""Mounts that are made later, on either side of a bind."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest

pytestmark = pytest.mark.root


def mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True, timeout=10)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """Return a directory that is a shared mount, as all are on a host with systemd."""
    mount("-t", "tmpfs", "mrgt-shared", str(tmp_path))
    try:
        mount("--make-rshared", str(tmp_path))
        for name in ("before", "after", "inner"):
            (tmp_path / name).mkdir()
        mount("-t", "tmpfs", "mrgt-before", str(tmp_path / "before"))
        (tmp_path / "before" / "file").write_text("")
        yield tmp_path
    finally:
        subprocess.run(["umount", "-R", str(tmp_path)], check=True, timeout=10)


def test_mounts_come_through_as_far_as_is_asked_for(shared: Path, start_agent: Any) -> None:
    agent: AgentUnderTest = start_agent()
    modes = {"private": "rprivate", "slave": "rslave", "peer": "rshared"}
    for name, propagation in modes.items():
        volume = {"source": str(shared), "target": "/m", "propagation": propagation}
        agent.api(
            "PUT",
            f"/mooring/v1/containers/{name}",
            {
                "image": "busybox",
                "command": "sleep 600",
                "stop_timeout": 0,
                "volumes": [volume],
                "privileged": name == "peer",
            },
        )

    def inside(name: str, *argv: str) -> str:
        done = agent.api("POST", f"/mooring/v1/containers/{name}/exec", {"argv": list(argv)})
        return str(done["stdout"])

    assert {name: inside(name, "ls", "/m/before") for name in modes} == dict.fromkeys(modes, "file\n")
    mount("-t", "tmpfs", "mrgt-after", str(shared / "after"))
    (shared / "after" / "file").write_text("")
    seen = {name: inside(name, "ls", "/m/after") for name in modes}
    assert seen == {"private": "", "slave": "file\n", "peer": "file\n"}
    inside("peer", "mount", "-t", "tmpfs", "mrgt-inner", "/m/inner")
    inside("peer", "touch", "/m/inner/file")
    assert (shared / "inner" / "file").exists()


def test_what_is_mounted_on_the_host_after_the_agent_has_begun_can_be_bound(
    tmp_path: Path, start_agent: Any
) -> None:
    agent: AgentUnderTest = start_agent()
    agent.api("PUT", "/mooring/v1/containers/first", {"image": "busybox", "command": "true"})
    mount("-t", "tmpfs", "mrgt-late", str(tmp_path))
    try:
        (tmp_path / "file").write_text("")
        spec = {
            "image": "busybox",
            "command": "sleep 600",
            "stop_timeout": 0,
            "volumes": [f"{tmp_path}:/m:ro"],
        }
        agent.api("PUT", "/mooring/v1/containers/late", spec)
        done = agent.api("POST", "/mooring/v1/containers/late/exec", {"argv": ["ls", "/m"]})
        assert done["stdout"] == "file\n"
        agent.api("DELETE", "/mooring/v1/containers/late?force=true")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True, timeout=10)


def test_a_bind_without_what_is_mounted_below(shared: Path, start_agent: Any) -> None:
    agent: AgentUnderTest = start_agent()
    volume = {"source": str(shared), "target": "/m", "recursive": False}
    agent.api(
        "PUT",
        "/mooring/v1/containers/flat",
        {"image": "busybox", "command": "sleep 600", "stop_timeout": 0, "volumes": [volume]},
    )
    done = agent.api("POST", "/mooring/v1/containers/flat/exec", {"argv": ["ls", "/m", "/m/before"]})
    assert done["stdout"] == "/m:\nafter\nbefore\ninner\n\n/m/before:\n"
