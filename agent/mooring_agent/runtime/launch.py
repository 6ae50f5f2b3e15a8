# SPDX-License-Identifier: Apache-2.0
"""The launcher: a forked child of the keeper that prepares itself, waits for a plan, and becomes PID 1 of a
container.

It talks with the keeper over one SOCK_SEQPACKET socket. It sends `ready`; it receives a memory file with the
plan and the descriptors of standard input, output and error; it sends `terminal` with a pty's master where
one was asked for; and it reports a failure as a JSON object. The socket closes on execve: an end without a
report is a start that worked. Where the plan says so it also sends `mounted` and waits for a word, for hooks,
and `created`, before it waits for the start.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import time
from contextlib import suppress

from ..linux import keys, lean, netlink, syscalls
from . import hooks, mounts, process, stage, standard
from .idmaps import acting_as, maps_of, outside
from .plan import LaunchPlan, Process, Shape

_READY = b"ready"
# Everything is built: an end without a report is a process that has begun, and no launcher that was killed.
GOING = b"going"
_INT_SIZE = 4
_TERMINAL = b"terminal"
_MOUNTED = b"mounted"
_CREATED = b"created"
# Characters; one takes at most twelve bytes of JSON, so that a report fits into a packet of the keeper's.
_REPORT_MAX = 4096
_LEFT_BEHIND_SECONDS = 1.0
_LEFT_BEHIND_PAUSE = 0.005
# Exit statuses of the launcher itself; sysexits.h EX_SOFTWARE where there is nobody to report to.
_EXIT_UNUSED = 0
_EXIT_UNREPORTED = 70


def run_launcher(
    channel: socket.socket, shape: Shape, slot: str, stage_directory: str, *, ahead: bool = False
) -> None:
    """Live as a launcher; never returns. The caller has just forked it, into a pid namespace if the shape
    says so, and `ahead` of the need for it or not.
    """
    try:
        _launch(channel, shape, slot, stage_directory, ahead)
    except _Unused:
        os._exit(_EXIT_UNUSED)
    except BaseException as error:  # noqa: BLE001 (whatever it is must reach the keeper: no one else can see it)
        os._exit(report(channel, error))


def report(channel: socket.socket, error: BaseException) -> int:
    """Tell the keeper why there will be no process; return the exit status to leave with."""
    try:
        channel.send(_report_of(error))
    except OSError:
        return _EXIT_UNREPORTED
    return _exit_code(error)


def _report_of(error: BaseException) -> bytes:
    """What the keeper is told of it."""
    message: dict[str, object] = {"error": in_words(error)[:_REPORT_MAX], "exit_code": _exit_code(error)}
    if isinstance(error, process.Stale):
        message["gone"] = True
    return json.dumps(message).encode()


def _exit_code(error: BaseException) -> int:
    return error.exit_code if isinstance(error, process.CannotRun) else 125


def in_words(error: BaseException) -> str:
    """What went wrong, for people: the name of the thing and the reason, without Python's error number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}" if type(error).__module__ == "builtins" else str(error)


def receive_plan(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Wait for the plan: its bytes and the descriptors that came with it. An empty plan means: not needed any
    more.
    """
    # socket.recv_fds takes flags, and passes over them.
    message, ancillary, _, _ = channel.recvmsg(64, socket.CMSG_LEN(8 * _INT_SIZE), socket.MSG_PEEK)
    if not message:
        return b"", []
    take(channel)
    if not ancillary:
        raise process.CannotRun("the plan of the process is missing")
    plan, *stdio = memoryview(ancillary[0][2]).cast("i")
    found = os.fstat(plan)
    # Reading anything else could take for ever.
    if not stat.S_ISREG(found.st_mode) or not found.st_size:
        raise process.CannotRun("the plan of the process is empty, or no memory file")
    raw = os.pread(plan, found.st_size, 0)
    os.close(plan)
    return raw, stdio


def take(channel: socket.socket) -> None:
    """Take what has been looked at with MSG_PEEK.

    Who was killed while it waited may get a packet before it dies of that. It dies without taking it, and so
    the keeper is told (ECONNRESET) that nothing has begun.
    """
    channel.recv(1)


def set_up_stdio(plan: Process, stdio: list[int], channel: socket.socket, ptmx: str) -> None:
    """Give the process its standard streams: the descriptors sent, or a terminal whose master goes to the
    keeper.
    """
    os.setsid()
    if not plan.terminal:
        process.attach_stdio(stdio)
        process.replace_null_devices()
        return
    master, slave = process.open_terminal(ptmx, *plan.console_size)
    process.take_terminal(slave)
    socket.send_fds(channel, [_TERMINAL], [master])
    os.close(master)


class _Unused(Exception):
    """The keeper has closed the channel: nobody needs this launcher."""


def _launch(channel: socket.socket, shape: Shape, slot: str, stage_directory: str, ahead: bool) -> None:
    os.umask(0)
    # Where it joins the pid namespace of others they see it, and must not reach the host's files through its
    # /proc/PID, as with a joiner.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    if not shape.unified:
        stage.join_groups(stage.make_groups(shape, slot))
    for file in shape.enter:
        stage.write(file, "0")
    user = stage.enter_namespaces(shape)
    last_capability = process.read_last_capability()
    operations = standard.standard_mounts(shape.shm_size, _hierarchies(shape)) if shape.standard else ()
    if shape.place:
        sysctls = -1
        stage.make_private(shape.place)
    else:
        sysctls = stage.build_trees(stage_directory, standard.TREES, operations)
    if "net" in shape.namespaces:
        stage.raise_loopback()
    if ahead:
        rehearse()
    channel.send(_READY)

    raw, stdio = receive_plan(channel)
    if not raw:
        raise _Unused
    plan = LaunchPlan.decode(raw)
    install_filter = process.read_seccomp(plan.process, plan.state)
    _take_limits(plan, shape, slot)
    for name, path in plan.join:
        stage.join_namespace(name, path)
    netlink.execute(tuple(bytes.fromhex(message) for message in plan.netlink))
    if plan.hostname:
        syscalls.sethostname(plan.hostname)
    if plan.domainname:
        syscalls.setdomainname(plan.domainname)
    for name, value in plan.sysctls:
        file = f"/proc/sys/{name}" if sysctls < 0 else name
        if shape.uids:
            stage.write_as(outside(shape.uids), file, value, sysctls)
        else:
            stage.write(file, value, sysctls)
    if sysctls >= 0:
        os.close(sysctls)
    root = _build_root(plan, shape, stage_directory, user)
    if plan.report_mounted:
        channel.send(_MOUNTED)
        if not channel.recv(64):
            raise _Unused
    if plan.create_container:
        _run_hooks_outside(plan, user)
    if plan.process.apparmor_profile or plan.process.selinux_label:
        process.set_labels(plan.process)
    _enter_root(root, pivot=plan.pivot)
    if plan.propagation:
        syscalls.mount(None, "/", None, plan.propagation)
    if user >= 0:
        if shape.uids:
            process.lend_stdio(stdio, outside(shape.uids), outside(shape.gids))
        stage.become_root_of(user)
    if plan.keyring:
        keys.join_session_keyring(plan.keyring)
    set_up_stdio(plan.process, stdio, channel, "/dev/pts/ptmx")
    if plan.process.terminal and "mnt" in shape.namespaces:
        process.mount_console(0)
    if plan.listener >= 0:
        channel = _await_start(plan, channel)
    elif not plan.ahead:
        channel.send(GOING)
    try:
        if plan.start_container:
            hooks.run_hooks("startContainer", plan.start_container, plan.state, "created", os.getpid())
        ready = _Word(channel) if plan.ahead else None
        process.become(plan.process, last_capability, install_filter, channel.fileno(), ready)
    except _Unused:
        raise
    except BaseException as error:  # noqa: BLE001 (the channel of before is closed: only here it can be said)
        os._exit(report(channel, error))


def rehearse() -> None:
    """See `process.rehearse`."""
    bind = mounts.Bind("/", "/")
    sample = Process(("true",), ("PATH=/bin",), rlimits=((0, 0, 0),))
    plan = LaunchPlan("", "", mounts.Overlay(("/",)), sample, sysctls=(("", ""),), mounts=(bind,))
    LaunchPlan.decode(plan.encode())
    process.rehearse()


def _hierarchies(shape: Shape) -> tuple[str, ...]:
    if "cgroup" not in shape.namespaces:
        return ()
    if shape.unified:
        return ("",)
    return tuple(os.path.basename(_mount_point(parent)) for parent in shape.groups)


def _mount_point(path: str) -> str:
    device = os.stat(path).st_dev
    while os.stat(os.path.dirname(path)).st_dev == device:
        path = os.path.dirname(path)
    return path


class _Word:
    """Waits, when it is called for the first time, until the process is to be started, and says that it is
    going: without Python's memory where that is possible.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._given = False

    def __call__(self, path: str, args: tuple[str, ...], environment: dict[str, str]) -> None:
        if self._given:
            return
        if not self._is_there() and lean.can_wait(path) and process.may_be_executed(path):
            # One that is started anew will say why it cannot be executed.
            failed = _report_of(process.Stale(f"exec: {path!r} cannot be executed"))
            with suppress(OSError):  # its limits may leave no memory for that
                lean.execute_at_word(self._channel.fileno(), path, args, environment, GOING, failed)
        if not self._channel.recv(64):
            raise _Unused
        self._given = True
        self._channel.send(GOING)

    def _is_there(self) -> bool:
        try:
            self._channel.recv(64, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return True


def _take_limits(plan: LaunchPlan, shape: Shape, slot: str) -> None:
    """Give the prepared groups the container's name, which only cgroup v1 can, and its limits."""
    name = slot
    if not shape.unified:
        name = plan.group
        for parent in shape.groups:
            _rename_group(f"{parent}/{slot}", f"{parent}/{name}")
    for index, file, value in plan.group_settings:
        stage.write(f"{shape.groups[index]}/{name}/{file}", value)
    if plan.process.oom_score_adj is not None:
        stage.write("/proc/self/oom_score_adj", str(plan.process.oom_score_adj))


def _rename_group(old: str, new: str) -> None:
    """Rename a control group. What a launcher that was killed while it waited has left of this name is
    removed, once that launcher has ended.
    """
    deadline = time.monotonic() + _LEFT_BEHIND_SECONDS
    while True:
        try:
            os.rename(old, new)
            return
        except FileExistsError:
            try:
                os.rmdir(new)
            except FileNotFoundError:
                pass
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LEFT_BEHIND_PAUSE)


def _build_root(plan: LaunchPlan, shape: Shape, stage_directory: str, user: int) -> int:
    """Build the container's file system below the stage; a descriptor of its root directory."""
    place = shape.place or f"{stage_directory}/root"
    plan.root.mount(place)
    root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if shape.standard:
        for tree in standard.TREES:
            mounts.move_tree(f"{stage_directory}/{tree}", root, f"/{tree}")
    uids, gids = shape.uids, shape.gids
    if user >= 0 and not uids:
        uids, gids = maps_of(user)
    if uids:
        # What is made here belongs to the container's root; the host's has no place in its file systems.
        with acting_as(outside(uids), outside(gids)):
            root = _execute_all(plan.mounts, root, place)
    else:
        root = _execute_all(plan.mounts, root, place)
    if plan.read_only_root:
        syscalls.mount_setattr(root, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
    return root


def _execute_all(operations: tuple[mounts.MountOperation, ...], root: int, place: str) -> int:
    """Execute them below `root`, which is mounted on `place`; the root that there is then."""
    for operation in operations:
        try:
            operation.execute(root)
        except OSError as error:
            raise OSError(error.errno, f"{operation.describe()}: {error.strerror}") from None
        if operation.covers_root:
            os.close(root)
            root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    return root


def _enter_root(root: int, *, pivot: bool) -> None:
    """Leave the host's root for good. Without `pivot` the old one stays mounted below the new."""
    os.fchdir(root)
    os.close(root)
    if pivot:
        syscalls.pivot_root(".", ".")
        syscalls.umount(".", syscalls.MNT_DETACH)
    else:
        syscalls.mount(".", "/", None, syscalls.MS_MOVE)
        os.chroot(".")
    os.chdir("/")
    # The keeper's own dispositions and mask end here; `become` resets what it ignores.
    signal.set_wakeup_fd(-1)


def _run_hooks_outside(plan: LaunchPlan, user: int) -> None:
    """The createContainer hooks: in the container's namespaces, while paths are still the host's.

    In a child, since a user namespace cannot be left again.
    """
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    pid = os.getpid()
    child = syscalls.clone(signal.SIGCHLD)
    if child == 0:
        try:
            if user >= 0:
                stage.become_root_of(user)
            os.chdir(plan.bundle)
            hooks.run_hooks("createContainer", plan.create_container, plan.state, "creating", pid)
        except (OSError, hooks.HookFailed) as error:
            os.write(theirs, in_words(error)[:_REPORT_MAX].encode())
        os._exit(0)
    os.close(theirs)
    failure = os.read(ours, _REPORT_MAX)
    os.close(ours)
    os.waitpid(child, 0)
    if failure:
        raise process.CannotRun(failure.decode("utf-8", "replace"))


def _await_start(plan: LaunchPlan, channel: socket.socket) -> socket.socket:
    """Say that the container is created, and wait until somebody connects to have it started.

    What can be known of the command is checked before, so that its error is the creation's. Answers the
    connection, which takes the channel's place.
    """
    if plan.process.args:
        process.find_executable(plan.process)
    channel.send(_CREATED)
    channel.close()
    with socket.socket(fileno=plan.listener) as listener:
        connection, _ = listener.accept()
    return connection
