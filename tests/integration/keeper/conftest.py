# SPDX-License-Identifier: Apache-2.0
"""Keepers for the tests of this directory, without an agent."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .keepers import KeeperUnderTest


@pytest.fixture(scope="session")
def rootfs(busybox_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with the root file system that all containers here share."""
    directory = tmp_path_factory.mktemp("keeper-rootfs")
    subprocess.run(["tar", "-xf", busybox_rootfs, "-C", directory], check=True, timeout=30)
    directory.chmod(0o755)
    return directory


@pytest.fixture
def keeper(rootfs: Path) -> Iterator[KeeperUnderTest]:
    """Return a keeper that is started by the first connection, and of which nothing may be left."""
    made = KeeperUnderTest(rootfs)
    yield made
    made.destroy()


@pytest.fixture(scope="module")
def shared(rootfs: Path) -> Iterator[KeeperUnderTest]:
    """Return a keeper for all those tests of a module that do it no harm."""
    made = KeeperUnderTest(rootfs)
    yield made
    made.destroy()
