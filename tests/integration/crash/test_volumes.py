# SPDX-License-Identifier: Apache-2.0
"""`kill -9` of an agent that fills a new volume with what the image has there."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.unix_http import Response
from harness.waiting import eventually

from .site import Site

pytestmark = pytest.mark.root

TARGET = "/bin"  # the container's own programs: were one of them missing, it would not run


@pytest.fixture
def volumes(site: Site) -> Iterator[Path]:
    """Return where volumes are; those of a case are removed after it."""
    yield site.agent.config.data_root / "volumes"
    site.revive()
    for name in ("whole", "cut", "bound"):
        site.agent.request("DELETE", f"/containers/{name}?force=1")
        site.agent.request("DELETE", f"/volumes/{name}?force=1")


def create(site: Site, name: str) -> Response:
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "HostConfig": {"Binds": [f"{name}:{TARGET}"]}}
    return site.agent.request("POST", f"/containers/create?name={name}", body)


def remove(site: Site, name: str) -> Response:
    return site.agent.request("DELETE", f"/volumes/{name}")


def tree(directory: Path) -> dict[str, Any]:
    """Return what is in a volume, by path: mode, owner, length, and how many names it has."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        status = path.lstat()
        found[str(path.relative_to(directory))] = (
            *(status.st_mode, status.st_uid, status.st_gid, status.st_nlink),
            status.st_size if path.is_file() else 0,
        )
    return found


@pytest.mark.parametrize("point", ["volume.drafted", "volume.copied", "volume.moved", "volume.moved:5"])
def test_a_volume_whose_filling_was_cut_off_is_whole_before_the_first_start(
    site: Site, volumes: Path, point: str
) -> None:
    assert create(site, "whole").status == 201
    site.arm(point)
    answer = site.during(create, "cut")
    site.reached()
    site.disarm()
    assert answer.result(60) is None
    site.revive()
    assert sorted(os.listdir(volumes / "cut")) != ["_data"]
    assert site.agent.request("POST", "/containers/cut/start").status == 204
    assert os.listdir(volumes / "cut") == ["_data"]
    assert tree(volumes / "cut/_data") == tree(volumes / "whole/_data")
    done = site.agent.request("POST", "/mooring/v1/containers/cut/exec", {"argv": ["echo", "here"]})
    assert done.json()["stdout"] == "here\n"


@pytest.mark.parametrize("point", ["volume.drafted", "volume.copied", "volume.moved:5", "start.launched"])
def test_a_directory_of_the_host_is_whole_too_and_nothing_stays_mounted(
    site: Site, volumes: Path, tmp_path: Path, point: str
) -> None:
    """A volume with options is filled within, and mounted for its containers alone."""
    assert create(site, "whole").status == 201
    options = {"type": "none", "o": "bind", "device": str(tmp_path)}
    made = site.agent.request("POST", "/volumes/create", {"Name": "bound", "DriverOpts": options})
    assert made.status == 201
    site.arm(point)

    def run(site: Site, name: str) -> Response:
        create(site, name)
        return site.agent.request("POST", f"/containers/{name}/start")

    answer = site.during(run, "bound")
    site.reached()
    site.disarm()
    assert answer.result(60) is None
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text(encoding="utf-8")
    site.revive()
    assert site.agent.request("POST", "/containers/bound/start").status in (204, 304)
    assert tree(tmp_path) == tree(volumes / "whole/_data")
    done = site.agent.request("POST", "/mooring/v1/containers/bound/exec", {"argv": ["echo", "here"]})
    assert done.json()["stdout"] == "here\n"


def test_a_removal_that_was_cut_off_is_done_to_its_end(site: Site, volumes: Path) -> None:
    assert site.agent.request("POST", "/volumes/create", {"Name": "cut"}).status == 201
    (volumes / "cut/_data/content").write_text("secret")
    site.arm("volume.doomed")
    answer = site.during(remove, "cut")
    site.reached()
    site.disarm()
    assert answer.result(60) is None
    site.revive()
    assert site.agent.request("GET", "/volumes/cut").status == 404
    eventually(lambda: not any(name.startswith(".") for name in os.listdir(volumes)), what="its end")
    assert site.agent.request("POST", "/volumes/create", {"Name": "cut"}).status == 201
    assert os.listdir(volumes / "cut/_data") == []


@pytest.mark.parametrize(("point", "stays"), [("volume.doomed", True), ("remove.row", False)])
def test_volumes_go_with_their_container_or_stay_with_it(
    site: Site, volumes: Path, point: str, stays: bool
) -> None:
    body = {"Image": "busybox", "Cmd": ["sleep", "600"], "Volumes": {"/one": {}, "/two": {}}}
    made = site.agent.request("POST", "/containers/create?name=whole", body)
    assert site.agent.request("POST", "/containers/whole/start").status == 204
    fill = ["sh", "-c", "echo one > /one/file; echo two > /two/file"]
    site.agent.api("POST", "/mooring/v1/containers/whole/exec", {"argv": fill})
    site.arm(point)
    answer = site.during(
        lambda site, name: site.agent.request("DELETE", f"/containers/{name}?force=1&v=1"), "whole"
    )
    site.reached()
    site.disarm()
    assert answer.result(60) is None
    site.revive()
    assert (site.agent.request("GET", f"/containers/{made.json()['Id']}/json").status == 200) == stays
    if stays:
        assert site.agent.request("POST", "/containers/whole/start").status == 204
        done = site.agent.api(
            "POST", "/mooring/v1/containers/whole/exec", {"argv": ["cat", "/one/file", "/two/file"]}
        )
        assert done["stdout"] == "one\ntwo\n"
        assert site.agent.request("DELETE", "/containers/whole?force=1&v=1").status == 204
    eventually(lambda: os.listdir(volumes) == [], what="the end of the volumes")
    assert site.agent.request("GET", "/volumes").json()["Volumes"] == []


def test_a_volume_with_something_mounted_in_it_is_not_removed(site: Site, volumes: Path) -> None:
    assert site.agent.request("POST", "/volumes/create", {"Name": "cut"}).status == 201
    place = volumes / "cut/_data/disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True, timeout=30)
    try:
        (place / "content").write_text("mine")
        answer = site.agent.request("DELETE", "/volumes/cut")
        assert answer.status == 409
        assert f"mounted at {place}" in answer.json()["message"]
        assert (place / "content").read_text() == "mine"
    finally:
        subprocess.run(["umount", place], check=True, timeout=30)
    assert site.agent.request("DELETE", "/volumes/cut").status == 204
    assert not (volumes / "cut").exists()
