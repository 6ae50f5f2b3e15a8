# SPDX-License-Identifier: Apache-2.0
"""The template ubuntu, built for real, from a mirror of the test's own that is like one of Ubuntu's.

It takes minutes: it runs only when asked for with `-m bench`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.apt_mirror import need_apt_mirror
from harness.forked import in_child
from harness.host import need_programs
from harness.ubuntu_mirror import KEYRING, SUITE, UbuntuMirror
from integration.storage.mounts import mounted
from mooring_agent.errors import MooringError
from mooring_agent.images.specs import TemplateSpec, normalise_image_spec
from mooring_agent.images.store import ImageStore
from mooring_agent.linux import syscalls
from mooring_agent.storage.overlay import OverlaySnapshotter

pytestmark = [pytest.mark.root, pytest.mark.bench, pytest.mark.timeout(600)]

_TIMEOUT = 400.0  # seconds
_SUITES = "/usr/share/distro-info"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> UbuntuMirror:
    need_programs("mmdebstrap", "apt-ftparchive", "gpg", "gpgconf")
    need_apt_mirror()
    return UbuntuMirror(tmp_path_factory.mktemp("mirror") / "ubuntu", main=["less"], universe=["hello"])


@pytest.fixture
def mirror(made: UbuntuMirror) -> Iterator[str]:
    with made.served() as url:
        yield url


def build(root: Path, made: UbuntuMirror, *, knows_suites: bool = True, **options: Any) -> dict[str, Any]:
    """Make the image `ubuntu` in a store at `root`, on a host that has Ubuntu's keys: those of the mirror.

    Whether mmdebstrap there knows which suites are Ubuntu's hangs on the package distro-info-data.
    """
    spec = normalise_image_spec({"template": {"name": "ubuntu", **options}})
    template = TemplateSpec.from_spec(spec["template"])
    keyrings = root / "keyrings"
    shutil.copytree("/usr/share/keyrings", keyrings)
    shutil.copyfile(made.keyring, keyrings / Path(KEYRING).name)
    nothing = root / "nothing"
    nothing.mkdir()

    def work() -> dict[str, Any]:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount(str(keyrings), "/usr/share/keyrings", None, syscalls.MS_BIND)
        if not knows_suites and os.path.isdir(_SUITES):
            syscalls.mount(str(nothing), _SUITES, None, syscalls.MS_BIND)
        snapshots = OverlaySnapshotter(root / "overlay")
        try:
            image = ImageStore(root / "images", snapshots).from_template(template, "ubuntu")
            return {"chain": image.chain_id, "config": dict(image.config)}
        except MooringError as error:
            return {"error": error.message}
        finally:
            snapshots.close()

    found: dict[str, Any] = in_child(work, _TIMEOUT)
    return found


def test_it_is_what_was_asked_for(made: UbuntuMirror, mirror: str, tmp_path: Path) -> None:
    found = build(tmp_path, made, mirror=mirror, components=["main", "universe"], packages=["hello"])
    assert found.get("error") is None
    assert found["config"]["Cmd"] == ["bash"]
    snapshots = OverlaySnapshotter(tmp_path / "overlay")
    try:
        rootfs = snapshots.prepare("container", found["chain"])
        script = ". /etc/os-release; echo $ID $VERSION_CODENAME; hello; dpkg --audit; dpkg-query -W | wc -l"
        said = mounted(rootfs, f"chroot . /bin/bash -c '{script}'").splitlines()
        assert said[:2] == [f"ubuntu {SUITE}", "Hello, world!"]
        assert len(said) == 3
        assert mounted(rootfs, "cat etc/apt/sources.list").split() == [
            "deb", mirror, SUITE, "main", "universe",
        ]  # fmt: skip
        # Programs there tell the archive's packages by the keyring that is one of them.
        updated = mounted(rootfs, "chroot . apt-get update && chroot . apt-get install -qy less")
        assert "Setting up less" in updated
        assert mounted(rootfs, "find etc/apt -name '*mooring*'") == ""
    finally:
        snapshots.close()


def test_a_component_that_is_not_asked_for_is_not_there(
    made: UbuntuMirror, mirror: str, tmp_path: Path
) -> None:
    found = build(tmp_path, made, mirror=mirror, components=["main"], variant="essential", packages=["hello"])
    assert f"the template ubuntu {SUITE} was not built from {mirror}" in found["error"]
    assert "Unable to locate package hello" in found["error"]


def test_a_host_need_not_know_which_suites_are_ubuntu_s(
    made: UbuntuMirror, mirror: str, tmp_path: Path
) -> None:
    found = build(tmp_path, made, knows_suites=False, mirror=mirror, variant="essential")
    assert found.get("error") is None


def test_packages_that_another_has_signed_are_refused(
    made: UbuntuMirror, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "keyring", Path("/usr/share/keyrings/debian-archive-keyring.gpg"))
    found = build(tmp_path, made, mirror=mirror, variant="essential")
    assert "is not signed" in found["error"]
    assert mirror in found["error"]
