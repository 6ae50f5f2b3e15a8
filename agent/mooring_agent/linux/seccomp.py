# SPDX-License-Identifier: Apache-2.0
"""libseccomp through ctypes: build a filter, get it as a BPF program. Constants: include/seccomp.h.in of
libseccomp 2.5.

The library is loaded at the first use. What it makes is installed by others, with nothing of this in the
process.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

from ..errors import MissingProgram

LIBRARY = "libseccomp.so.2"

# Actions. ERRNO and TRACE carry a number in their lower 16 bits.
KILL_PROCESS = 0x80000000
KILL_THREAD = 0x00000000
TRAP = 0x00030000
ERRNO = 0x00050000
TRACE = 0x7FF00000
NOTIFY = 0x7FC00000
LOG = 0x7FFC0000
ALLOW = 0x7FFF0000

# Comparisons.
NOT_EQUAL, LESS, LESS_OR_EQUAL, EQUAL, GREATER_OR_EQUAL, GREATER, MASKED_EQUAL = range(1, 8)

# Attributes.
OPTIMIZE = 8
BINARY_TREE = 2

UNKNOWN_SYSCALL = -1


@dataclass(frozen=True)
class Comparison:
    """One condition on an argument: `argument OP value`, and for MASKED_EQUAL `argument & value ==
    value_two`."""

    argument: int
    operation: int
    value: int
    value_two: int = 0


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


class _Version(ctypes.Structure):
    """struct scmp_version."""

    _fields_ = (("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint))


@functools.cache
def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise MissingProgram(
            f"the library {LIBRARY} is missing, which makes the system call filters of containers; install "
            "the package libseccomp2 (Debian, Ubuntu) or libseccomp (Fedora, Arch)"
        ) from error
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_release.restype = None
    library.seccomp_version.restype = ctypes.POINTER(_Version)
    library.seccomp_arch_native.restype = ctypes.c_uint32
    library.seccomp_arch_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_attr_set.argtypes = (ctypes.c_void_p, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_syscall_resolve_name_arch.argtypes = (ctypes.c_uint32, ctypes.c_char_p)
    library.seccomp_rule_add_array.argtypes = (
        ctypes.c_void_p,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    return library


def version() -> str:
    """The library's version, such as "2.5.4". MissingProgram without the library, as from everything here."""
    found = _library().seccomp_version().contents
    return f"{found.major}.{found.minor}.{found.micro}"


def native_architecture() -> int:
    """Token of the architecture that the library was built for."""
    token: int = _library().seccomp_arch_native()
    return token


def architecture(name: str) -> int:
    """Token of an architecture by the library's name ("x86_64"), 0 if this library does not know it.

    It is the kernel's AUDIT_ARCH_* but for x32, which the kernel tells from x86_64 by a bit in the system
    call's number.
    """
    token: int = _library().seccomp_arch_resolve_name(name.encode("ascii"))
    return token


def syscall(name: str) -> int:
    """Number of a system call on the native architecture.

    UNKNOWN_SYSCALL (-1) if this library does not know the name at all; below -1, a number of the library's
    own for a call that only other architectures have.
    """
    number: int = _library().seccomp_syscall_resolve_name(name.encode("utf-8"))
    return number


def syscall_on(token: int, name: str) -> int:
    """Number of a system call on the architecture; negative if it has none."""
    number: int = _library().seccomp_syscall_resolve_name_arch(token, name.encode("utf-8"))
    return number


class Filter:
    """A filter under construction, for the native architecture to begin with. A context manager: it frees the
    library's memory.

    Methods raise OSError with the library's errno.
    """

    def __init__(self, default_action: int) -> None:
        self._context: int | None = _library().seccomp_init(default_action)
        if not self._context:
            raise OSError(errno.EINVAL, f"seccomp_init: action {default_action:#x} is refused")

    def __enter__(self) -> Filter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._context:
            _library().seccomp_release(self._context)
            self._context = None

    def add_architecture(self, token: int) -> None:
        """Let the filter cover another architecture; one that it covers is fine."""
        result = _library().seccomp_arch_add(self._context, token)
        if result != -errno.EEXIST:
            _check(result, "seccomp_arch_add")

    def set_attribute(self, attribute: int, value: int) -> None:
        """Set an attribute of the filter. EOPNOTSUPP or EINVAL where this library does not know it."""
        _check(_library().seccomp_attr_set(self._context, attribute, value), "seccomp_attr_set")

    def add_rule(self, action: int, number: int, comparisons: Sequence[Comparison] = ()) -> None:
        """Take the action for the system call if all comparisons hold (at most one an argument)."""
        array = (_Comparison * len(comparisons))(
            *(_Comparison(each.argument, each.operation, each.value, each.value_two) for each in comparisons)
        )
        result = _library().seccomp_rule_add_array(self._context, action, number, len(comparisons), array)
        _check(result, "seccomp_rule_add_array")

    def export(self) -> bytes:
        """The program as an array of `struct sock_filter`, in the byte order of this machine."""
        descriptor = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            _check(_library().seccomp_export_bpf(self._context, descriptor), "seccomp_export_bpf")
            return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        finally:
            os.close(descriptor)


def _check(result: int, name: str) -> None:
    if result < 0:
        raise OSError(-result, f"{name}: {os.strerror(-result)}")
