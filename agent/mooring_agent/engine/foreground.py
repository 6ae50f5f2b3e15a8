# SPDX-License-Identifier: Apache-2.0
"""What a terminal's foreground process group is doing, told by /proc and the terminal itself."""

from __future__ import annotations

import os
import termios
from typing import Any

# read(2) in the two system-call tables that Mooring runs on (x86_64, aarch64).
_READ_CALLS = ("0", "63")


def foreground(leader: int, master: int) -> dict[str, Any]:
    """The foreground group of the terminal whose session leader is process `leader` and whose master is open
    as `master`.

    pid, pgid, command of the group's leader; `is_shell`: it is the session leader's own group;
    `waiting_for_input`: one of its processes reads the terminal; `echo` and `canonical`: the terminal's
    modes. Raises OSError once it has ended.
    """
    fields = _stat(leader)
    group, in_front = int(fields[2]), int(fields[5])
    local_modes = termios.tcgetattr(master)[3]
    members = _members(leader, in_front)
    front = in_front if in_front in members or not members else members[0]
    return {
        "pid": front,
        "pgid": in_front,
        "command": _command(front),
        "is_shell": in_front == group,
        "waiting_for_input": any(_reads_terminal(pid) for pid in members),
        "echo": bool(local_modes & termios.ECHO),
        "canonical": bool(local_modes & termios.ICANON),
    }


def _members(leader: int, group: int) -> list[int]:
    """The processes of `group` among `leader` and its descendants."""
    found, waiting = [], [leader]
    while waiting:
        pid = waiting.pop()
        try:
            if int(_stat(pid)[2]) == group:
                found.append(pid)
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as file:
                    waiting += [int(child) for child in file.read().split()]
        except OSError:
            continue  # it has ended meanwhile
    return sorted(found)


def _reads_terminal(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
            call = file.read().split()
        if call[0] not in _READ_CALLS:
            return False
        return os.readlink(f"/proc/{pid}/fd/{int(call[1], 16)}").startswith(
            ("/dev/pts/", "/dev/tty", "/dev/console")
        )
    except (OSError, IndexError):
        return False


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) stat from the third on: state, ppid, pgrp, session, tty_nr, tpgid, …"""
    with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
        content = file.read()
    return content[content.rindex(")") + 2 :].split()


def _command(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""
