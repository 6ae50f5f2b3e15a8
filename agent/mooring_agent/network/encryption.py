# SPDX-License-Identifier: Apache-2.0
"""What a declaration says of the encryption of a network across hosts: how, on which port, whose keys."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidSpec

WIREGUARD = "wireguard"
ENCRYPTIONS = (WIREGUARD,)
DEFAULT_PORT = 51820
"""The UDP port that WireGuard's documentation uses."""
KEY_BYTES = 32

OUTER_BYTES = {4: 60, 6: 80}
"""What a packet grows by underway: WireGuard's header and tag (16 bytes each), UDP and the underlay's IP."""


def normalise(given: Mapping[str, Any], hosts: Mapping[str, Mapping[str, Any]], where: str) -> dict[str, Any]:
    """The options encryption and port in normal form; `hosts` are so already. Raises InvalidSpec.

    Keys are refused where nothing is encrypted: who names them means it to be.
    """
    keyed = [name for name, host in hosts.items() if "public_key" in host]
    if given.get("encryption") is None:
        if keyed:
            raise InvalidSpec(
                f"{where} has public keys, of {', '.join(keyed)}, but is not encrypted: add the option "
                f"encryption: {WIREGUARD}, or remove the keys"
            )
        if given.get("port") is not None:
            raise InvalidSpec(
                f"{where} has the option port, which belongs to encryption: {WIREGUARD}; remove it"
            )
        return {}
    if given["encryption"] not in ENCRYPTIONS:
        raise InvalidSpec(
            f"{where} has the encryption {given['encryption']!r}, expected {' or '.join(ENCRYPTIONS)}"
        )
    if given.get("vni") is not None:
        raise InvalidSpec(
            f"{where} has the option vni, which networks with encryption do not have: remove it"
        )
    missing = [name for name in hosts if name not in keyed]
    if missing:
        raise InvalidSpec(
            f"{where} is encrypted, but has no public key of {', '.join(missing)}: ask each host for its own "
            "(mooring network key) and name it as {address: …, public_key: …}"
        )
    by_key: dict[str, str] = {}
    for name, host in hosts.items():
        other = by_key.setdefault(host["public_key"], name)
        if other != name:
            raise InvalidSpec(f"{where} has the same public key for {other} and {name}, expected one each")
    normal = {"encryption": given["encryption"]}
    return normal if given.get("port") is None else normal | {"port": _port(given["port"], where)}


def public_key(value: object, where: str) -> str:
    """A public key as `wg` writes it: base64 of 32 bytes. Raises InvalidSpec."""
    try:
        raw = base64.b64decode(str(value), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != KEY_BYTES or not any(raw) or key_text(raw) != value:
        raise InvalidSpec(
            f"{where} has the public key {value!r}, expected 32 bytes in base64 as the host tells them "
            "(mooring network key)"
        )
    return str(value)


def key_bytes(key: str) -> bytes:
    """The bytes of a key in base64. Raises ValueError."""
    return base64.b64decode(key, validate=True)


def key_text(key: bytes) -> str:
    """A key in base64."""
    return base64.b64encode(key).decode()


def _port(value: object, where: str) -> int:
    if isinstance(value, str) and value.isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 65535:
        raise InvalidSpec(f"{where} has the port {value!r}, expected a number from 1 to 65535")
    return value
