# SPDX-License-Identifier: Apache-2.0
"""`exec`: one more process in a running container, started by the joiner that the keeper uses too."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..errors import Conflict, InvalidSpec, NotFound
from ..runtime.capabilities import CAPABILITIES
from ..runtime.compile import NAMESPACE_TYPES, compile_process
from ..runtime.join import run_joiner
from ..runtime.plan import JoinPlan, Process
from . import config_types, consoles, groups
from .bundles import check_process, listen_environment
from .creating import NotStarted, failure, preserved, write_pid_file
from .filters import compile_filter
from .options import Parsed
from .runtime import Runtime
from .starting import wait_for
from .states import Directory, State, status_of


def execute(runtime: Runtime, options: Parsed) -> int:
    """The command. In the foreground it answers with the process's exit status."""
    directory = Directory(runtime.root, options.words[0])
    state = directory.load()
    status = status_of(directory, state)
    if status not in ("running", "created") and not (status == "paused" and options.ignore_paused):
        raise Conflict(f"container {state.id} is {status}: expected a running one to execute in")
    config = directory.config()
    process = _process(options, config)
    if process.get("terminal") and options.detach and not options.console_socket:
        raise InvalidSpec("a terminal and --detach want --console-socket, which gets the terminal's master")
    preserve_fds = preserved(options.preserve_fds)
    compiled = compile_process(process, {}, compile_filter(config["linux"].get("seccomp")), config["linux"])
    compiled = replace(
        compiled,
        env=(*compiled.env, *listen_environment(preserve_fds)),
        preserve_fds=preserve_fds,
    )
    plan = _plan(state, compiled, options.cgroup or "")
    pid, master = _start(plan, options.console_socket or "")
    if options.pid_file:
        write_pid_file(os.path.abspath(options.pid_file), pid)
    return 0 if options.detach else wait_for(pid, master, None)


def _process(options: Parsed, config: Mapping[str, Any]) -> dict[str, Any]:
    """The `process` to run: a file's, or the container's own with what was said on the command line."""
    process: dict[str, Any]
    if options.process:
        try:
            with open(options.process, encoding="utf-8") as file:
                process = json.load(file)
        except FileNotFoundError:
            raise NotFound(f"process {options.process} does not exist") from None
        except ValueError as error:
            raise InvalidSpec(f"process {options.process} is no JSON: {error}") from None
        if not isinstance(process, dict):
            raise InvalidSpec(f"process {options.process} is not a JSON object")
        config_types.check_process(process)
    else:
        process = dict(config["process"])
        process["args"] = options.words[1:]
        # What a limit or a place of the first process is says nothing of this one's terminal.
        process["terminal"] = False
        process.pop("consoleSize", None)
        process["env"] = [*process.get("env", ()), *(_variable(one) for one in options.env)]
    if options.tty:
        process["terminal"] = True
    if options.cwd:
        process["cwd"] = options.cwd
    if options.user:
        process["user"] = _user(options.user)
    if options.additional_gids:
        gids = [_id(one, "--additional-gids") for one in options.additional_gids]
        process["user"] = {**process.get("user", {}), "additionalGids": gids}
    if options.cap:
        process["capabilities"] = _more_capabilities(process.get("capabilities") or {}, options.cap)
    if options.no_new_privs:
        process["noNewPrivileges"] = True
    if options.process_label:
        process["selinuxLabel"] = options.process_label
    if options.apparmor:
        process["apparmorProfile"] = options.apparmor
    check_process(process)
    return process


def _variable(text: str) -> str:
    if "=" not in text:
        raise InvalidSpec(f"--env is {text!r}, expected NAME=VALUE")
    return text


def _user(text: str) -> dict[str, Any]:
    uid, sign, gid = text.partition(":")
    return {"uid": _id(uid, "--user"), "gid": _id(gid, "--user") if sign else 0}


def _id(text: str, option: str) -> int:
    """A number and nothing else: a name must not become root."""
    if not (text.isascii() and text.isdigit() and int(text) < (1 << 32) - 1):
        raise InvalidSpec(f"{option} has {text!r}, expected a number")
    return int(text)


def _more_capabilities(sets: Mapping[str, list[str]], names: list[str]) -> dict[str, list[str]]:
    for name in names:
        if name not in CAPABILITIES:
            raise InvalidSpec(f"--cap is {name!r}, expected a name such as CAP_NET_ADMIN")
    # Not the inheritable set: what the program's file has not, it would hand on (CVE-2022-27650).
    return {
        **sets,
        **{kind: [*sets.get(kind, ()), *names] for kind in ("bounding", "effective", "permitted", "ambient")},
    }


def _plan(state: State, process: Process, below: str) -> JoinPlan:
    return JoinPlan(
        pid=state.pid,
        start_time=state.start_time,
        groups=(),
        process=process,
        state=json.dumps({**state.for_hooks(), "status": "running"}) if process.listener else "",
        namespaces=_foreign_namespaces(state.pid),
        enter=_enter(state, below),
        keyring=state.keyring,
    )


def _foreign_namespaces(pid: int) -> tuple[str, ...]:
    """Those that the container does not share with this process: one's own user namespace cannot be
    joined.
    """
    found = []
    for name in NAMESPACE_TYPES.values():
        try:
            theirs, ours = (os.stat(f"/proc/{who}/ns/{name}") for who in (pid, "self"))
        except FileNotFoundError:
            continue  # a kernel without this kind
        if (theirs.st_dev, theirs.st_ino) != (ours.st_dev, ours.st_ino):
            found.append(name)
    return tuple(found)


def _enter(state: State, below: str) -> tuple[str, ...]:
    """The files to join the container's groups by: the group `below`, made where it is missing, or theirs.

    A version 2 group that has handed controllers to groups inside can hold no process; the first process's
    own one does.
    """
    if not state.groups:
        return ()
    if below:
        if ".." in below.split("/"):
            raise InvalidSpec(
                f"--cgroup is {below!r}: `..` components are not allowed, expected a group inside"
            )
        for directory, _ in state.groups:
            os.makedirs(f"{directory}/{below.strip('/')}", exist_ok=True)
            _inherit_cpuset(f"{directory}/{below.strip('/')}")
        return groups.enter_files(state.groups, below)
    files = []
    for (directory, version), file in zip(state.groups, groups.enter_files(state.groups), strict=True):
        files.append(_unified_place(directory, state.pid) if version == 2 else file)
    return tuple(files)


def _inherit_cpuset(directory: str) -> None:
    from ..cgroups import interface

    for name in ("cpuset.cpus", "cpuset.mems"):
        if os.path.exists(f"{directory}/tasks") and interface.read_if_there(f"{directory}/{name}") == "":
            interface.write(f"{directory}/{name}", interface.read(f"{os.path.dirname(directory)}/{name}"))


def _unified_place(directory: str, pid: int) -> str:
    try:
        with open(f"{directory}/cgroup.subtree_control", encoding="ascii") as file:
            if not file.read().strip():
                return f"{directory}/cgroup.procs"
        with open(f"/proc/{pid}/cgroup", encoding="utf-8") as file:
            path = next(line[3:].rstrip("\n") for line in file if line.startswith("0::"))
    except (FileNotFoundError, StopIteration):
        return f"{directory}/cgroup.procs"
    name = os.path.basename(directory)
    inside = path.rpartition(f"/{name}/")[2] if f"/{name}/" in path else ""
    return f"{directory}/{inside}/cgroup.procs" if inside else f"{directory}/cgroup.procs"


def _start(plan: JoinPlan, console_socket: str) -> tuple[int, int]:
    """Fork the joiner and follow it to the execve: the process's pid, and the master of its terminal or
    -1.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    joiner = os.fork()
    if joiner == 0:
        ours.close()
        run_joiner(theirs)
    theirs.close()
    file = os.memfd_create("mooring-plan", os.MFD_CLOEXEC)
    os.write(file, plan.encode())
    try:
        socket.send_fds(ours, [b"plan"], [file])
    except OSError:
        pass  # it has ended already: the channel says why
    os.close(file)
    pid, master = 0, -1
    error: NotStarted | None = None
    while True:
        packet, descriptors, _, _ = socket.recv_fds(ours, 65536, 4)
        if packet.startswith(b"pid "):
            pid = int(packet[4:])
        elif packet == b"terminal":
            master = consoles.hand_over(console_socket, descriptors[0])
        elif packet:
            error = failure(packet)
        else:
            break
    ours.close()
    os.waitpid(joiner, 0)
    if error is None and pid:
        return pid, master
    if pid:
        os.waitpid(pid, 0)
    raise error or failure(b"")
