# SPDX-License-Identifier: Apache-2.0
"""A systemd-journald of a test's own, in a mount namespace in which it has /run/systemd/journal to itself."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from harness.waiting import eventually

PROGRAM = "/lib/systemd/systemd-journald"
SOCKET = "/run/systemd/journal/socket"
_CONFIG = """[Journal]
Storage=volatile
RateLimitIntervalSec=0
SystemMaxUse=512M
RuntimeMaxUse=512M
ReadKMsg=no
Audit=no
ForwardToSyslog=no
ForwardToKMsg=no
ForwardToConsole=no
ForwardToWall=no
"""
_MAKE = """
set -e
mount -t tmpfs tmpfs /run/systemd
mkdir -p /run/systemd/journal
mount -t tmpfs tmpfs /run/log
mkdir /run/log/journal
mount --bind "$1" /etc/systemd/journald.conf
echo made
exec sleep infinity
"""


class Journald:
    """A running journal. `enter` is what a command begins with to be where it is."""

    def __init__(self, directory: Path) -> None:
        config = directory / "journald.conf"
        config.write_text(_CONFIG)
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MAKE, "sh", str(config)],
            stdout=subprocess.PIPE,
        )
        assert self._holder.stdout is not None
        assert self._holder.stdout.readline() == b"made\n"
        self._journald: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def enter(self) -> tuple[str, ...]:
        """What a command begins with to be in the journal's namespace."""
        return ("nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt", "--wdns=/")

    def start(self) -> None:
        """Start it, again if it was killed."""
        self._journald = subprocess.Popen(
            [*self.enter, PROGRAM], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually(self._answers, what="the journal's socket")

    def kill(self) -> None:
        """Kill it, and take its socket away."""
        assert self._journald is not None
        self._journald.kill()
        self._journald.wait(10)
        subprocess.run([*self.enter, "rm", SOCKET], check=True)

    def entries(self, *matches: str) -> list[dict[str, Any]]:
        """Return its entries that have these fields (NAME=VALUE)."""
        shown = subprocess.run(
            [
                *self.enter,
                "journalctl",
                "--directory=/run/log/journal",
                "--merge",
                "--all",
                "-o",
                "json",
                *matches,
            ],
            check=True,
            capture_output=True,
            timeout=60,
        )
        return [json.loads(line) for line in shown.stdout.splitlines()]

    def close(self) -> None:
        """End it and its namespace."""
        for process in (self._journald, self._holder):
            if process is not None:
                process.kill()
                process.wait(10)
                if process.stdout is not None:
                    process.stdout.close()

    def _answers(self) -> bool:
        return not subprocess.run([*self.enter, "test", "-S", SOCKET], check=False).returncode
