# SPDX-License-Identifier: Apache-2.0
"""The agent's certificate and its clients' CA, read again when their files change."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

from ...errors import InvalidSpec
from ...serving import server_context
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
    context = server_context(settings.ca_file, settings.certificate, settings.key, "tls")
    # A client may not make us calculate by asking for handshake after handshake, and no session is handed out
    # to be gone on with: it would outlive the CA that let it in. Those that OpenSSL itself keeps for TLS 1.2
    # cannot be turned off from Python: they end with the context, and `Handshake` looks at the certificate.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
    context.num_tickets = 0
    return context
