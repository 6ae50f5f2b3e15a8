# SPDX-License-Identifier: Apache-2.0
"""One more process in a running container: what `exec` is to a container's first process.

Two processes: the first, forked ahead, joins the container; the second is born in the container's pid
namespace, as the keeper's own child (CLONE_PARENT), so that the keeper learns its exit status.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time

from ..linux import keys, spawn, syscalls
from . import process, stage
from .idmaps import map_of_process, outside
from .launch import in_words, receive_plan, report, set_up_stdio, take
from .notifying import Notifying
from .plan import JoinPlan, Process
from .users import sources

_LINGER = 0.002  # seconds
_WORD_MAX = 64 << 10


def run_joiner(channel: socket.socket, *, ahead: bool = False) -> None:
    """Wait for a plan, then start its process; never returns. The keeper has just forked the caller, `ahead`
    of the need for it or not.
    """
    try:
        # Non-dumpable before anything of the container can look: its processes must not reach the host's
        # files through /proc/PID of this one (CVE-2019-5736).
        syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
        if ahead:
            _rehearse()
        raw, stdio = receive_plan(channel)
        if not raw:
            os._exit(0)
        plan = JoinPlan.decode(raw)
        try:
            _join(plan, channel, stdio)
        except ProcessLookupError:  # as setns(2) says of one that is over and has not been reaped
            raise _gone(plan) from None
    except BaseException as error:  # noqa: BLE001 (whatever it is must reach the keeper: no one else can see it)
        os._exit(report(channel, error))


def _gone(plan: JoinPlan) -> process.CannotRun:
    return process.CannotRun(f"process {plan.pid} of the container has gone")


def _rehearse() -> None:
    """See `process.rehearse`."""
    plan = JoinPlan(os.getpid(), 0, (), Process(("true",), ("PATH=/bin",), rlimits=((0, 0, 0),)))
    JoinPlan.decode(plan.encode())
    os.close(syscalls.pidfd_open(plan.pid))
    start_time(plan.pid)
    process.read_last_capability()
    process.rehearse()
    if spawn.available:
        spawn.rehearse()


def start_time(pid: int) -> int:
    """When `pid` started, in clock ticks since boot: field 22 of proc(5) stat. Raises OSError when it is
    gone.
    """
    return parent_and_start_time(pid)[1]


def is_still(pid: int, started: int) -> bool:
    """Whether `pid` is the process that started then, and not another one or none."""
    try:
        return start_time(pid) == started
    except OSError:
        return False


def parent_and_start_time(pid: int) -> tuple[int, int]:
    """The parent of `pid` and when `pid` started: fields 4 and 22 of proc(5) stat. Raises OSError when it is
    gone.
    """
    fields = stat_fields(pid)
    return int(fields[1]), int(fields[19])


def stat_fields(pid: int) -> list[bytes]:
    """The fields of proc(5) stat of `pid` from the third on. Raises OSError when it is gone."""
    descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        content = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    return content[content.rindex(b")") + 2 :].split()


class _Word:
    """Waits until the process of a plan that is `ahead` is to be started."""

    def __init__(self, channel: socket.socket, groups: tuple[int, ...], directory: str) -> None:
        self._channel = channel
        self._groups = groups
        self._directory = directory
        self._sources = sources()

    def __call__(self) -> tuple[str, ...]:
        """The arguments of the process. Then this one is in the container's groups. Raises Stale."""
        packet = self._channel.recv(_WORD_MAX, socket.MSG_PEEK)
        if not packet:
            os._exit(0)
        try:
            stage.move_into(self._groups)
            os.chdir(self._directory)  # a directory of this name, if there is another one by now
        except OSError as error:
            raise process.Stale(in_words(error)) from None
        if sources() != self._sources:
            raise process.Stale("the container's users have changed")
        take(self._channel)
        return tuple(json.loads(packet))


def _join(plan: JoinPlan, channel: socket.socket, stdio: list[int]) -> None:
    os.umask(0)
    last_capability = process.read_last_capability()
    install_filter = process.read_seccomp(plan.process, plan.state)
    if plan.process.initial_cpus:
        os.sched_setaffinity(0, plan.process.initial_cpus)
    target = syscalls.pidfd_open(plan.pid)
    if not is_still(plan.pid, plan.start_time):
        raise _gone(plan)
    score = plan.process.oom_score_adj
    if score is not None:
        stage.write("/proc/self/oom_score_adj", str(score))
    if plan.process.apparmor_profile or plan.process.selinux_label:
        process.set_labels(plan.process)
    cgroup = os.open(plan.groups[0], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC) if plan.unified else -1
    groups: tuple[int, ...] = ()
    if plan.ahead:
        # Only with the word does it become one of the container's processes, to be counted and frozen.
        groups = stage.open_groups(plan.groups)
    elif not plan.unified:
        stage.join_groups(plan.groups)
    for file in plan.enter:
        stage.write(file, "0")
    namespaces = 0
    for name in plan.namespaces:
        namespaces |= stage.NAMESPACES[name]
    if namespaces & syscalls.CLONE_NEWUSER:
        process.lend_stdio(stdio, *(outside(map_of_process(plan.pid, kind)) for kind in ("uid", "gid")))
    # Only the host's root may put a child into the container's group of cgroup v2: the users come after that.
    late = namespaces & syscalls.CLONE_NEWUSER if plan.unified else 0
    if namespaces & ~late:
        syscalls.setns(target, namespaces & ~late)
    if namespaces & ~late & syscalls.CLONE_NEWUSER:
        stage.become_root()
    if plan.keyring:
        keys.join_session_keyring(plan.keyring)
    os.chdir("/")
    if plan.spawn and spawn.available:
        process.attach_stdio(stdio)
        process.replace_null_devices()
        process.spawn(
            plan.process,
            last_capability,
            install_filter,
            (channel.fileno(), *groups),
            lambda pid: channel.send(b"pid %d" % pid),
            _Word(channel, groups, plan.process.cwd) if plan.ahead else None,
        )
        syscalls.close_range(0)
        # The end of this process keeps a processor busy for a millisecond, which others wait for now.
        time.sleep(_LINGER)
        os._exit(0)
    waiting, tell = os.pipe2(os.O_CLOEXEC) if isinstance(install_filter, Notifying) else (-1, -1)
    flags = syscalls.CLONE_PARENT
    if plan.unified:
        child = syscalls.clone_into_cgroup(flags, cgroup, 0)
    else:
        child = syscalls.clone(flags | signal.SIGCHLD)
    if child:
        channel.send(b"pid %d" % child)
        if tell >= 0:
            os.write(tell, b"%d" % child)
        os._exit(0)
    if late:
        syscalls.setns(target, late)
        stage.become_root()
    if isinstance(install_filter, Notifying):
        # Its own number it cannot know: what it sees is that of the container's pid namespace.
        install_filter.for_process(int(os.read(waiting, 32)))
    if plan.process.final_cpus:
        os.sched_setaffinity(0, plan.process.final_cpus)
    set_up_stdio(plan.process, stdio, channel, "/dev/pts/ptmx")
    process.become(plan.process, last_capability, install_filter, channel.fileno())
