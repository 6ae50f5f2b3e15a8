# SPDX-License-Identifier: Apache-2.0
"""A bundle with busybox, and `mooring oci` with a state directory of its own."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from harness.rootfs import write_busybox_rootfs
from harness.waiting import eventually
from mooring_agent.oci.spec import template

_TIMEOUT = 60.0


class Oci:
    """The command line; containers get ids with a prefix of this test's own, by which remains are found."""

    def __init__(self, base: Path, rootfs: Path) -> None:
        self.base, self.rootfs = base, rootfs
        self.root = base / "states"
        self.prefix = f"t{secrets.token_hex(4)}"
        self._bundles = 0

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "mooring_agent", "oci", "--root", str(self.root), *words]

    def __call__(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*words),
            check=False,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            **options,
        )

    def ok(self, *words: str, **options: Any) -> str:
        """Run a command that must work; what it printed."""
        answer = self(*words, **options)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout

    def quiet(self, *words: str) -> None:
        """Run a command that must work and whose children keep its streams."""
        subprocess.run(
            self.command(*words),
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT,
        )

    def id(self, name: str = "c") -> str:
        return f"{self.prefix}-{name}"

    def bundle(self, *args: str, change: Callable[[dict[str, Any]], None] = lambda _: None) -> str:
        """Make a bundle whose process is `args`, after `change` of its config."""
        self._bundles += 1
        directory = self.base / f"bundle{self._bundles}"
        directory.mkdir()
        config = template(rootless=False)
        config["process"].update(terminal=False, args=list(args))
        config["root"] = {"path": str(self.rootfs), "readonly": True}
        change(config)
        (directory / "config.json").write_text(json.dumps(config))
        return str(directory)

    def state(self, id: str) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.ok("state", id))
        return state

    def await_status(self, id: str, status: str) -> None:
        eventually(lambda: self.state(id)["status"] == status, _TIMEOUT)

    def remains(self) -> list[str]:
        """States, control groups and launchers of this test's containers."""
        found = [str(path) for path in self.root.glob("*")] if self.root.is_dir() else []
        for hierarchy in Path("/sys/fs/cgroup").iterdir():
            with suppress(FileNotFoundError):  # a group of another test, which has gone meanwhile
                found += [str(path) for path in hierarchy.glob(f"mooring-oci-{self.prefix}*")]
        found += [str(path) for path in Path("/sys/fs/cgroup").glob(f"mooring-oci-{self.prefix}*")]
        for place in Path("/proc").glob("[0-9]*"):
            try:
                command = (place / "cmdline").read_bytes()
                group = (place / "cgroup").read_text()
            except OSError:
                continue
            if not command:
                continue  # it has ended, and its parent has not looked yet
            if self.prefix in group or (self.prefix.encode() in command and b"mooring" in command):
                found.append(f"process {place.name}: {command!r}")
        return found


@pytest.fixture(scope="session")
def busybox_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("oci-rootfs")
    base.chmod(0o755)
    archive = write_busybox_rootfs(base / "rootfs.tar")
    with tarfile.open(archive) as tar:
        tar.extractall(base / "rootfs", filter="fully_trusted")
    return base / "rootfs"


@pytest.fixture
def oci(tmp_path: Path, busybox_root: Path) -> Iterator[Oci]:
    # A container's root may be another user, who has to reach its files.
    for directory in (tmp_path, *tmp_path.parents, *busybox_root.parents):
        if directory.stat().st_uid == os.geteuid() and directory.name.startswith(("pytest", "test", "oci")):
            directory.chmod(directory.stat().st_mode | 0o111)
    runtime = Oci(tmp_path, busybox_root)
    yield runtime
    left = runtime.ok("list", "-q").split()
    for id in left:
        runtime.quiet("delete", "--force", id)
    assert runtime.remains() == []
