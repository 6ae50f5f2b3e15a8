# SPDX-License-Identifier: Apache-2.0
"""Containers straight from a config of the runtime-spec: the launcher alone, without agent and keeper."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import tarfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import pytest

from harness.forked import fork
from harness.waiting import PATIENCE
from mooring_agent.linux import syscalls
from mooring_agent.runtime.compile import (
    compile_launch,
    id_maps,
    is_standard,
    joined_namespaces,
    new_namespaces,
    time_offsets,
)
from mooring_agent.runtime.launch import GOING, run_launcher
from mooring_agent.runtime.mounts import Overlay
from mooring_agent.runtime.plan import Shape
from mooring_agent.runtime.seccomp_profile import compile_profile

_DEADLINE = 20.0 * PATIENCE
CONFIG: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs"},
    "process": {"args": [], "env": ["PATH=/bin"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["newinstance", "ptmxmode=0666", "mode=620", "gid=5"],
        },
    ],
    "linux": {"namespaces": [{"type": kind} for kind in ("mount", "pid", "network", "uts", "ipc", "cgroup")]},
}


@dataclass(frozen=True)
class Contained:
    """How a container's process ended: its status as a shell gives it, what it wrote, and the launcher's last
    word where it did not get that far.
    """

    status: int
    output: str
    error: str = ""


Contain = Callable[..., Contained]


@pytest.fixture(scope="session")
def layer(busybox_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with busybox."""
    place = tmp_path_factory.mktemp("layer")
    with tarfile.open(busybox_rootfs) as archive:
        archive.extractall(place, filter="fully_trusted")
    return place


@pytest.fixture
def contain(layer: Path, tmp_path: Path) -> Contain:
    """Run a shell command in a container with the base config and changes to its parts."""
    store = tmp_path / "store"
    for name in ("upper", "work", "stage"):
        (store / name).mkdir(parents=True)

    def run(command: str, /, *, terminal: bool = False, **changes: Any) -> Contained:
        config = _changed(changes)
        config["process"]["args"] = ["sh", "-c", command]
        config["process"]["terminal"] = terminal
        uids, gids = id_maps(config)
        root = Overlay((str(layer),), str(store / "upper"), str(store / "work"), uids, gids)
        seccomp = (config["linux"].get("seccomp") and _compiled(config, store)) or None
        plan = compile_launch(config, id="test", group="", root=root, seccomp=seccomp, bundle=str(tmp_path))
        shape = Shape(
            namespaces=new_namespaces(config),
            join=joined_namespaces(config),
            standard=is_standard(config),
            uids=uids,
            gids=gids,
            time_offsets=time_offsets(config),
        )
        return _launched(shape, plan.encode(), str(store / "stage"))

    return run


def _changed(changes: Mapping[str, Any]) -> dict[str, Any]:
    config = copy.deepcopy(CONFIG)
    for part, value in changes.items():
        if isinstance(value, dict) and isinstance(config.get(part), dict):
            config[part].update(value)
        elif part == "more_mounts":
            config["mounts"] += value
        else:
            config[part] = value
    return config


def _compiled(config: Mapping[str, Any], store: Path) -> str:
    file = store / "filter.bpf"
    file.write_bytes(compile_profile(config["linux"]["seccomp"], ()))
    return str(file)


def _launched(shape: Shape, plan: bytes, stage: str) -> Contained:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, writer = os.pipe2(os.O_CLOEXEC)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    memory = os.memfd_create("plan", os.MFD_CLOEXEC)
    os.write(memory, plan)
    child = _fork(shape)
    if child == 0:
        ours.close()
        run_launcher(theirs, shape, "", stage)
    theirs.close()
    try:
        assert ours.recv(64) == b"ready" or pytest.fail("the launcher was not ready")
        socket.send_fds(ours, [b"plan"], [memory, null, writer, writer])
        os.close(writer)
        writer = -1
        error, output = _told(ours, reader)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return Contained(code if code >= 0 else 128 - code, output, error)
    finally:
        ours.close()
        for descriptor in (reader, writer, null, memory):
            if descriptor >= 0:
                os.close(descriptor)


def _fork(shape: Shape) -> int:
    """Fork the launcher, as PID 1 of a namespace of its own where the shape has one.

    Other tests leave threads, and the child of a bare clone(2) would wait for the interpreter's lock if one
    of them had just asked for it. So there is a process between, which has no threads; it ends as its child.
    """
    child = fork()
    if child or "pid" not in shape.namespaces:
        return child
    launcher = syscalls.clone(syscalls.CLONE_NEWPID | signal.SIGCHLD)
    if launcher == 0:
        return 0
    syscalls.close_range(3)
    code = os.waitstatus_to_exitcode(os.waitpid(launcher, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _told(channel: socket.socket, reader: int) -> tuple[str, str]:
    """What came of the launcher and of the process until both had nothing more to say."""
    error, output = "", b""
    terminal = -1
    open_ones = {channel.fileno(), reader}
    deadline = time.monotonic() + _DEADLINE
    while open_ones:
        readable = wait(list(open_ones), max(0.0, deadline - time.monotonic()))
        assert readable, f"the container did not end: {output!r}"
        for descriptor in readable:
            if descriptor == channel.fileno():
                packet, descriptors, _, _ = socket.recv_fds(channel, 65536, 1)
                if packet == b"terminal":
                    terminal = descriptors[0]
                    open_ones.add(terminal)
                elif packet and packet != GOING:
                    error = json.loads(packet)["error"]
                else:
                    open_ones.discard(descriptor)
                continue
            try:
                piece = os.read(descriptor, 1 << 16)
            except OSError:  # EIO of a terminal that nobody has open any more
                piece = b""
            output += piece
            if not piece:
                open_ones.discard(descriptor)
    if terminal >= 0:
        os.close(terminal)
    return error, output.decode(errors="replace")
