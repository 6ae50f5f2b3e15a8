# SPDX-License-Identifier: Apache-2.0
"""The bpf(2) calls that put a device program on a version 2 cgroup. Constants: include/uapi/linux/bpf.h."""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_SYSCALL = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "loongarch64": 280, "s390x": 351, "ppc64le": 361}

PROG_LOAD = 5
PROG_ATTACH = 8
PROG_DETACH = 9
PROG_GET_FD_BY_ID = 13
PROG_QUERY = 16

PROG_TYPE_CGROUP_DEVICE = 15
CGROUP_DEVICE = 6
F_ALLOW_MULTI = 1 << 1

_libc = ctypes.CDLL(None, use_errno=True)


def load_device_program(instructions: bytes, name: str) -> int:
    """Load a program of type CGROUP_DEVICE; answers its descriptor. Raises OSError (EINVAL: the verifier
    refused it)."""
    code = ctypes.create_string_buffer(instructions, len(instructions))
    licence = ctypes.create_string_buffer(b"Apache-2.0")
    attributes = struct.pack(
        "=IIQQIIQII16s",
        PROG_TYPE_CGROUP_DEVICE,
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


def attach_device_program(cgroup: int, program: int) -> None:
    """Put the program on the cgroup (a descriptor of its directory), beside those that are there. It stays
    without the descriptor."""
    _bpf(PROG_ATTACH, struct.pack("=IIII", cgroup, program, CGROUP_DEVICE, F_ALLOW_MULTI))


def detach_device_program(cgroup: int, program: int) -> None:
    """Take the program off the cgroup."""
    _bpf(PROG_DETACH, struct.pack("=IIII", cgroup, program, CGROUP_DEVICE, 0))


def device_programs(cgroup: int) -> tuple[int, ...]:
    """Ids of the programs on the cgroup itself (not those of the groups above it), 64 at most."""
    ids = (ctypes.c_uint32 * 64)()
    attributes = struct.pack("=IIIIQI", cgroup, CGROUP_DEVICE, 0, 0, ctypes.addressof(ids), len(ids))
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    _bpf(PROG_QUERY, buffer)
    (count,) = struct.unpack_from("=I", buffer.raw, 24)
    return tuple(ids[index] for index in range(count))


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
