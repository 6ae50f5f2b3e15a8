# SPDX-License-Identifier: Apache-2.0
"""An OpenSSH server of a test's own on 127.0.0.1, with keys of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

from harness.claims import free_port
from harness.waiting import PATIENCE

_READY_WITHIN = 10.0 * PATIENCE


class Sshd:
    """`sshd -D` on a free port; `options` are further lines of sshd_config(5)."""

    def __init__(self, directory: Path, *options: str) -> None:
        self.directory = directory
        self.client_key = directory / "client"
        self.other_key = directory / "other"
        self.host_key = directory / "host"
        for key in (self.client_key, self.other_key, self.host_key):
            if not key.exists():
                command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)]
                subprocess.run(command, check=True, stdin=subprocess.DEVNULL, timeout=20)
        keys = directory / "authorized_keys"
        shutil.copy(f"{self.client_key}.pub", keys)
        self.port = free_port()
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        lines = [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {self.host_key}",
            f"AuthorizedKeysFile {keys}",
            "PidFile none",
            "UsePAM no",
            "StrictModes no",
            "PasswordAuthentication no",
            "PermitRootLogin yes",
            f"SetEnv PATH={path}",
            *options,
        ]
        config = directory / f"sshd_config.{self.port}"
        config.write_text("\n".join(lines) + "\n")
        self.log = directory / f"sshd.{self.port}.log"
        # Privilege separation wants its directory, which Debian makes when the service starts. It stays, for
        # servers of other tests may want it too.
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
        assert sshd is not None, "no sshd on this host: install openssh-server"
        self.process = subprocess.Popen([sshd, "-D", "-e", "-f", str(config), "-E", str(self.log)])
        self._wait_until_ready()

    def known_hosts(self, key: Path | None = None) -> Path:
        """Write a file of known hosts with the server's key, or with another one in its place."""
        kind, data, *_ = Path(f"{key or self.host_key}.pub").read_text().split()
        file = self.directory / f"known_hosts.{self.port}{'.other' if key else ''}"
        file.write_text(f"[127.0.0.1]:{self.port} {kind} {data}\n")
        return file

    def close(self) -> None:
        """End the server; connections that are open end by themselves."""
        self.process.terminate()
        self.process.wait(10 * PATIENCE)

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _READY_WITHIN
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                    assert connection.recv(4) == b"SSH-"
                    return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < end, self.log.read_text()
                time.sleep(0.02)
