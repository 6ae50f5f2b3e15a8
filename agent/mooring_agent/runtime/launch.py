# SPDX-License-Identifier: Apache-2.0
"""The launcher: a forked child of the keeper that prepares itself, waits for a plan, and becomes PID 1 of a
container.

It talks with the keeper over one SOCK_SEQPACKET socket. It sends `ready`; it receives a memory file with the
plan and the descriptors of standard input, output and error; it sends `terminal` with a pty's master where
one was asked for; and it reports a failure as a JSON object. The socket closes on execve: an end without a
report is a start that worked.
"""

from __future__ import annotations

import json
import os
import signal
import socket

from ..linux import netlink, syscalls
from . import mounts, process, stage, standard
from .plan import LaunchPlan, Process, Shape

_READY = b"ready"
_TERMINAL = b"terminal"
# Characters; one takes at most twelve bytes of JSON, so that a report fits into a packet of the keeper's.
_REPORT_MAX = 4096
# Exit statuses of the launcher itself; sysexits.h EX_SOFTWARE where there is nobody to report to.
_EXIT_UNUSED = 0
_EXIT_UNREPORTED = 70


def run_launcher(channel: socket.socket, shape: Shape, slot: str, stage_directory: str) -> None:
    """Live as a launcher; never returns. The caller has just forked it, into a pid namespace if the shape
    says so.
    """
    try:
        _launch(channel, shape, slot, stage_directory)
    except _Unused:
        os._exit(_EXIT_UNUSED)
    except BaseException as error:  # noqa: BLE001 (whatever it is must reach the keeper: no one else can see it)
        os._exit(report(channel, error))


def report(channel: socket.socket, error: BaseException) -> int:
    """Tell the keeper why there will be no process; return the exit status to leave with."""
    exit_code = error.exit_code if isinstance(error, process.CannotRun) else 125
    message = {"error": in_words(error)[:_REPORT_MAX], "exit_code": exit_code}
    try:
        channel.send(json.dumps(message).encode())
    except OSError:
        return _EXIT_UNREPORTED
    return exit_code


def in_words(error: BaseException) -> str:
    """What went wrong, for people: the name of the thing and the reason, without Python's error number."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {error}" if type(error).__module__ == "builtins" else str(error)


def receive_plan(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Wait for the plan: its bytes and the descriptors that came with it. An empty plan means: not needed any
    more.
    """
    message, descriptors, _, _ = socket.recv_fds(channel, 64, 8)
    if not message:
        return b"", []
    plan = os.fdopen(descriptors[0], "rb", closefd=True)
    plan.seek(0)
    raw = plan.read()
    plan.close()
    if not raw:
        raise process.CannotRun("the plan of the process is empty")
    return raw, descriptors[1:]


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


def _launch(channel: socket.socket, shape: Shape, slot: str, stage_directory: str) -> None:
    os.umask(0)
    groups = tuple(f"{parent}/{slot}" for parent in shape.groups)
    if not shape.unified:
        stage.join_groups(stage.make_groups(shape, slot))
    stage.enter_namespaces(shape)
    last_capability = process.read_last_capability()
    operations = standard.standard_mounts(shape.shm_size, _hierarchies(shape)) if shape.standard else ()
    sysctls = stage.build_trees(stage_directory, standard.TREES, operations)
    if "net" in shape.namespaces:
        stage.raise_loopback()
    channel.send(_READY)

    raw, stdio = receive_plan(channel)
    if not raw:
        raise _Unused
    plan = LaunchPlan.decode(raw)
    install_filter = process.read_seccomp(plan.process)
    if not shape.unified:
        groups = _rename_groups(shape, slot, plan.group)
    for index, file, value in plan.group_settings:
        stage.write(f"{groups[index]}/{file}", value)
    if plan.process.oom_score_adj is not None:
        stage.write("/proc/self/oom_score_adj", str(plan.process.oom_score_adj))
    for name, path in plan.join:
        _join(name, path)
    netlink.execute(tuple(bytes.fromhex(message) for message in plan.netlink))
    if plan.hostname:
        syscalls.sethostname(plan.hostname)
    for name, value in plan.sysctls:
        stage.write(f"/proc/sys/{name}" if sysctls < 0 else name, value, sysctls)
    if sysctls >= 0:
        os.close(sysctls)
    _enter_root(plan, shape, stage_directory)
    set_up_stdio(plan.process, stdio, channel, "/dev/pts/ptmx")
    process.become(plan.process, last_capability, install_filter, channel.fileno())


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


def _rename_groups(shape: Shape, slot: str, name: str) -> tuple[str, ...]:
    """Give the prepared groups the container's name. Only cgroup v1 can, and only in place."""
    for parent in shape.groups:
        os.rename(f"{parent}/{slot}", f"{parent}/{name}")
    return tuple(f"{parent}/{name}" for parent in shape.groups)


def _join(name: str, path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(descriptor, stage.NAMESPACES[name])
    finally:
        os.close(descriptor)


def _enter_root(plan: LaunchPlan, shape: Shape, stage_directory: str) -> None:
    """Build the container's file system below the stage and leave the host's root for good."""
    place = f"{stage_directory}/root"
    plan.root.mount(place)
    root = os.open(place, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    if shape.standard:
        for tree in standard.TREES:
            mounts.move_tree(f"{stage_directory}/{tree}", root, f"/{tree}")
    for operation in plan.mounts:
        try:
            operation.execute(root)
        except OSError as error:
            raise OSError(error.errno, f"{operation.describe()}: {error.strerror}") from None
    if plan.read_only_root:
        syscalls.mount_setattr(root, "", syscalls.AT_EMPTY_PATH, set_=syscalls.MOUNT_ATTR_RDONLY)
    os.fchdir(root)
    os.close(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", syscalls.MNT_DETACH)
    os.chdir("/")
    # The keeper's own dispositions and mask end here; `become` resets what it ignores.
    signal.set_wakeup_fd(-1)
