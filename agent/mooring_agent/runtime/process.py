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
from ..linux.spawn import spawn_sibling
from . import signals
from .mounts import NULL_DEVICE, ensure_directory
from .mounts_targets import attach_clone
from .notifying import Notifying
from .plan import Capabilities, Process
from .users import Identity, UnknownUser, read_identity, resolve

_LAST_CAP_FILE = "/proc/sys/kernel/cap_last_cap"


class CannotRun(Exception):
    """The process could not be started; `exit_code` is what a shell would give: 126 or 127 for the command
    itself.
    """

    def __init__(self, message: str, exit_code: int = 125) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class Stale(CannotRun):
    """What was made ahead does not fit any more. Nothing has been started, and what is made anew will fit."""


def read_last_capability() -> int:
    """The highest capability this kernel knows. Read while /proc is still the host's."""
    descriptor = os.open(_LAST_CAP_FILE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return int(os.read(descriptor, 16))
    finally:
        os.close(descriptor)


def read_seccomp(process: Process, state: str = "") -> Callable[[], None] | None:
    """The call that installs the process's seccomp filter. Read while the root is still the host's.

    `state` is the container's, JSON, for whoever listens for the filter's notifications.
    """
    if process.seccomp is None:
        return None
    descriptor = os.open(process.seccomp, os.O_RDONLY | os.O_CLOEXEC)
    try:
        program = os.read(descriptor, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)
    if process.listener:
        return Notifying(program, process, state)
    if process.seccomp_flags:
        install = syscalls.seccomp_filter_with(program, process.seccomp_flags)

        def install_with_flags() -> None:
            install()

        return install_with_flags
    return syscalls.install_seccomp_filter(program)


def set_labels(process: Process) -> None:
    """What the security modules are to make of the process at its execve. Done while /proc is still the
    host's. Raises CannotRun where the host has no such module.
    """
    if process.apparmor_profile:
        _set_label("apparmor/exec", f"exec {process.apparmor_profile}", "AppArmor", "apparmorProfile")
    if process.selinux_label:
        _set_label("exec", process.selinux_label, "SELinux", "selinuxLabel")


def _set_label(file: str, label: str, module: str, field: str) -> None:
    if not has_security_module(module.lower()):
        raise CannotRun(
            f"config.process.{field} is {label!r} and this kernel runs without {module}: leave it out"
        )
    write_proc(f"thread-self/attr/{file}", label)


def has_security_module(name: str) -> bool:
    """Whether the kernel runs with "apparmor" or "selinux"."""
    if name == "selinux":
        return os.path.exists("/sys/fs/selinux/enforce")
    return os.path.exists("/proc/self/attr/apparmor/exec")


def write_proc(file: str, value: str) -> None:
    """Write a file below /proc after making sure that it is one (CVE-2019-19921, CVE-2025-52881).

    Raises OSError that names the file and the value.
    """
    descriptor = os.open(f"/proc/{file}", os.O_WRONLY | os.O_CLOEXEC)
    try:
        if syscalls.file_system_type(descriptor) != syscalls.PROC_SUPER_MAGIC:
            raise OSError(errno.EINVAL, "it is not on a proc file system")
        os.write(descriptor, value.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {value!r} to /proc/{file}: {error.strerror}") from None
    finally:
        os.close(descriptor)


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


def mount_console(slave: int) -> None:
    """Make the terminal open as `slave` the container's /dev/console too, runtime-spec Default Devices.

    By descriptors alone: neither a link at /dev/console nor another file in the terminal's place can lead
    elsewhere (CVE-2025-52565).
    """
    flags = os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        os.close(os.open("/dev/console", flags, 0o600))
    except FileExistsError:
        if stat.S_ISLNK(os.lstat("/dev/console").st_mode):
            raise CannotRun("/dev/console of the container is a symbolic link: expected a file") from None
    except OSError as error:
        raise CannotRun(f"/dev/console of the container cannot be made: {error.strerror}") from None
    target = os.open("/dev/console", os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        attach_clone(slave, target)
    finally:
        os.close(target)


def become(
    process: Process,
    last_capability: int,
    install_filter: Callable[[], None] | None,
    keep: int,
    ready: Callable[[str, tuple[str, ...], dict[str, str]], None] | None = None,
) -> None:
    """Turn into the process; does not return. `keep` is the one descriptor that stays open until execve.
    `ready` is called with what execve(2) takes when nothing else is left to be done. Raises CannotRun or
    OSError.
    """

    def run(path: str, args: tuple[str, ...], environment: dict[str, str]) -> int:
        if ready is not None:
            ready(path, args, environment)
        os.execve(path, args, environment)

    _execute(process.args, _settle(process, last_capability, install_filter, (keep,)), run)


def spawn(
    process: Process,
    last_capability: int,
    install_filter: Callable[[], None] | None,
    keep: tuple[int, ...],
    tell: Callable[[int], object],
    word: Callable[[], tuple[str, ...]] | None = None,
) -> None:
    """Start the process as a sibling, in a session of its own, after becoming all that it shall be; `tell` is
    called with its pid, also when it ends at once because it cannot be executed. `keep` are the descriptors
    that stay open. `word` waits until it is to be started, and answers the arguments to take instead.

    It shares this process's memory until its execve, where a fork would have to copy each page that it
    touches. The filter of system calls has to allow that. Raises CannotRun or OSError.
    """

    def run(path: str, args: tuple[str, ...], environment: dict[str, str]) -> int:
        if not may_be_executed(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        pid, failure = spawn_sibling(path, args, environment)
        tell(pid)
        if failure:
            raise _cannot_execute(args[0], None if failure in (errno.ENOENT, errno.ENOTDIR) else failure)
        return pid

    environment = _settle(process, last_capability, install_filter, keep)
    _execute(word() if word is not None else process.args, environment, run)


def rehearse() -> None:
    """Do what the last steps do, as far as it has no effect, while nobody waits.

    A forked process gets a copy of each page when it writes to it for the first time, and Python writes to
    all that it touches: these copies are half of the time that a process takes to start another one.
    """
    resolve("nobody:nogroup", "nobody:x:65534:65534::/:/\n", "nogroup:x:65534:\n")
    _environment(Process(("true",), ("PATH=/bin",)), Identity(0, 0, (), "/"))
    syscalls.install_seccomp_filter(bytes(8))
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    os.close(ensure_directory(root, "/"))
    os.close(root)
    os.fstat(0)
    os.umask(os.umask(0))
    resource.getrlimit(resource.RLIMIT_NOFILE)
    for number in signals.RESET:
        signal.signal(number, signal.getsignal(number))
    try:
        _execute(("mooring-rehearsal",), {"PATH": "/proc"}, os.execve)
    except CannotRun:
        pass


def _settle(
    process: Process,
    last_capability: int,
    install_filter: Callable[[], None] | None,
    keep: tuple[int, ...],
) -> dict[str, str]:
    """Become everything that the process shall be but its program; the program's environment."""
    if not process.args:
        raise CannotRun("config.process is missing: expected a process to start")
    try:
        identity = read_identity(process.user, process.additional_gids, process.additional_groups)
    except UnknownUser as error:
        raise CannotRun(str(error)) from None
    _hand_over_stdio(identity)
    if process.scheduler or process.io_priority is not None or process.memory_policy[0] >= 0:
        _schedule(process)
    if process.personality is not None:
        syscalls.personality(process.personality)
    os.umask(process.umask if process.umask is not None else 0o022)
    _make_working_directory(process.cwd)
    also = install_filter.connection if isinstance(install_filter, Notifying) else -1
    _close_others((*keep, also), 3 + process.preserve_fds)
    # Only now, when nothing is opened any more: the limit may leave no room for a descriptor.
    for number, soft, hard in process.rlimits:
        resource.setrlimit(number, (soft, hard))
    environment = _environment(process, identity)
    for number in signals.RESET:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if process.no_new_privileges:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    elif install_filter:
        # Without no_new_privs a filter needs CAP_SYS_ADMIN, so it goes in before the capabilities go.
        install_filter()
    _change_identity(identity, process, last_capability)
    _enter_working_directory(process.cwd)
    if process.no_new_privileges and install_filter:
        install_filter()
    return environment


def lend_stdio(descriptors: Sequence[int], uid: int, gid: int) -> None:
    """Give the standard streams to a user namespace's root, who has no power over them else. On the host."""
    for descriptor in descriptors:
        found = os.fstat(descriptor)
        if found.st_rdev != NULL_DEVICE and found.st_uid == 0:
            os.fchown(descriptor, uid, -1 if stat.S_ISCHR(found.st_mode) else gid)


def _hand_over_stdio(identity: Identity) -> None:
    """Let a user that is not root reopen /dev/stdout and its like, which belong to whoever made the pipes."""
    for number in range(3):
        found = os.fstat(number)
        if found.st_rdev == NULL_DEVICE or found.st_uid == identity.uid:
            continue
        try:
            # A terminal stays with the group tty, through which write(1) reaches it.
            os.fchown(number, identity.uid, -1 if stat.S_ISCHR(found.st_mode) else identity.gid)
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


def _close_others(keep: tuple[int, ...], first: int) -> None:
    """Close all from `first` on but `keep`; of those below all that were made here, not inherited."""
    for descriptor in range(3, first):
        try:
            if descriptor not in keep and not os.get_inheritable(descriptor):
                os.close(descriptor)
        except OSError:
            pass  # it is not open
    for descriptor in sorted(keep):
        if descriptor > first:
            syscalls.close_range(first, descriptor - 1)
        first = max(first, descriptor + 1)
    syscalls.close_range(first)


def _schedule(process: Process) -> None:
    try:
        if process.scheduler:
            syscalls.sched_setattr(*process.scheduler)
        if process.io_priority is not None:
            syscalls.ioprio_set(process.io_priority)
        mode, nodes = process.memory_policy
        if mode >= 0:
            syscalls.set_mempolicy(mode, int(nodes or "0", 16))
    except OSError as error:
        raise CannotRun(f"the kernel refuses the config's {error.strerror}") from None


def _enter_working_directory(path: str) -> None:
    try:
        os.chdir(path)
        os.getcwd()  # fails where the directory is not below the root
    except OSError as error:
        raise CannotRun(f"working directory {path} cannot be used: {error.strerror}") from None


def _change_identity(identity: Identity, process: Process, last_capability: int) -> None:
    capabilities = process.capabilities
    syscalls.drop_bounding(capabilities.bounding, last_capability)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 1)
    if not process.keep_groups:
        os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    syscalls.prctl(syscalls.PR_SET_KEEPCAPS, 0)
    ambient = capabilities.ambient
    if process.exact_capabilities:
        ambient = _set_as_granted(capabilities)
    elif identity.uid == 0:
        syscalls.capset(capabilities.effective, capabilities.permitted, capabilities.inheritable)
    else:
        syscalls.capset(ambient, ambient, capabilities.inheritable)
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    if ambient:
        for number in range(last_capability + 1):
            if ambient >> number & 1:
                syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_RAISE, number)


def _set_as_granted(capabilities: Capabilities) -> int:
    """Set what the config gives, as far as this host has it to give; the ambient set that then is possible.

    The runtime-spec wants no failure for what cannot be granted. The kernel has each set within another:
    effective within permitted, ambient within permitted and inheritable, capabilities(7).
    """
    _, held, _ = syscalls.capget()
    permitted = capabilities.permitted & held
    inheritable = capabilities.inheritable & held
    syscalls.capset(capabilities.effective & permitted, permitted, inheritable)
    return capabilities.ambient & permitted & inheritable


def _environment(process: Process, identity: Identity) -> dict[str, str]:
    environment = dict(entry.split("=", 1) for entry in process.env if "=" in entry)
    environment.setdefault("HOME", identity.home)
    return environment


def _execute(
    args: tuple[str, ...],
    environment: dict[str, str],
    run: Callable[[str, tuple[str, ...], dict[str, str]], int],
) -> int:
    """execve(2) with the container's own PATH, like execvp(3) without its fall-back to a shell.

    What may not be run is passed over as long as there is more to try, as execvp(3) does: a PATH often has
    directories that are closed to the user.
    """
    found: OSError | None = None
    for candidate in _candidates(args[0], environment.get("PATH", "")):
        try:
            os.stat(candidate)  # a failed execve would cost more
            return run(candidate, args, environment)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                continue
            found = error
            if error.errno != errno.EACCES:
                break
    raise _cannot_execute(args[0], found.errno if found else None)


def may_be_executed(path: str) -> bool:
    """Whether it is a program, as far as it can be known before there is a process. Raises OSError."""
    return stat.S_ISREG(os.stat(path).st_mode) and os.access(path, os.X_OK)


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
