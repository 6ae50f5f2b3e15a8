# SPDX-License-Identifier: Apache-2.0
"""A CA of a test's own, and the certificates that it signs."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from harness.waiting import PATIENCE

_NEW = ("openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate and its key, as files in PEM form."""

    certificate: Path
    key: Path


class Authority:
    """Keeps all of its files in one directory; `ca_file` is its own certificate."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.ca_file = directory / "ca.pem"
        _run(
            *(*_NEW, "-x509", "-days", "2", "-subj", "/CN=CA of the tests"),
            *("-keyout", f"{directory}/ca.key", "-out", str(self.ca_file)),
        )

    def server(self, name: str = "server") -> Issued:
        """A certificate for 127.0.0.1, ::1 and localhost."""
        return self._issue(
            name,
            f"/CN={name}",
            "extendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1",
        )

    def client(self, name: str, subject: str = "", days: str = "2") -> Issued:
        """A client's certificate with this common name, or with this subject, in openssl's form."""
        return self._issue(name, subject or f"/O=tests/CN={name}", "extendedKeyUsage=clientAuth", days)

    def _issue(self, name: str, subject: str, extensions: str, days: str = "2") -> Issued:
        issued = Issued(self.directory / f"{name}.pem", self.directory / f"{name}.key")
        request, file = self.directory / f"{name}.csr", self.directory / f"{name}.extensions"
        _run(*_NEW, "-subj", subject, "-keyout", str(issued.key), "-out", str(request))
        file.write_text(extensions + "\n", encoding="utf-8")
        _run(
            *("openssl", "x509", "-req", "-days", days, "-in", str(request), "-CAcreateserial"),
            *("-CA", str(self.ca_file), "-CAkey", f"{self.directory}/ca.key"),
            *("-extfile", str(file), "-out", str(issued.certificate)),
        )
        return issued


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60 * PATIENCE, check=False)
    assert done.returncode == 0, f"{command[0]} {command[1]} failed: {done.stderr}"
