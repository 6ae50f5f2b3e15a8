# SPDX-License-Identifier: Apache-2.0
"""`mooring image …`, `mooring commit|diff|export` against a real agent and a real registry."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from harness.registry import PASSWORD, USER, RegistryUnderTest
from integration.imageapi.conftest import Mooring

pytestmark = pytest.mark.root


def test_push_pull_and_verify(mooring: Mooring, plain: RegistryUnderTest) -> None:
    name = f"{plain.host}/team/cli:1"
    assert "would" in mooring("image", "push", "busybox", "--to", name, "--dry-run").stdout
    pushed = mooring("image", "push", "busybox", "--to", name)
    digest = json.loads(plain.skopeo("inspect", f"docker://{name}"))["Digest"]
    assert pushed.stdout.splitlines()[-1] == f"{name}: {digest}"
    assert "upload" in pushed.stderr
    assert mooring("image", "pull", name).stdout == f"{name}: pulled, {digest}\n"
    assert mooring("image", "pull", name).stdout == f"{name}: is up to date, {digest}\n"
    assert ": sound, 3 blobs" in mooring("image", "verify", name).stdout
    assert ": sound, 3 blobs" in mooring("image", "verify").stdout
    shown = json.loads(mooring("image", "inspect", name).stdout)[0]
    assert name in shown["references"]
    mooring("image", "rm", name)
    failed = mooring("image", "pull", f"{plain.host}/none/such:1", check=False)
    assert failed.returncode == 1
    assert "none/such" in failed.stderr


def test_credentials_of_the_command_line(mooring: Mooring, guarded: RegistryUnderTest) -> None:
    name = f"{guarded.host}/team/cli:1"
    login = ("--username", USER, "--password-stdin")
    assert mooring("image", "push", "busybox", "--to", name, check=False).returncode == 1
    mooring("image", "push", "busybox", "--to", name, *login, stdin=f"{PASSWORD}\n")
    assert "pulled" in mooring("image", "pull", name, *login, stdin=PASSWORD).stdout
    half = mooring("image", "pull", name, "--username", USER, check=False)
    assert "belong together" in half.stderr
    mooring("image", "rm", name)


def test_save_load_tag_history(mooring: Mooring, tmp_path: Path) -> None:
    archive = tmp_path / "tagged.tar"
    mooring("image", "tag", "busybox", "tagged:1")
    mooring("image", "save", "tagged:1", "-o", str(archive))
    mooring("image", "rm", "tagged:1")
    assert mooring("image", "load", "-i", str(archive)).stdout == "Loaded image: tagged:1\n"
    assert "CREATED BY" in mooring("image", "history", "tagged:1").stdout
    mooring("image", "rm", "tagged:1")
    missing = mooring("image", "load", "-i", str(tmp_path / "absent.tar"), check=False)
    assert "absent.tar cannot be read" in missing.stderr
    unsaved = mooring("image", "save", "none:1", "-o", str(tmp_path / "none.tar"), check=False)
    assert "none:1" in unsaved.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["tagged.tar"]


def test_commit_diff_export_and_prune(mooring: Mooring, tmp_path: Path) -> None:
    mooring("run", "--name", "worker", "busybox", "sh", "-c", "echo x > /made")
    assert "A /made" in mooring("diff", "worker").stdout.splitlines()
    mooring("commit", "worker", "worked:1", "-m", "why", "-c", "CMD cat /made")
    assert mooring("run", "--rm", "worked:1").stdout == "x\n"
    archive = tmp_path / "files.tar"
    mooring("export", "worker", "-o", str(archive))
    with tarfile.open(archive) as files:
        assert "made" in files.getnames()
    nameless = mooring("commit", "worker").stdout.strip()
    mooring("rm", "worker")
    assert f"deleted {nameless[7:19]}" in mooring("image", "prune").stdout
    assert "deleted" in mooring("image", "prune", "--all", "--until", "2999-01-01T00:00:00Z").stdout
