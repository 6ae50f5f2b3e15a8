# SPDX-License-Identifier: Apache-2.0
"""A program as a sibling: started without a copy of the caller's memory, and the child of its parent.

posix_spawn(3) spares the copy too, yet its child becomes another's only when the caller has ended, and the
end of a Python process takes the kernel a millisecond. clone(2) can say at once whose child it is
(CLONE_PARENT), but then the child may run nothing of Python, whose memory it shares: it runs a chain of
contexts, makecontext(3), each of which is one call of the C library.
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping, Sequence

from .contexts import Region, available, environment_strings, libc, strings
from .syscalls import CLONE_PARENT

__all__ = ["available", "rehearse", "spawn_sibling"]

_CLONE_VM = 0x100  # linux/sched.h
_CLONE_VFORK = 0x4000
_EXIT_FAILED = 127
_STACK_SIZE = 0x6000
# The calls of the child's chain.
_CALLS = 3


def spawn_sibling(path: str, argv: Sequence[str], environment: Mapping[str, str]) -> tuple[int, int]:
    """Run `path` in a session of its own, with the caller's descriptors, identity and signal mask.

    Answers its pid and the error number of its execve(2): 0, or the process has ended, for its parent to
    reap. Signals must be at their defaults, and the caller single-threaded. Raises OSError when there can be
    no process.
    """
    chain = _Chain(path, argv, environment, _rehearsed.pop() if _rehearsed else _new_region())
    ctypes.set_errno(0)
    pid: int = libc.clone(
        libc.setcontext,
        ctypes.c_void_p(chain.stack),
        ctypes.c_int(_CLONE_VM | _CLONE_VFORK | CLONE_PARENT | signal.SIGCHLD),
        ctypes.c_void_p(chain.first),
    )
    number = ctypes.get_errno()  # both processes have the same
    if pid < 0:
        raise OSError(number, f"clone: {os.strerror(number)}")
    return pid, number


def rehearse() -> None:
    """Do all of it but the clone, which has the pages that it needs made and copied while nobody waits."""
    region = _new_region()
    region.put(bytes(_STACK_SIZE))
    _Chain("/proc", ("rehearsal",), {"PATH": "/proc"}, region)
    _rehearsed[:] = [region]


# The memory of the last rehearsal, for the chain that is played.
_rehearsed: list[Region] = []


def _new_region() -> Region:
    return Region(_CALLS, _STACK_SIZE)


class _Chain:
    """The calls of the child, and what they refer to: `first` begins with them, on `stack`."""

    def __init__(
        self, path: str, argv: Sequence[str], environment: Mapping[str, str], region: Region
    ) -> None:
        self._region = region
        self._given = (
            ctypes.c_char_p(*strings([os.fsencode(path)])),
            _array(strings(os.fsencode(each) for each in argv)),
            _array(environment_strings(environment)),
        )
        exit_code = ctypes.c_int(_EXIT_FAILED)
        self.first = region.chain([("setsid",), ("execve", *self._given), ("_exit", exit_code)])
        self.stack = region.end


def _array(values: list[bytes]) -> ctypes.Array[ctypes.c_char_p]:
    """A char *[] that ends with NULL."""
    return (ctypes.c_char_p * (len(values) + 1))(*values, None)
