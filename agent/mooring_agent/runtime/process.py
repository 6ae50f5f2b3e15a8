# SPDX-License-Identifier: Apache-2.0
"""The last steps of a launcher: from root with all capabilities in the container's namespaces to the process
asked for.

Nothing is imported and no library is loaded here: the root directory already belongs to the container.
"""

from __future__ import annotations

import errno
import fcntl
import os
import resource
import signal
import stat
import struct
import termios
from collections.abc import Callable, Sequence

from ..linux import syscalls
from .mounts import NULL_DEVICE, ensure_directory
from .plan import Capabilities, Process
from .users import Identity, UnknownUser, read_identity

_LAST_CAP_FILE = "/proc/sys/kernel/cap_last_cap"
# Every signal that Python or the keeper ignores or handles goes back to its default before execve.
_RESET_SIGNALS = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGCHLD,
)


class CannotRun(Exception):
    """The process could not be started; `exit_code` is what a shell would give: 126 or 127 for the command
    itself.
    """

    def __init__(self, message: str, exit_code: int = 125) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def read_last_capability() -> int:
    """The highest capability this kernel knows. Read while /proc is still the host's."""
    descriptor = os.open(_LAST_CAP_FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(descriptor, 16))
    finally:
        os.close(descriptor)


def read_seccomp(process: Process) -> Callable[[], None] | None:
    """The call that installs the process's seccomp filter. Read while the root is still the host's."""
    if process.seccomp is None:
        return None
    descriptor = os.open(process.seccomp, os.O_RDONLY | os.O_CLOEXEC)
    try:
        program = os.read(descriptor, 1 << 20)
    finally:
        os.close(descriptor)
    return syscalls.install_seccomp_filter(program)


def attach_stdio(stdio: Sequence[int]) -> None:
    """Make `stdio` the descriptors 0, 1 and 2."""
    for number, descriptor in enumerate(stdio):
        os.dup2(descriptor, number, inheritable=True)


def replace_null_devices() -> None:
    """Give the process the container's own null device in place of the host's.

    Whoever has a descriptor of the host's can change its mode for the whole host. Raises CannotRun.
    """
    for number in range(3):
        if not _is_null_device(number):
            continue
        try:
            own = os.open("/dev/null", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise CannotRun(f"/dev/null of the container cannot be used: {error.strerror}") from None
        try:
            if not _is_null_device(own):
                raise CannotRun("/dev/null of the container is not the null device")
            os.set_blocking(own, True)
            os.dup2(own, number, inheritable=True)
        finally:
            os.close(own)


def _is_null_device(descriptor: int) -> bool:
    found = os.fstat(descriptor)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == NULL_DEVICE


def open_terminal(ptmx: str, rows: int, columns: int) -> tuple[int, int]:
    """A new pseudo-terminal of the container's own devpts: (master, slave)."""
    master = os.open(ptmx, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(master, termios.TIOCSPTLCK if hasattr(termios, "TIOCSPTLCK") else 0x40045431, b"\0\0\0\0")
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    slave = fcntl.ioctl(master, syscalls.TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    return master, slave


def take_terminal(slave: int) -> None:
    """Make `slave` the controlling terminal of this session and its standard streams."""
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    attach_stdio((slave, slave, slave))


def become(
    process: Process, last_capability: int, install_filter: Callable[[], None] | None, keep: int
) -> None:
    """Turn into the process; does not return. `keep` is the one descriptor that stays open until execve.

    Raises CannotRun or OSError.
    """
    try:
        identity = read_identity(process.user, process.additional_gids, process.additional_groups)
    except UnknownUser as error:
        raise CannotRun(str(error)) from None
    _hand_over_stdio(identity)
    os.umask(process.umask if process.umask is not None else 0o022)
    _make_working_directory(process.cwd)
    _close_others(keep)
    # Only now, when nothing is opened any more: the limit may leave no room for a descriptor.
    for number, soft, hard in process.rlimits:
        resource.setrlimit(number, (soft, hard))
    environment = _environment(process, identity)
    for number in _RESET_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if process.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    elif install_filter:
        # Without no_new_privs a filter needs CAP_SYS_ADMIN, so it goes in before the capabilities go.
        install_filter()
    _change_identity(identity, process.capabilities, last_capability)
    _enter_working_directory(process.cwd)
    if process.no_new_privileges and install_filter:
        install_filter()
    _execute(process.args, environment)


def _hand_over_stdio(identity: Identity) -> None:
    """Let a user that is not root reopen /dev/stdout and its like, which belong to whoever made the pipes."""
    for number in range(3):
        found = os.fstat(number)
        if found.st_rdev == NULL_DEVICE or found.st_uid == identity.uid:
            continue
        try:
            os.fchown(number, identity.uid, -1)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM, errno.EROFS):
                raise


def _make_working_directory(path: str) -> None:
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(ensure_directory(root, path))
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise CannotRun(f"working directory {path} cannot be used: {error.strerror}") from None
    finally:
        os.close(root)


def _close_others(keep: int) -> None:
    if keep > 3:
        syscalls.close_range(3, keep - 1)
    syscalls.close_range(max(keep + 1, 3))


def _enter_working_directory(path: str) -> None:
    try:
        os.chdir(path)
        os.getcwd()  # fails where the directory is not below the root
    except OSError as error:
        raise CannotRun(f"working directory {path} cannot be used: {error.strerror}") from None


def _change_identity(identity: Identity, capabilities: Capabilities, last_capability: int) -> None:
    for number in range(last_capability + 1):
        if not capabilities.bounding >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)
    effective = capabilities.effective if identity.uid == 0 else capabilities.ambient
    permitted = capabilities.permitted if identity.uid == 0 else capabilities.ambient
    syscalls.capset(effective, permitted, capabilities.inheritable)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(last_capability + 1):
        if capabilities.ambient >> number & 1:
            syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)


def _environment(process: Process, identity: Identity) -> dict[str, str]:
    environment = dict(entry.split("=", 1) for entry in process.env if "=" in entry)
    environment.setdefault("HOME", identity.home)
    return environment


def _execute(args: tuple[str, ...], environment: dict[str, str]) -> None:
    """execve(2) with the container's own PATH, like execvp(3) without its fall-back to a shell.

    What may not be run is passed over as long as there is more to try, as execvp(3) does: a PATH often has
    directories that are closed to the user.
    """
    found: OSError | None = None
    for candidate in _candidates(args[0], environment.get("PATH", "")):
        try:
            os.execve(candidate, args, environment)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            found = error
            if error.errno != errno.EACCES:
                break
    raise _cannot_execute(args[0], found.errno if found else None)


def find_executable(process: Process) -> None:
    """Raise what the execve to come would fail with, as far as it can be known without the process's
    identity.
    """
    path = next((entry[5:] for entry in process.env if entry.startswith("PATH=")), "")
    found: int | None = None
    for candidate in _candidates(process.args[0], path):
        try:
            status = os.stat(os.path.join(process.cwd, candidate))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                found = error.errno
            continue
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111:
            return
        found = errno.EACCES
    raise _cannot_execute(process.args[0], found)


def _candidates(name: str, path: str) -> list[str]:
    return [name] if "/" in name else [f"{part or '.'}/{name}" for part in path.split(":")]


def _cannot_execute(name: str, number: int | None) -> CannotRun:
    """The error for a command that execve(2) refused with `number`, or that was not found."""
    if number is not None:
        return CannotRun(f"exec: {name!r}: {os.strerror(number).lower()}", 126)
    if "/" in name:
        return CannotRun(f"exec: {name!r}: no such file or directory", 127)
    return CannotRun(f"exec: {name!r}: executable file not found in $PATH", 127)
