# SPDX-License-Identifier: Apache-2.0
"""The sockets of the agent's servers on TCP, and TLS for clients with a certificate of one CA.

`setting` is what the configuration calls a thing, for the error that says that it is no use.
"""

from __future__ import annotations

import errno
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from .errors import Conflict, InvalidSpec


def split_address(address: str) -> tuple[str, int]:
    """Host, without brackets, and port."""
    parts = urlsplit(f"//{address}")
    return parts.hostname or "", parts.port or 0


def listen(address: str, backlog: int, setting: str) -> socket.socket:
    """Listen at HOST:PORT. Raises Conflict for an address in use, InvalidSpec for one that is no use."""
    host, port = split_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=backlog)
    except OSError as error:
        kind = Conflict if error.errno == errno.EADDRINUSE else InvalidSpec
        raise kind(
            f"the agent cannot listen on {address}: {error.strerror or error}; choose another {setting}"
        ) from error


def server_context(ca_file: Path, certificate: Path, key: Path, setting: str) -> ssl.SSLContext:
    """TLS 1.2 and 1.3, for clients with a certificate of the CA. Raises InvalidSpec for files of no use."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(ca_file)
        # A key that is encrypted must not ask on the terminal.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InvalidSpec(
            f"{setting} is not usable ({reason}): expected the clients' CA in {ca_file}, and in "
            f"{certificate} and {key} a certificate and its key, not encrypted, all in PEM form"
        ) from error
    return context
