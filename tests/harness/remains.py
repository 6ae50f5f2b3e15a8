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
from functools import cached_property
from pathlib import Path

from harness.host import cgroup_mounts
from harness.waiting import PATIENCE, NotInTime, eventually

_PROGRAM_TIMEOUT = 20.0 * PATIENCE  # seconds


class Host:
    """What there is on this host, each kind looked at once: at the moment when it is first asked for."""

    @cached_property
    def processes(self) -> list[tuple[int, bytes]]:
        """Every process but this one, with its command line, proc_pid_cmdline(5)."""
        found = []
        for entry in os.listdir("/proc"):
            if not entry.isdigit() or int(entry) == os.getpid():
                continue
            try:
                found.append((int(entry), Path("/proc", entry, "cmdline").read_bytes()))
            except OSError:  # it has ended meanwhile
                continue
        return found

    @cached_property
    def mounts(self) -> list[tuple[str, str]]:
        """The target and the whole line of each mount, proc_pid_mountinfo(5)."""
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        return [(line.split()[4], line) for line in lines]

    @cached_property
    def groups(self) -> dict[str, list[Path]]:
        """Name of a cgroup → where it is, in all hierarchies."""
        found: dict[str, list[Path]] = {}
        for mount in cgroup_mounts():
            for directory, names, _files in os.walk(mount):
                for name in names:
                    found.setdefault(name, []).append(Path(directory, name))
        return found

    @cached_property
    def tables(self) -> list[tuple[str, str]]:
        """Family and name of each nftables table."""
        if shutil.which("nft") is None:
            return []
        listed = _run("nft", "--json", "list", "tables")
        if listed.returncode != 0:
            return []
        tables = [item["table"] for item in json.loads(listed.stdout)["nftables"] if "table" in item]
        return [(table["family"], table["name"]) for table in tables]

    @cached_property
    def links(self) -> list[str]:
        """The names of the network interfaces."""
        return os.listdir("/sys/class/net")


@dataclass(frozen=True)
class Traces:
    """By what the things of one agent are recognised.

    Whoever looks for those of many agents gives them one `Host`; else the host is looked at anew.
    """

    base: Path
    cgroup_parent: str
    nft_table: str
    bridge_prefix: str

    def remains(self, host: Host | None = None) -> list[str]:
        """Return what is there, a line each; empty when nothing is left."""
        host = host or Host()
        return [
            *(f"process {pid}: {command}" for pid, command in self._processes(host)),
            *(f"mount {target}" for target in self.mounts(host)),
            *(f"cgroup {path} with processes {pids}" for path, pids in self.occupied_cgroups(host)),
            *(f"nftables table {family} {name}" for family, name in self._tables(host)),
            *(f"link {name}" for name in self._links(host)),
        ]

    def wait_until_gone(self, timeout: float) -> list[str]:
        """Return what is still there after `timeout` seconds; the kernel ends some things late."""
        try:
            eventually(lambda: not self.remains(), timeout)
        except NotInTime:
            return self.remains()
        return []

    def sweep(self, host: Host | None = None) -> None:
        """Remove whatever is left by force, so that one failure does not spoil other tests."""
        host = host or Host()
        for pid, _command in self._processes(host):
            _kill(pid)
        groups = self._cgroups(host)
        for path in groups:
            for pid in _pids(path):
                _kill(pid)
        for target in sorted(self.mounts(host), reverse=True):
            _run("umount", "--lazy", target)
        for path in groups:
            _remove_group(path)
        for family, name in self._tables(host):
            _run("nft", "delete", "table", family, name)
        for name in self._links(host):
            _run("ip", "link", "delete", name)

    def occupied_cgroups(self, host: Host | None = None) -> Iterator[tuple[Path, list[int]]]:
        """Yield our groups but the parent itself while it is empty: it stays when an agent merely stops."""
        for path in self._cgroups(host or Host()):
            pids = _pids(path)
            if pids or path.name != self.cgroup_parent:
                yield path, pids

    def _processes(self, host: Host) -> Iterator[tuple[int, str]]:
        wanted = bytes(self.base)
        for pid, command in host.processes:
            if wanted in command:
                yield pid, command.replace(b"\0", b" ").decode(errors="replace").strip()

    def mounts(self, host: Host) -> list[str]:
        """Return the targets of mounts that have to do with our directory."""
        return [target for target, line in host.mounts if str(self.base) in line]

    def _cgroups(self, host: Host) -> list[Path]:
        """Return our groups, the innermost first."""
        found = host.groups.get(self.cgroup_parent, [])
        inner = [Path(each) for path in found for each, _names, _files in os.walk(path, topdown=False)]
        return sorted(inner, key=lambda path: len(path.parts), reverse=True)

    def _tables(self, host: Host) -> list[tuple[str, str]]:
        ours = (self.nft_table, f"{self.nft_table}_names")
        return [(family, name) for family, name in host.tables if name in ours]

    def _links(self, host: Host) -> list[str]:
        return [name for name in host.links if name.startswith(self.bridge_prefix)]


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
