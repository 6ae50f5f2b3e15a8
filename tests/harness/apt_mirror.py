# SPDX-License-Identifier: Apache-2.0
"""The mirrors that this host's apt has its packages from."""

from __future__ import annotations

import socket
import urllib.parse

import pytest

from mooring_agent.images.apt_sources import host_sources

_TIMEOUT = 5.0  # seconds


def need_apt_mirror() -> None:
    """Skip the test unless one of them answers; that is up to the network, and nothing to be installed."""
    for source in host_sources():
        parts = urllib.parse.urlsplit(source.uris[0])
        try:
            socket.create_connection((parts.hostname or "", parts.port or 80), _TIMEOUT).close()
        except OSError:
            continue
        return
    pytest.skip("needs a network with a mirror of the host's apt: none of its sources answers")
