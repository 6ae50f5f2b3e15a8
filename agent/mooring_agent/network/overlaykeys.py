# SPDX-License-Identifier: Apache-2.0
"""This host's keys for networks that are encrypted: the private ones in a file, the public ones for others.

A host has one key as an sshd has a host key: made when it is first asked for, and the same for all networks.
Where it is renewed, both are kept until no network uses the old one: which of them a network uses is said by
its declaration, that has the public key of this host like those of the others.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Collection
from pathlib import Path

from ..errors import InvalidSpec, MooringError, NotSupported
from ..linux import wireguard
from .encryption import KEY_BYTES, key_bytes, key_text

FILE = "wireguard.keys"
"""Its name in the data root: private keys in base64, one a line, the newest last."""


class OverlayKeys:
    """The keys in a file, which is made when one is needed. May be used by several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, bytes] | None = None  # private keys by public ones, the newest last
        self._lock = threading.Lock()

    def public(self) -> str:
        """The public key that others should know this host by. Raises NotSupported, MooringError."""
        with self._lock:
            return self._newest(self._keys())

    def renew(self, used: Collection[str]) -> str:
        """Make another key; returns its public one. Of those of before, the ones with these public keys are
        kept. Raises NotSupported, MooringError.
        """
        with self._lock:
            kept = {public: private for public, private in self._read().items() if public in used}
            return self._newest(self._add(kept))

    def private_of(self, public: str, network: str) -> bytes:
        """The private key of a public one, which a declaration says is this host's.

        Raises InvalidSpec if it is not, NotSupported, MooringError.
        """
        with self._lock:
            try:
                keys = self._keys()
            except MooringError as error:
                error.put_before(f"network {network} cannot be encrypted: ")
                raise
            if public not in keys:
                raise InvalidSpec(
                    f"network {network} has the public key {public} for this host, whose own is "
                    f"{self._newest(keys)}; gather the hosts' keys again and declare it with these"
                )
            return keys[public]

    def _keys(self) -> dict[str, bytes]:
        return self._read() or self._add({})

    def _newest(self, keys: dict[str, bytes]) -> str:
        return next(reversed(keys))

    def _add(self, kept: dict[str, bytes]) -> dict[str, bytes]:
        private = bytearray(secrets.token_bytes(KEY_BYTES))
        private[0] &= 248  # RFC 7748, section 5
        private[31] = private[31] & 127 | 64
        keys = kept | {_public_of(bytes(private)): bytes(private)}
        _write(self._path, "".join(f"{key_text(one)}\n" for one in keys.values()))
        self._known = keys
        return keys

    def _read(self) -> dict[str, bytes]:
        if self._known is None:
            try:
                lines = self._path.read_text(encoding="ascii").split()
                keys = [key_bytes(line) for line in lines]
            except FileNotFoundError:
                return {}
            except (OSError, ValueError) as error:
                raise self._damaged(str(error)) from error
            if not keys or any(len(key) != KEY_BYTES for key in keys):
                raise self._damaged("it has no keys, or shortened ones")
            self._known = {_public_of(key): key for key in keys}
        return self._known

    def _damaged(self, why: str) -> MooringError:
        return MooringError(
            f"the file {self._path} cannot be used ({why}); expected private keys in base64, one a line: "
            "restore it, or remove it and declare encrypted networks with this host's new key"
        )


def _public_of(private: bytes) -> str:
    try:
        return key_text(wireguard.public_key(private))
    except OSError as error:
        raise not_supported(error, "this host can have no key for encrypted networks") from error


def not_supported(error: OSError, what: str) -> MooringError:
    """The error for what the kernel refused; `what` begins the sentence."""
    if error.errno in (errno.EOPNOTSUPP, errno.ENOENT):
        return NotSupported(
            f"{what}: its kernel {os.uname().release} has no WireGuard; load the module wireguard (part of "
            "Linux since 5.6; modprobe wireguard tells what is in the way), or declare networks without "
            "encryption"
        )
    return MooringError(f"{what}: {error.strerror}")


def _write(path: Path, text: str) -> None:
    """Have `text` in a file that only its owner reads, entirely or not at all."""
    new = path.with_name(f"{path.name}.new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o600), "w", encoding="ascii") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise MooringError(
            f"the key of this host cannot be kept in {path}: {error.strerror}; make room, or mend its "
            "directory"
        ) from error
