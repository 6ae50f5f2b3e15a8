# SPDX-License-Identifier: Apache-2.0
"""The agent's certificate and its clients' CA, read again when their files change."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

from ...errors import InvalidSpec
from .settings import TlsSettings

log = logging.getLogger(__name__)

_Signature = tuple[tuple[int, int, int] | None, ...]


class Certificates:
    """The context for the next handshake; files that are replaced count from then on.

    New files that are no use leave the former ones in force, and the log says so, once for each change.
    """

    def __init__(self, settings: TlsSettings) -> None:
        """Raises InvalidSpec if the files are no use."""
        self._settings = settings
        # Before the files are read: what changes meanwhile is read again.
        self._seen = self._signature()
        self._context = _context_of(settings)

    def context(self) -> ssl.SSLContext:
        """The context that the files make now."""
        signature = self._signature()
        if signature != self._seen:
            self._seen = signature
            try:
                self._context = _context_of(self._settings)
            except InvalidSpec as error:
                log.warning("tls_files_kept reason=%r", f"{error.message}; the former ones stay in force")
            else:
                log.info("tls_files_read certificate=%s", self._settings.certificate)
        return self._context

    def _signature(self) -> _Signature:
        settings = self._settings
        return tuple(_stamp(path) for path in (settings.ca_file, settings.certificate, settings.key))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino, status.st_size


def _context_of(settings: TlsSettings) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    # A client may not make us calculate by asking for handshake after handshake, and no session is handed out
    # to be gone on with: it would outlive the CA that let it in. Those that OpenSSL itself keeps for TLS 1.2
    # cannot be turned off from Python: they end with the context, and `Handshake` looks at the certificate.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    try:
        context.load_verify_locations(settings.ca_file)
        # A key that is encrypted must not ask on the terminal.
        context.load_cert_chain(settings.certificate, settings.key, password="")
    except (OSError, ValueError) as error:
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise InvalidSpec(
            f"tls is not usable ({reason}): expected the clients' CA in {settings.ca_file}, and in "
            f"{settings.certificate} and {settings.key} a certificate and its key, not encrypted, all in PEM "
            "form"
        ) from error
    return context
