# SPDX-License-Identifier: Apache-2.0
"""What `docker top` shows: processes as `ps -ef` lists them, read from /proc (proc_pid_stat(5))."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

TITLES = ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]

# Indexes after the command's closing parenthesis.
_PPID, _TTY, _UTIME, _STIME, _START = 1, 4, 11, 12, 19
_PTS_MAJOR = 136  # Documentation/admin-guide/devices.txt: unix98 pty slaves, eight majors from here on
_DAY = 86400


def table(pids: Iterable[int]) -> list[list[str]]:
    """One row a process; those that have ended meanwhile are left out."""
    uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
    rows = []
    for pid in sorted(pids):
        try:
            rows.append(_row(pid, uptime))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return rows


def _row(pid: int, uptime: float) -> list[str]:
    directory = Path(f"/proc/{pid}")
    text = (directory / "stat").read_bytes()
    fields = text[text.rindex(b")") + 2 :].split()
    ticks = os.sysconf("SC_CLK_TCK")
    used = (int(fields[_UTIME]) + int(fields[_STIME])) / ticks
    age = max(uptime - int(fields[_START]) / ticks, 0.0)
    share = int(100 * used / age) if age else 0
    return [
        str(directory.stat().st_uid),
        str(pid),
        fields[_PPID].decode(),
        str(share),
        _began(time.time() - age, age),
        _terminal(int(fields[_TTY])),
        time.strftime("%H:%M:%S", time.gmtime(used)),
        _command(directory, text),
    ]


def _began(moment: float, age: float) -> str:
    return time.strftime("%H:%M" if age < _DAY else "%b%d", time.localtime(moment))


def _terminal(device: int) -> str:
    major, minor = os.major(device), os.minor(device)
    if device == 0:
        return "?"
    return f"pts/{(major - _PTS_MAJOR) * 256 + minor}" if major >= _PTS_MAJOR else f"tty{minor}"


def _command(directory: Path, stat: bytes) -> str:
    arguments = (directory / "cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ")
    if not arguments:
        # A zombie has no arguments left: ps shows its name in brackets.
        arguments = b"[" + stat[stat.index(b"(") + 1 : stat.rindex(b")")] + b"]"
    return arguments.decode("utf-8", "replace")
