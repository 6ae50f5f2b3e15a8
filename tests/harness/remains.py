# SPDX-License-Identifier: Apache-2.0
"""What an agent has left on the host, found by the names that only this agent uses."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.host import cgroup_mounts
from harness.waiting import NotInTime, eventually

_PROGRAM_TIMEOUT = 20.0  # seconds


@dataclass(frozen=True)
class Traces:
    """By what the things of one agent are recognised."""

    base: Path
    cgroup_parent: str
    nft_table: str
    bridge_prefix: str

    def remains(self) -> list[str]:
        """Return what is there, a line each; empty when nothing is left."""
        return [
            *(f"process {pid}: {command}" for pid, command in self._processes()),
            *(f"mount {target}" for target in self._mounts()),
            *(f"cgroup {path} with processes {pids}" for path, pids in self._occupied_cgroups()),
            *(f"nftables table {family} {name}" for family, name in self._tables()),
            *(f"link {name}" for name in self._links()),
        ]

    def wait_until_gone(self, timeout: float) -> list[str]:
        """Return what is still there after `timeout` seconds; the kernel ends some things late."""
        try:
            eventually(lambda: not self.remains(), timeout)
        except NotInTime:
            return self.remains()
        return []

    def sweep(self) -> None:
        """Remove whatever is left by force, so that one failure does not spoil other tests."""
        for pid, _command in self._processes():
            _kill(pid)
        for path in self._cgroups():
            for pid in _pids(path):
                _kill(pid)
        for target in sorted(self._mounts(), reverse=True):
            _run("umount", "--lazy", target)
        for path in self._cgroups():
            _remove_group(path)
        for family, name in self._tables():
            _run("nft", "delete", "table", family, name)
        for name in self._links():
            _run("ip", "link", "delete", name)

    def _processes(self) -> Iterator[tuple[int, str]]:
        wanted = bytes(self.base)
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                command = Path("/proc", entry, "cmdline").read_bytes()
            except OSError:  # it has ended meanwhile
                continue
            if wanted in command:
                yield int(entry), command.replace(b"\0", b" ").decode(errors="replace").strip()

    def _mounts(self) -> list[str]:
        text = Path("/proc/self/mountinfo").read_text()
        return [line.split()[4] for line in text.splitlines() if str(self.base) in line]

    def _occupied_cgroups(self) -> Iterator[tuple[Path, list[int]]]:
        """Yield our groups but the parent itself while it is empty: it stays when an agent merely stops."""
        for path in self._cgroups():
            pids = _pids(path)
            if pids or path.name != self.cgroup_parent:
                yield path, pids

    def _cgroups(self) -> list[Path]:
        """Return our groups, the innermost first."""
        found = []
        for mount in cgroup_mounts():
            for directory, names, _files in os.walk(mount):
                if self.cgroup_parent in names:
                    found.append(Path(directory, self.cgroup_parent))
                    names.remove(self.cgroup_parent)
        inner = [Path(each) for path in found for each, _names, _files in os.walk(path, topdown=False)]
        return sorted(inner, key=lambda path: len(path.parts), reverse=True)

    def _tables(self) -> list[tuple[str, str]]:
        if shutil.which("nft") is None:
            return []
        listed = _run("nft", "--json", "list", "tables")
        if listed.returncode != 0:
            return []
        ours = (self.nft_table, f"{self.nft_table}_names")
        tables = [item["table"] for item in json.loads(listed.stdout)["nftables"] if "table" in item]
        return [(table["family"], table["name"]) for table in tables if table["name"] in ours]

    def _links(self) -> list[str]:
        return [name for name in os.listdir("/sys/class/net") if name.startswith(self.bridge_prefix)]


def _pids(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:  # the group is gone, or its type has no processes
        return []


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def _remove_group(path: Path) -> None:
    def removed() -> bool:
        try:
            path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:  # a killed process is still leaving
            return False
        return True

    try:
        eventually(removed, 5.0)
    except NotInTime:
        return


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_PROGRAM_TIMEOUT,
    )
