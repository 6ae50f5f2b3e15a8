# SPDX-License-Identifier: Apache-2.0
"""The same attacks on `mooring oci`, where a bundle is the attacker's and there is no keeper."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mooring_agent.oci.spec import template

pytestmark = pytest.mark.root

Change = Callable[[dict[str, Any]], None]


class Runtime:
    """`mooring oci run`, with a bundle whose root file system may be changed beforehand."""

    def __init__(self, base: Path, archive: Path) -> None:
        self.base = base
        self.rootfs = base / "bundle/rootfs"
        self.rootfs.mkdir(parents=True)
        with tarfile.open(archive) as tar:
            tar.extractall(self.rootfs, filter="fully_trusted")
        self.outside = base / "outside"
        self.outside.mkdir()
        (self.outside / "secret").write_text("of the host\n")

    def run(self, *args: str, change: Change = lambda _: None) -> subprocess.CompletedProcess[str]:
        config = template(rootless=False)
        config["process"].update(terminal=False, args=list(args))
        config["root"] = {"path": "rootfs", "readonly": False}
        change(config)
        (self.base / "bundle/config.json").write_text(json.dumps(config))
        id = f"attack-{os.getpid()}-{self.base.name[-8:]}"
        command = [sys.executable, "-m", "mooring_agent", "oci", "--root", str(self.base / "states")]
        try:
            return subprocess.run(
                [*command, "run", "--bundle", str(self.base / "bundle"), id],
                check=False,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=60,
            )
        finally:
            subprocess.run([*command, "delete", "--force", id], check=False, capture_output=True, timeout=60)

    def unharmed(self) -> None:
        assert os.listdir(self.outside) == ["secret"]
        assert (self.outside / "secret").read_text() == "of the host\n"
        points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        assert [point for point in points if Path(point).is_relative_to(self.base)] == []


@pytest.fixture
def oci(tmp_path: Path, busybox_rootfs: Path) -> Iterator[Runtime]:
    runtime = Runtime(tmp_path, busybox_rootfs)
    yield runtime
    runtime.unharmed()


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_cve_2026_41579_a_standard_directory_that_is_a_link(oci: Runtime, name: str) -> None:
    """Mounts and devices went through a link of the root file system to somewhere else.

    It is refused, or it ends inside of the root; the host's directory has nothing new in it.
    """
    (oci.rootfs / name).rmdir()
    (oci.rootfs / name).symlink_to(oci.outside)
    oci.run("true")


def test_cve_2024_45310_mounts_through_links(oci: Runtime) -> None:
    """Targets that lead out by links, absolute and climbing, of directories, files and file systems."""
    (oci.rootfs / "way").symlink_to(oci.outside)
    (oci.rootfs / "climb").symlink_to("../" * 20 + str(oci.outside).lstrip("/"))
    source = oci.base / "source"
    source.mkdir()
    (source / "file").write_text("x")

    def change(config: dict[str, Any]) -> None:
        for target, kind, options in (
            ("/way/a", "bind", ["bind"]),
            ("/climb/b", "bind", ["rbind", "ro"]),
            ("/way/../way/t", "tmpfs", []),
        ):
            entry = {"destination": target, "type": kind, "source": str(source), "options": options}
            config["mounts"].append(entry)
        config["mounts"].append(
            {"destination": "/way/f", "type": "bind", "source": f"{source}/file", "options": ["bind"]}
        )
        config["process"]["cwd"] = "/climb/cwd"

    oci.run("ls", str(oci.outside), change=change)


@pytest.mark.parametrize("number", range(3, 9))
def test_cve_2024_21626_no_descriptor_is_a_working_directory(oci: Runtime, number: int) -> None:
    """Neither what the launcher has open nor what whoever called it has left open."""

    def change(config: dict[str, Any]) -> None:
        config["process"]["cwd"] = f"/proc/self/fd/{number}"

    done = oci.run("ls", "-la", "../../../../../../..", change=change)
    assert done.returncode != 0
    assert "secret" not in done.stdout


def test_cve_2024_21626_nothing_is_left_open(oci: Runtime) -> None:
    """The process has its standard streams, and the directory that ls reads."""
    done = oci.run("ls", "/proc/self/fd")
    assert sorted(done.stdout.split()) == ["0", "1", "2", "3"], done.stderr


@pytest.mark.parametrize("entry", ["/proc/self/exe", "/lure", "/script"])
def test_cve_2019_5736_the_interpreter_is_not_to_be_written(oci: Runtime, entry: str) -> None:
    """An entry point that is the runtime: what it runs from is on a read-only mount of no namespace."""
    (oci.rootfs / "lure").symlink_to("/proc/self/exe")
    (oci.rootfs / "script").write_text("#!/proc/self/exe\n")
    (oci.rootfs / "script").chmod(0o755)
    before = os.stat(os.path.realpath(sys.executable))
    done = oci.run(entry, "-c", "print('inside')")
    assert done.returncode != 0
    assert "inside" not in done.stdout
    assert os.stat(os.path.realpath(sys.executable)).st_mtime_ns == before.st_mtime_ns


def test_cve_2025_31133_masks_with_a_false_null_device(oci: Runtime) -> None:
    """A /dev of the root file system with links in it hides nothing and opens nothing."""
    for name in ("null", "console", "pts"):
        (oci.rootfs / "dev" / name).symlink_to("/proc/sys/kernel/core_pattern")

    def change(config: dict[str, Any]) -> None:
        config["linux"]["maskedPaths"] = ["/proc/keys", "/proc/timer_list", "/proc/acpi"]

    done = oci.run("sh", "-c", "cat /proc/keys; echo x > /proc/sys/kernel/core_pattern", change=change)
    assert done.stdout == ""
    assert "Read-only" in done.stderr


@pytest.mark.parametrize("id", ["../x", "/x", "", ".", "..", "a/b", "x\n", "a" * 2000])
def test_an_id_is_no_path(oci: Runtime, id: str) -> None:
    """What names a directory below --root cannot lead out of it."""
    command = [sys.executable, "-m", "mooring_agent", "oci", "--root", str(oci.base / "states")]
    for verb in (["state"], ["delete", "--force"]):
        done = subprocess.run([*command, *verb, "--", id], check=False, capture_output=True, timeout=60)
        assert done.returncode != 0, (verb, done.stdout)
        assert b"Traceback" not in done.stderr
    assert (oci.base / "bundle").is_dir()
