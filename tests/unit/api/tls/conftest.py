# SPDX-License-Identifier: Apache-2.0
"""A CA with a server and two clients, and another CA that is nobody's."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.authority import Authority, Issued
from harness.host import need_programs


@dataclass(frozen=True)
class Certified:
    """What the tests of a session show each other."""

    authority: Authority
    server: Issued
    client: Issued
    foreign: Issued

    def context(
        self, client: Issued | None, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    ) -> ssl.SSLContext:
        """A client's context that believes the server, and shows this certificate."""
        context = ssl.create_default_context(cafile=str(self.authority.ca_file))
        context.maximum_version = version
        if client is not None:
            context.load_cert_chain(client.certificate, client.key)
        return context


@pytest.fixture(scope="session")
def certified(tmp_path_factory: pytest.TempPathFactory) -> Certified:
    need_programs("openssl")
    directory: Path = tmp_path_factory.mktemp("tls")
    authority = Authority(directory / "ours")
    foreign = Authority(directory / "foreign")
    return Certified(authority, authority.server(), authority.client("ci"), foreign.client("ci"))
