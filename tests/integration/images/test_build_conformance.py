# SPDX-License-Identifier: Apache-2.0
"""Dockerfiles of our own, built here and by buildah: configurations and file trees are the same.

Where a directory has a `Dockerfile.reference`, it says the same in words that every builder knows.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.agent import AgentUnderTest
from harness.host import need_programs
from integration.images.building import build, config_file, tree_of, unpack_image

pytestmark = pytest.mark.root

CASES = Path(__file__).parent / "dockerfiles"
NAMES = sorted(path.name for path in CASES.iterdir())
TIMEOUT = 120
# What the kernel's file systems are mounted on while a command runs: the reference leaves some of them.
PLACES = ("dev", "proc", "sys", "run", "etc/hosts", "etc/resolv.conf", "etc/hostname", "etc/mtab")


class Buildah:
    """buildah with a store of its own, and the image `base` in it."""

    def __init__(self, root: Path, base: Path) -> None:
        self._options = [
            *("--root", str(root / "root"), "--runroot", str(root / "run"), "--storage-driver", "vfs")
        ]
        container = self._run("from", "scratch")
        self._run("add", "--quiet", container, str(base), "/")
        self._run("commit", "--quiet", "--rm", container, "base")

    def build(self, context: Path, dockerfile: str, args: dict[str, str]) -> None:
        """Build `result`."""
        given = [word for name, value in args.items() for word in ("--build-arg", f"{name}={value}")]
        self._run(
            *("bud", "--quiet", "--isolation", "chroot", "--format", "docker", "--tag", "result", *given),
            *("--file", str(context / dockerfile), str(context)),
        )

    def config(self) -> dict[str, Any]:
        """The configuration of `result`."""
        found: dict[str, Any] = json.loads(self._run("inspect", "--type", "image", "result"))["Docker"]
        return found

    def tree(self) -> dict[str, tuple[Any, ...]]:
        """The file tree of `result`."""
        container = self._run("from", "result")
        try:
            return tree_of(Path(self._run("mount", container)))
        finally:
            self._run("rm", container)

    def _run(self, command: str, *words: str) -> str:
        done = subprocess.run(
            ["buildah", *self._options, command, *words],
            stdin=subprocess.DEVNULL,  # it would leave ours non-blocking
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert done.returncode == 0, f"buildah {command}: {done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, busybox_rootfs: Path) -> Buildah:
    need_programs("buildah")
    return Buildah(tmp_path_factory.mktemp("buildah"), busybox_rootfs)


@pytest.fixture(scope="module")
def base(agent: AgentUnderTest, busybox_rootfs: Path) -> AgentUnderTest:
    agent.api("PUT", "/mooring/v1/images/base", {"import": {"path": str(busybox_rootfs)}})
    return agent


@pytest.mark.parametrize("name", NAMES)
def test_a_build_gives_what_the_reference_gives(
    name: str, base: AgentUnderTest, reference: Buildah, tmp_path: Path
) -> None:
    context = prepared(name, tmp_path / "context")
    args = {"GIVEN": "given"} if name == "args" else {}
    other = "Dockerfile.reference" if (context / "Dockerfile.reference").exists() else "Dockerfile"

    with ThreadPoolExecutor(1) as pool:
        referring = pool.submit(reference.build, context, other, args)
        built = build(base, context, args=args)
        ours = tree_of(unpack_image(base, built.id, tmp_path / "ours"))
        referring.result()

    theirs = reference.tree()
    assert without_places(ours) == without_places(theirs)
    assert normal(config_file(base, built.id)) == normal(reference.config())


def prepared(name: str, context: Path) -> Path:
    """The context of a case, with what a repository of sources cannot hold."""
    shutil.copytree(CASES / name, context, symlinks=True)
    for path in context.rglob("*"):
        path.chmod(0o755 if path.is_dir() or path.suffix == ".sh" else 0o644)
    if name == "add-archive":
        for file, mode in (("files.tar", "w"), ("files.tar.gz", "w:gz")):
            with tarfile.open(context / file, mode) as archive:  # type: ignore[call-overload]
                for member in members():
                    archive.addfile(member, io.BytesIO(b"content") if member.isfile() else None)
    return context


def members() -> Iterator[tarfile.TarInfo]:
    """A directory, a file with an owner, and two kinds of links."""
    for name, kind, mode in (
        ("d", tarfile.DIRTYPE, 0o750),
        ("d/file", tarfile.REGTYPE, 0o640),
        ("d/link", tarfile.SYMTYPE, 0o777),
        ("d/hard", tarfile.LNKTYPE, 0o640),
    ):
        member = tarfile.TarInfo(name)
        member.type, member.mode, member.uid, member.gid = kind, mode, 11, 12
        member.size = 7 if kind == tarfile.REGTYPE else 0
        member.linkname = {"d/link": "file", "d/hard": "d/file"}.get(name, "")
        yield member


def without_places(tree: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
    return {
        path: facts
        for path, facts in tree.items()
        if not any(path == place or path.startswith(f"{place}/") for place in PLACES)
    }


def normal(document: dict[str, Any]) -> dict[str, Any]:
    """What a configuration says, whoever wrote it."""
    config = document["config"]
    labels = {key: value for key, value in (config.get("Labels") or {}).items() if "buildah" not in key}
    kept = (
        *("Cmd", "Entrypoint", "Env", "ExposedPorts", "Healthcheck", "OnBuild", "Shell", "StopSignal"),
        *("User", "Volumes", "WorkingDir"),
    )
    found = {key: config[key] for key in kept if config.get(key)}
    found["Env"] = sorted(item for item in found.get("Env", ()) if not item.startswith("PATH="))
    if found.get("WorkingDir") == "/":
        del found["WorkingDir"]
    return {**found, "Labels": labels, "Author": document.get("author", ""), "Os": document["os"]}
