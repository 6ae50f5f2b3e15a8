# SPDX-License-Identifier: Apache-2.0
"""The bpf(2) calls that we need: programs for devices of a version 2 cgroup and for packets, and maps.

Constants: include/uapi/linux/bpf.h.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "s390x": 351, "ppc64le": 361}

MAP_CREATE = 0
MAP_UPDATE_ELEM = 2
MAP_DELETE_ELEM = 3
PROG_LOAD = 5
PROG_ATTACH = 8
PROG_DETACH = 9
PROG_GET_FD_BY_ID = 13
OBJ_GET_INFO_BY_FD = 15
PROG_QUERY = 16

PROG_TYPE_SCHED_CLS = 3
PROG_TYPE_CGROUP_DEVICE = 15
MAP_TYPE_HASH = 1
F_NO_PREALLOC = 1 << 0
CGROUP_DEVICE = 6
TCX_INGRESS = 46
F_ALLOW_MULTI = 1 << 1
F_REPLACE = 1 << 2
F_BEFORE = 1 << 3

_PROGRAM_INFO_SIZE = 80  # of struct bpf_prog_info, as far as the end of its name
_PROGRAM_INFO_NAME = slice(64, 80)

_libc = ctypes.CDLL(None, use_errno=True)


def load_device_program(instructions: bytes, name: str) -> int:
    """Load a program of type CGROUP_DEVICE; answers its descriptor. Raises OSError (EINVAL: the verifier
    refused it)."""
    return _load(PROG_TYPE_CGROUP_DEVICE, instructions, name)


def load_packet_program(instructions: bytes, name: str) -> int:
    """Load a program of type SCHED_CLS; answers its descriptor. Raises OSError (EINVAL or EACCES: the
    verifier refused it)."""
    return _load(PROG_TYPE_SCHED_CLS, instructions, name)


def _load(kind: int, instructions: bytes, name: str) -> int:
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII16s",
        kind,
        len(instructions) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        0,  # log_level
        0,  # log_size
        0,  # log_buf
        0,  # kern_version
        0,  # prog_flags
        name.encode("ascii")[:15],
    )
    return _bpf(PROG_LOAD, attributes)


def make_map(key_size: int, value_size: int, most: int, name: str) -> int:
    """Make a hash map of at most `most` entries, whose memory is taken as they come; its descriptor."""
    attributes = struct.pack(
        "=IIIIIII16s", MAP_TYPE_HASH, key_size, value_size, most, F_NO_PREALLOC, 0, 0, name.encode()[:15]
    )
    return _bpf(MAP_CREATE, attributes)


def set_entry(map: int, key: bytes, value: bytes) -> None:
    """Put an entry into a map, in place of the one of this key. Raises OSError (E2BIG: it is full)."""
    keys = ctypes.create_string_buffer(key, len(key))
    values = ctypes.create_string_buffer(value, len(value))
    pointers = ctypes.addressof(keys), ctypes.addressof(values)
    _bpf(MAP_UPDATE_ELEM, struct.pack("=IIQQQ", map, 0, *pointers, 0))


def delete_entry(map: int, key: bytes) -> None:
    """Take an entry out of a map. Raises OSError (ENOENT: there is none)."""
    keys = ctypes.create_string_buffer(key, len(key))
    _bpf(MAP_DELETE_ELEM, struct.pack("=IIQQQ", map, 0, ctypes.addressof(keys), 0, 0))


def attach_device_program(cgroup: int, program: int) -> None:
    """Put the program on the cgroup (a descriptor of its directory), beside those that are there. It stays
    without the descriptor."""
    _bpf(PROG_ATTACH, struct.pack("=IIII", cgroup, program, CGROUP_DEVICE, F_ALLOW_MULTI))


def detach_device_program(cgroup: int, program: int) -> None:
    """Take the program off the cgroup."""
    _bpf(PROG_DETACH, struct.pack("=IIII", cgroup, program, CGROUP_DEVICE, 0))


def device_programs(cgroup: int) -> tuple[int, ...]:
    """Ids of the programs on the cgroup itself (not those of the groups above it), 64 at most."""
    return _programs(cgroup, CGROUP_DEVICE)


def attach_at_ingress(ifindex: int, program: int, replaced: int | None = None) -> None:
    """Ask the program about what comes in through an interface, before those that are asked already, or in
    place of one of them. It stays without the descriptor. Linux 6.6.

    Raises OSError (EINVAL: the kernel has no such lists; ENODEV: no such interface).
    """
    flags = F_BEFORE if replaced is None else F_REPLACE
    _bpf(PROG_ATTACH, struct.pack("=IIIIIIQ", ifindex, program, TCX_INGRESS, flags, replaced or 0, 0, 0))


def detach_at_ingress(ifindex: int, program: int) -> None:
    """Ask the program no more."""
    _bpf(PROG_DETACH, struct.pack("=IIIIIIQ", ifindex, program, TCX_INGRESS, 0, 0, 0, 0))


def ingress_programs(ifindex: int) -> tuple[int, ...]:
    """Ids of the programs that `attach_at_ingress` has put on an interface, 64 at most.

    Raises OSError (EINVAL: the kernel has no such lists; ENODEV: no such interface).
    """
    try:
        return _programs(ifindex, TCX_INGRESS)
    except FileNotFoundError:  # nothing was ever on it
        return ()


def _programs(target: int, kind: int) -> tuple[int, ...]:
    ids = (ctypes.c_uint32 * 64)()
    attributes = struct.pack(
        "=IIIIQIIQQQQ", target, kind, 0, 0, ctypes.addressof(ids), len(ids), 0, 0, 0, 0, 0
    )
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    _bpf(PROG_QUERY, buffer)
    (count,) = struct.unpack_from("=I", buffer.raw, 24)
    return tuple(ids[index] for index in range(count))


def program_name(program: int) -> str:
    """The name under which a program was loaded."""
    info = ctypes.create_string_buffer(_PROGRAM_INFO_SIZE)
    _bpf(OBJ_GET_INFO_BY_FD, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)))
    return info.raw[_PROGRAM_INFO_NAME].rstrip(b"\0").decode()


def program_by_id(program_id: int) -> int:
    """A descriptor of a loaded program. Raises OSError (ENOENT: gone)."""
    return _bpf(PROG_GET_FD_BY_ID, struct.pack("=III", program_id, 0, 0))


def _bpf(command: int, attributes: bytes | ctypes.Array[ctypes.c_char]) -> int:
    number = _SYSCALL.get(platform.machine())
    if number is None:
        raise OSError(38, f"bpf: the system call's number on {platform.machine()} is not known")
    if isinstance(attributes, bytes):
        attributes = ctypes.create_string_buffer(attributes, len(attributes))
    result: int = _libc.syscall(
        ctypes.c_long(number), ctypes.c_int(command), ctypes.byref(attributes), ctypes.c_uint(len(attributes))
    )
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf: {os.strerror(error)}")
    return result
