# SPDX-License-Identifier: Apache-2.0
"""Where a BPF program hangs that is asked about each frame that comes in through an interface.

From Linux 6.6 on there is a list of programs of the interface itself (TCX), which costs a frame half of what
a filter of tc(8) does: a round trip between containers takes 1 % less. But whoever puts one there waits until
no processor reads the list any more, some 10 ms, in which the kernel lets nobody change any interface. That
is for when nobody waits. Either stays when whoever put it there ends, and goes with the interface.
"""

from __future__ import annotations

import errno
import os

from ..linux import bpf, tc
from ..linux.netlink import NetlinkError
from ..linux.rtnetlink import LOOPBACK, RouteSocket


def has_lists() -> bool:
    """Whether this kernel keeps lists of programs at its interfaces."""
    try:
        bpf.ingress_programs(LOOPBACK)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def enlist(ifindex: int, program: int, name: str) -> None:
    """Ask a loaded program (its descriptor) of this name, in place of one of the same name on the interface's
    list, without a gap, or else ahead of all others. Raises OSError.
    """
    before = _of_name(ifindex, name)
    if before == -1:
        bpf.attach_at_ingress(ifindex, program)
        return
    try:
        bpf.attach_at_ingress(ifindex, program, before)
    except FileExistsError:  # the very same is asked already
        pass
    finally:
        os.close(before)


def is_listed(ifindex: int, name: str) -> bool:
    """Whether a program of this name is on the interface's list. Raises OSError if there is no interface."""
    found = _of_name(ifindex, name)
    if found != -1:
        os.close(found)
    return found != -1


def hang_filter(netlink: RouteSocket, ifindex: int, preference: int, program: int, name: str) -> None:
    """Ask a loaded program as a filter, in place of the one of this preference, without a gap."""
    make_room_for_filters(netlink, ifindex)
    netlink.execute(tc.ingress_program(ifindex, preference, program, name))


def has_filter(netlink: RouteSocket, ifindex: int, preference: int, name: str) -> bool:
    """Whether there is a filter of this name and preference. Raises OSError if there is no interface."""
    found = map(tc.parse_filter, netlink.dump(tc.ingress_dump(ifindex)))
    return any((one.preference, one.name) == (preference, name) for one in found)


def make_room_for_filters(netlink: RouteSocket, ifindex: int) -> None:
    """Give an interface a clsact, unless it has one."""
    try:
        netlink.execute(tc.clsact_add(ifindex))
    except NetlinkError as error:
        if error.errno != errno.EEXIST:
            raise


def remove_filter(netlink: RouteSocket, ifindex: int, preference: int) -> None:
    """Remove the filters of this preference, if there are any."""
    try:
        netlink.execute(tc.ingress_filter_delete(ifindex, preference))
    except NetlinkError as error:
        if error.errno not in tc.ABSENT:
            raise


def _of_name(ifindex: int, name: str) -> int:
    """A descriptor of the program of this name on the interface's list, -1 if there is none."""
    for number in bpf.ingress_programs(ifindex):
        try:
            program = bpf.program_by_id(number)
        except FileNotFoundError:  # taken off meanwhile
            continue
        if bpf.program_name(program) == name:
            return program
        os.close(program)
    return -1
