# SPDX-License-Identifier: Apache-2.0
"""What one process of tests has claimed, no other gets; it is free again when that process has ended."""

from __future__ import annotations

import secrets
import socket
import subprocess
import sys
from pathlib import Path

from harness.claims import claim, free_port

TESTS = Path(__file__).resolve().parents[2]


def claimed_by_another(name: str) -> bool:
    """Whether another process gets `name`; it has ended when this returns."""
    source = f"from harness.claims import claim; raise SystemExit(not claim({name!r}))"
    done = subprocess.run([sys.executable, "-c", source], check=False, cwd=TESTS, timeout=30)
    return done.returncode == 0


def test_a_claim_holds_against_all_and_ends_with_its_process() -> None:
    name = f"test/{secrets.token_hex(8)}"
    assert claimed_by_another(name)
    assert claim(name)
    assert not claim(name)
    assert not claimed_by_another(name)


def test_a_free_port_is_given_once_and_can_be_listened_on() -> None:
    ports = [free_port() for _ in range(20)]
    assert len(set(ports)) == len(ports)
    for port in ports:
        with socket.create_server(("127.0.0.1", port)):
            pass
