# SPDX-License-Identifier: Apache-2.0
"""The host's keys for encrypted networks: made once, kept for root alone, renewed without losing any."""

from __future__ import annotations

import errno
import hashlib
import re
import stat
from pathlib import Path

import pytest

from mooring_agent.errors import InvalidSpec, MooringError, NotSupported
from mooring_agent.linux import wireguard
from mooring_agent.network.encryption import key_bytes
from mooring_agent.network.overlaykeys import OverlayKeys


@pytest.fixture(autouse=True)
def kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel with WireGuard, on another curve."""
    monkeypatch.setattr(wireguard, "public_key", lambda private: hashlib.sha256(private).digest())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "wireguard.keys"


def test_a_key_is_made_once_and_read_again(path: Path) -> None:
    public = OverlayKeys(path).public()
    private = OverlayKeys(path).private_of(public, "mesh")
    assert hashlib.sha256(private).digest() == key_bytes(public)
    assert key_bytes(path.read_text().strip()) == private
    assert OverlayKeys(path).public() == public
    # RFC 7748, section 5
    assert (private[0] & 7, private[31] & 0xC0) == (0, 0x40)


def test_nobody_but_the_owner_reads_it_whatever_was_there_before(path: Path) -> None:
    new = path.with_name("wireguard.keys.new")
    new.write_text("of an agent that was killed, and longer than what is written in its place" * 9)
    new.chmod(0o644)
    OverlayKeys(path).public()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]
    assert len(path.read_text().split()) == 1


def test_renewed_key_is_told_and_those_that_are_used_are_kept(path: Path) -> None:
    keys = OverlayKeys(path)
    first = keys.public()
    second = keys.renew([first, "a key that this host never had"])
    third = keys.renew([first])
    assert len({first, second, third}) == 3
    assert OverlayKeys(path).public() == keys.public() == third
    assert keys.private_of(first, "mesh")
    said = re.escape(f"the public key {second} for this host, whose own is {third}")
    with pytest.raises(InvalidSpec, match=said):
        keys.private_of(second, "mesh")


@pytest.mark.parametrize("text", ["", "\n", "no key\n", "c2hvcnQ=\n", "\xff"])
def test_file_that_is_damaged_is_named_and_not_replaced(path: Path, text: str) -> None:
    path.write_text(text, encoding="latin-1")
    with pytest.raises(MooringError, match=r"the file \S+/wireguard.keys cannot be used \(.*restore it"):
        OverlayKeys(path).public()
    assert path.read_text(encoding="latin-1") == text


def test_without_wireguard_no_key_is_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(private: bytes) -> bytes:
        raise OSError(errno.EOPNOTSUPP, "Unknown device type")

    monkeypatch.setattr(wireguard, "public_key", refused)
    with pytest.raises(NotSupported, match=r"this host can have no key .* has no WireGuard"):
        OverlayKeys(path).public()
    with pytest.raises(NotSupported, match="network mesh cannot be encrypted: this host can have no key"):
        OverlayKeys(path).private_of("A", "mesh")
    assert not path.exists()


def test_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(MooringError, match=r"cannot be kept in .*: No such file or directory; make room"):
        OverlayKeys(tmp_path / "none" / "wireguard.keys").public()
