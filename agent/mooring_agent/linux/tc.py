# SPDX-License-Identifier: Apache-2.0
"""Traffic control over rtnetlink: queueing disciplines and filters, tc(8). Building and reading is pure.

Formats follow the kernel's Documentation/netlink/specs/tc.yaml; constants are from <linux/rtnetlink.h>,
<linux/pkt_sched.h>, <linux/pkt_cls.h> and <linux/tc_act/tc_mirred.h>. Rates are bytes a second here, and
sizes bytes, as in the kernel.
"""

from __future__ import annotations

import errno
import socket
import struct
from typing import NamedTuple

from .netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    attributes,
    message,
    string,
    text,
    u32,
)
from .rtnetlink import IFF_UP, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, LINK, RTM_NEWLINK, well_formed

RTM_NEWQDISC = 36
RTM_DELQDISC = 37
RTM_GETQDISC = 38
RTM_NEWTFILTER = 44
RTM_DELTFILTER = 45
RTM_GETTFILTER = 46

TCA_KIND = 1
TCA_OPTIONS = 2
TC_H_ROOT = 0xFFFFFFFF
TC_H_CLSACT = 0xFFFFFFF1
CLSACT_HANDLE = 0xFFFF0000
INGRESS = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
ETH_P_ALL = 3  # <linux/if_ether.h>

TCA_TBF_PARMS = 1
TCA_TBF_RATE64 = 4
TCA_TBF_BURST = 6
TC_LINKLAYER_ETHERNET = 1

TCA_BPF_ACT = 1
TCA_BPF_OPS_LEN = 4
TCA_BPF_OPS = 5
TCA_BPF_FD = 6
TCA_BPF_NAME = 7
TCA_BPF_FLAGS = 8
TCA_BPF_FLAG_ACT_DIRECT = 1

TCA_ACT_KIND = 1
TCA_ACT_OPTIONS = 2
TCA_MIRRED_PARMS = 2
TC_ACT_STOLEN = 4
TCA_EGRESS_REDIR = 1

ROOT_HANDLE = 0x10000  # 1:

ABSENT = (errno.ENOENT, errno.ENODEV, errno.EINVAL)
"""What the kernel says when a link, a discipline or filters that are to be deleted are not there."""

_TC = struct.Struct("=BxHiIII")  # tcmsg: family, padding, interface, handle, parent, info
_RATE = struct.Struct("=BBHhHI")  # tc_ratespec: cell_log, linklayer, overhead, cell_align, mpu, rate
_TBF = struct.Struct("=III")  # after two rates in tc_tbf_qopt: limit, buffer, mtu
_MIRRED = struct.Struct("=IIiiiiI")  # tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex
_MATCH_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0xFFFFFFFF)  # sock_filter: BPF_RET | BPF_K, the whole packet
_MOST_U32 = 2**32 - 1


class Qdisc(NamedTuple):
    """A queueing discipline; `rate` (bytes a second) and `limit` (bytes) are those of a tbf, else 0."""

    ifindex: int
    kind: str
    rate: int
    limit: int


class Filter(NamedTuple):
    """A filter of an interface: its kind, preference (the lowest is asked first), and name if it has one."""

    kind: str
    preference: int
    name: str


def ifb_add(name: str) -> bytes:
    """Create the intermediate device `name`, up: what is led to it goes through its queueing discipline and
    on as if it had just come in where it came from.
    """
    return message(
        RTM_NEWLINK,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        LINK.pack(0, 0, 0, IFF_UP, IFF_UP),
        text(IFLA_IFNAME, name),
        attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, "ifb")),
    )


def clsact_add(ifindex: int) -> bytes:
    """Give an interface the place where filters for what comes in (and goes out) hang."""
    return message(
        RTM_NEWQDISC,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL,
        _TC.pack(0, 0, ifindex, CLSACT_HANDLE, TC_H_CLSACT, 0),
        text(TCA_KIND, "clsact"),
    )


def tbf_replace(ifindex: int, *, rate: int, burst: int, limit: int) -> bytes:
    """Send what leaves an interface at `rate`, tc-tbf(8): `burst` bytes may go at once, and up to `limit`
    wait. One that is there already is changed; what waits in it stays.
    """
    shown = _RATE.pack(0, TC_LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _MOST_U32))
    parameters = shown + bytes(_RATE.size) + _TBF.pack(limit, 0, 0)
    options = attribute(TCA_TBF_PARMS, parameters) + u32(TCA_TBF_BURST, burst)
    if rate > _MOST_U32:
        options += attribute(TCA_TBF_RATE64, struct.pack("=Q", rate))
    return message(
        RTM_NEWQDISC,
        NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE,
        _TC.pack(0, 0, ifindex, ROOT_HANDLE, TC_H_ROOT, 0),
        text(TCA_KIND, "tbf"),
        attribute(TCA_OPTIONS, options),
    )


def root_delete(ifindex: int) -> bytes:
    """Take the discipline off that `tbf_replace` has made; what waits in it is lost."""
    return message(RTM_DELQDISC, NLM_F_ACK, _TC.pack(0, 0, ifindex, ROOT_HANDLE, TC_H_ROOT, 0))


def ingress_program(ifindex: int, preference: int, program: int, name: str) -> bytes:
    """Ask a loaded program (its descriptor) what becomes of what comes in through an interface with a clsact,
    tc-bpf(8) direct-action. The one with this preference is replaced, without a gap.
    """
    options = (
        u32(TCA_BPF_FD, program) + text(TCA_BPF_NAME, name) + u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT)
    )
    return _filter_replace(ifindex, preference, options)


def ingress_redirect(ifindex: int, preference: int, to: int) -> bytes:
    """Lead all that comes in through an interface with a clsact to the interface `to`, tc-mirred(8)."""
    action = text(TCA_ACT_KIND, "mirred") + attribute(
        TCA_ACT_OPTIONS,
        attribute(TCA_MIRRED_PARMS, _MIRRED.pack(0, 0, TC_ACT_STOLEN, 0, 0, TCA_EGRESS_REDIR, to)),
    )
    # A classic program that takes every packet, so that no further kind of filter is needed of the kernel.
    options = (
        attribute(TCA_BPF_ACT, attribute(1, action))
        + attribute(TCA_BPF_OPS_LEN, struct.pack("=H", 1))
        + attribute(TCA_BPF_OPS, _MATCH_ALL)
    )
    return _filter_replace(ifindex, preference, options)


def ingress_filter_delete(ifindex: int, preference: int) -> bytes:
    """Remove the filters of this preference."""
    body = _TC.pack(0, 0, ifindex, 0, INGRESS, preference << 16)
    return message(RTM_DELTFILTER, NLM_F_ACK, body)


def qdisc_dump() -> bytes:
    """Ask for the queueing disciplines of all interfaces; `parse_qdisc` reads the answers."""
    return message(RTM_GETQDISC, NLM_F_DUMP, _TC.pack(0, 0, 0, 0, 0, 0))


def ingress_dump(ifindex: int) -> bytes:
    """Ask for the filters of what comes in through an interface; `parse_filter` reads the answers."""
    return message(RTM_GETTFILTER, NLM_F_DUMP, _TC.pack(0, 0, ifindex, 0, INGRESS, 0))


@well_formed
def parse_qdisc(payload: bytes) -> Qdisc:
    """Read the payload of an RTM_NEWQDISC."""
    ifindex = _TC.unpack_from(payload)[2]
    found = attributes(payload, _TC.size)
    kind = string(found.get(TCA_KIND, b""))
    if kind != "tbf":
        return Qdisc(ifindex, kind, 0, 0)
    options = attributes(found.get(TCA_OPTIONS, b""))
    rate = _RATE.unpack_from(options[TCA_TBF_PARMS])[-1]
    if TCA_TBF_RATE64 in options:
        [rate] = struct.unpack("=Q", options[TCA_TBF_RATE64])
    return Qdisc(ifindex, kind, rate, _TBF.unpack_from(options[TCA_TBF_PARMS], 2 * _RATE.size)[0])


@well_formed
def parse_filter(payload: bytes) -> Filter:
    """Read the payload of an RTM_NEWTFILTER."""
    info = _TC.unpack_from(payload)[-1]
    found = attributes(payload, _TC.size)
    name = string(attributes(found.get(TCA_OPTIONS, b"")).get(TCA_BPF_NAME, b""))
    return Filter(string(found.get(TCA_KIND, b"")), info >> 16, name)


def _filter_replace(ifindex: int, preference: int, options: bytes) -> bytes:
    return message(
        RTM_NEWTFILTER,
        NLM_F_ACK | NLM_F_CREATE,
        _TC.pack(0, 0, ifindex, 1, INGRESS, preference << 16 | socket.htons(ETH_P_ALL)),
        text(TCA_KIND, "bpf"),
        attribute(TCA_OPTIONS, options),
    )
