# SPDX-License-Identifier: Apache-2.0
"""A real ufw and a real firewalld on the same host: what they keep from containers is said, with the command
that lets it through, and neither harms the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from harness.host import need_programs
from harness.waiting import eventually
from integration.network.topology import HOST_OUTER, NamedNamespace, Namespace

from . import firewalls
from .firewalls import Place, advised
from .world import World, server

pytestmark = [pytest.mark.root, pytest.mark.slow]

Firewall = Callable[[], AbstractContextManager[Place]]


@pytest.fixture
def ufw(places: tuple[NamedNamespace, NamedNamespace], tmp_path: Path) -> Firewall:
    """Return a function that enables ufw on the host."""
    need_programs("ufw")
    return lambda: firewalls.ufw(places[0], tmp_path / "ufw")


@pytest.fixture
def firewalld(places: tuple[NamedNamespace, NamedNamespace], tmp_path: Path) -> Firewall:
    """Return a function that starts firewalld on the host."""
    need_programs("firewalld", "dbus-daemon")
    return lambda: firewalls.firewalld(places[0], tmp_path / "firewalld")
