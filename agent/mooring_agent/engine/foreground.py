# SPDX-License-Identifier: Apache-2.0
"""What a terminal's foreground process group is doing, told by /proc and the terminal itself."""

from __future__ import annotations

import os
import platform
import struct
import termios
from typing import Any

# System calls that take input from a descriptor, and which argument it is: read, readv, sendfile, splice.
# Calls that wait for descriptors in an array (poll, ppoll), and those that wait for sets of them (select,
# pselect6, epoll_wait, epoll_pwait). Numbers of arch/x86/entry/syscalls/syscall_64.tbl and of
# include/uapi/asm-generic/unistd.h.
_TABLES: dict[str, tuple[dict[int, int], set[int], set[int]]] = {
    "x86_64": ({0: 1, 19: 1, 40: 2, 275: 1}, {7, 271}, {23, 270, 232, 281}),
    "aarch64": ({63: 1, 65: 1, 71: 2, 76: 1}, {73}, {72, 22}),
}
_TAKING, _POLLING, _SELECTING = _TABLES.get(platform.machine(), ({}, set(), set()))
_TERMINALS = ("/dev/pts/", "/dev/tty", "/dev/console")


def foreground(leader: int, master: int) -> dict[str, Any]:
    """The foreground group of the terminal whose session leader is process `leader` and whose master is open
    as `master`.

    pid, pgid, command of the group's leader; `is_shell`: it is the session leader's own group;
    `waiting_for_input`: one of its processes waits for the terminal; `echo` and `canonical`: the terminal's
    modes. Raises OSError once it has ended.
    """
    fields = _stat(leader)
    group, in_front = int(fields[2]), int(fields[5])
    local_modes = termios.tcgetattr(master)[3]
    members = _members(leader, in_front)
    canonical = bool(local_modes & termios.ICANON)
    front = in_front if in_front in members or not members else members[0]
    return {
        "pid": front,
        "pgid": in_front,
        "command": _command(front),
        "is_shell": in_front == group,
        "waiting_for_input": any(_waits_for_terminal(pid, canonical) for pid in members),
        "echo": bool(local_modes & termios.ECHO),
        "canonical": canonical,
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


def _waits_for_terminal(pid: int, canonical: bool) -> bool:
    """Whether the system call that the process is in waits for its terminal, proc(5) `syscall`.

    Of a set of descriptors nothing is known but that somebody waits: that counts for a program that has taken
    the terminal out of its canonical mode, which is one that reads it key by key.
    """
    try:
        with open(f"/proc/{pid}/syscall", encoding="ascii") as file:
            call = file.read().split()
        if len(call) < 3 or not call[0].isdigit():
            return False
        number = int(call[0])
        if number in _TAKING:
            return _is_terminal(pid, int(call[_TAKING[number]], 16))
        if number in _POLLING:
            with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
                memory.seek(int(call[1], 16))
                (first,) = struct.unpack("=i", memory.read(4))  # struct pollfd begins with the descriptor
            return _is_terminal(pid, first)
        return number in _SELECTING and not canonical
    except (OSError, ValueError, struct.error):
        return False  # it has ended meanwhile, or the kernel does not tell


def _is_terminal(pid: int, descriptor: int) -> bool:
    return os.readlink(f"/proc/{pid}/fd/{descriptor}").startswith(_TERMINALS)


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
