# SPDX-License-Identifier: Apache-2.0
"""`create`: from a bundle to a launcher that waits for the start."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from dataclasses import dataclass, replace

from ..errors import InvalidSpec, LaunchFailed
from ..linux import syscalls
from ..runtime.hooks import HookFailed, run_hooks
from ..runtime.join import start_time
from ..runtime.launch import run_launcher
from ..runtime.plan import LaunchPlan, Shape
from . import bundles, consoles, groups
from .options import Parsed
from .runtime import Runtime
from .states import CREATED, START, Directory, State


@dataclass(frozen=True)
class Creation:
    """What `create` and `run` were asked for."""

    bundle: str
    config: str
    console_socket: str
    pid_file: str
    preserve_fds: int
    pivot: bool
    new_keyring: bool
    foreground: bool

    @classmethod
    def from_options(cls, options: Parsed, *, foreground: bool) -> Creation:
        """Raises InvalidSpec."""
        return cls(
            bundle=os.path.abspath(options.bundle),
            config=options.config,
            console_socket=options.console_socket or "",
            pid_file=os.path.abspath(options.pid_file) if options.pid_file else "",
            preserve_fds=preserved(options.preserve_fds),
            pivot=not options.no_pivot,
            new_keyring=not options.no_new_keyring,
            foreground=foreground,
        )


class NotStarted(LaunchFailed):
    """The launcher has failed; `exit_status` is what a shell would give."""

    def __init__(self, message: str, exit_status: int = 1) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def create(runtime: Runtime, options: Parsed) -> int:
    """The command."""
    make(runtime, options.words[0], Creation.from_options(options, foreground=False))
    return 0


def make(runtime: Runtime, id: str, creation: Creation) -> int:
    """Create the container; the master of its terminal where the caller shall have it, else -1.

    A failure leaves nothing behind. Raises MooringError.
    """
    runtime.check_host()
    directory = Directory(runtime.root, id)
    bundle = bundles.load(creation.bundle, creation.config)
    bundle.check_terminal(creation.console_socket, foreground=creation.foreground)
    path = bundle.cgroup_path(id)
    where = groups.places(path) if runtime.manager == "cgroupfs" else ()
    state = State(
        id=id,
        bundle=creation.bundle,
        rootfs=bundle.rootfs,
        oci_version=bundle.config["ociVersion"],
        annotations=bundle.config.get("annotations") or {},
        owner=os.geteuid(),
        groups=where,
        cgroup_path=path if where else "",
    )
    directory.make()
    try:
        with directory.locked() as lock:
            directory.save(state)
            directory.save_config(bundle.text)
            return _launch(runtime, directory, state, bundle, creation, lock)
    except BaseException:
        if directory.exists():
            from .ending import destroy

            destroy(runtime, directory)
        reap()
        raise


def _launch(
    runtime: Runtime,
    directory: Directory,
    state: State,
    bundle: bundles.Bundle,
    creation: Creation,
    lock: int,
) -> int:
    resources = bundle.linux.get("resources") or {}
    if state.groups:
        groups.make(state.groups, state.cgroup_path)
        groups.apply(state.groups, resources)
        groups.restrict_devices(state.groups, groups.device_rules(resources.get("devices") or ()))
        if bundle.owns_cgroup:
            groups.give_away(state.groups, bundle.root_uid)
    listener = _listen(directory)
    created = os.open(directory.file(CREATED), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(created, fcntl.LOCK_EX)
    plan, shape = bundle.compile(
        id=state.id,
        preserve_fds=creation.preserve_fds,
        pivot=creation.pivot,
        new_keyring=creation.new_keyring,
        listener=listener.fileno(),
        state=json.dumps(state.for_hooks()),
        enter=groups.enter_files(state.groups),
    )
    for operation in plan.mounts:
        runtime.debug(operation.describe())
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = _fork(shape)
    if pid == 0:
        os.close(lock)
        ours.close()
        run_launcher(theirs, shape, "", "")
    theirs.close()
    listener.close()
    os.close(created)
    state = replace(
        state, pid=pid, start_time=start_time(pid), told=plan.report_mounted, keyring=plan.keyring
    )
    directory.save(state)
    master = _follow(ours, plan, bundle, state, creation)
    ours.close()
    state = replace(state, created=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + "Z")
    directory.save(state)
    if creation.pid_file:
        write_pid_file(creation.pid_file, pid)
    return master


def _fork(shape: Shape) -> int:
    """Fork the launcher, into a pid namespace of its own or into one that is there."""
    for name, path in shape.join:
        if name == "pid":
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            syscalls.setns(descriptor, syscalls.CLONE_NEWPID)
            os.close(descriptor)
    flags = syscalls.CLONE_NEWPID if "pid" in shape.namespaces else 0
    return syscalls.clone(flags | signal.SIGCHLD)


def _listen(directory: Directory) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    with short_path(directory) as place:
        listener.bind(f"{place}/{START}")
    listener.listen(1)
    return listener


class short_path:
    """A path of the state directory that fits into a socket's address, 108 bytes."""

    def __init__(self, directory: Directory) -> None:
        self._descriptor = os.open(directory.path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> str:
        return f"/proc/self/fd/{self._descriptor}"

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _follow(
    channel: socket.socket,
    plan: LaunchPlan,
    bundle: bundles.Bundle,
    state: State,
    creation: Creation,
) -> int:
    """Give the launcher its plan and serve it until the container is created."""
    file = os.memfd_create("mooring-plan", os.MFD_CLOEXEC)
    os.write(file, plan.encode())
    try:
        socket.send_fds(channel, [b"plan"], [file])
    except OSError:
        pass  # it has ended already: the channel says why
    os.close(file)
    master = -1
    while True:
        packet, descriptors, _, _ = socket.recv_fds(channel, 65536, 4)
        if packet == b"created":
            return master
        if packet == b"mounted":
            _run_runtime_hooks(bundle, state)
            channel.send(b"go on")
        elif packet == b"terminal":
            master = consoles.hand_over(creation.console_socket, descriptors[0])
        elif packet == b"ready":
            _give_devices(bundle, state)
        else:
            raise failure(packet)


def _give_devices(bundle: bundles.Bundle, state: State) -> None:
    """Network devices of the host go into the launcher's network namespace while it builds the rest."""
    if not bundle.linux.get("netDevices"):
        return
    # Imported here: hardly a container has any.
    from ..runtime.netdevices import move_devices, net_devices

    try:
        move_devices(net_devices(bundle.config), state.pid)
    except OSError as error:
        raise NotStarted(str(error.strerror)) from None


def failure(packet: bytes) -> NotStarted:
    """The error for a launcher's last word."""
    if not packet:
        return NotStarted("the launcher ended without a word: it was killed, most likely for want of memory")
    report = json.loads(packet)
    status = report["exit_code"]
    return NotStarted(report["error"], status if status in (126, 127) else 1)


def _run_runtime_hooks(bundle: bundles.Bundle, state: State) -> None:
    text = json.dumps(state.for_hooks())
    os.chdir(state.bundle)
    try:
        for kind in ("prestart", "createRuntime"):
            run_hooks(kind, bundle.hooks(kind), text, "creating", state.pid)
    except HookFailed as error:
        raise NotStarted(str(error)) from None


def preserved(text: str) -> int:
    """How many descriptors after the standard streams the process gets, those of LISTEN_FDS with them.
    Those that are not open are not there in the container either. Raises InvalidSpec.
    """
    try:
        count = int(text) + int(os.environ.get("LISTEN_FDS") or 0)
    except ValueError:
        raise InvalidSpec(f"--preserve-fds is {text!r}, expected a number") from None
    if count < 0:
        raise InvalidSpec(f"--preserve-fds is {text!r}, expected a number from 0 on")
    return count


def reap() -> None:
    """What has ended of the children that nobody else waits for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def write_pid_file(path: str, pid: int) -> None:
    """Write it at once, so that nobody reads half a number."""
    new = f"{path}.{os.getpid()}"
    try:
        with open(new, "w", encoding="ascii") as file:
            file.write(str(pid))
        os.replace(new, path)
    except OSError as error:
        raise NotStarted(f"pid file {path} cannot be written: {error.strerror}") from None
