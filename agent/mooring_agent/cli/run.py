# SPDX-License-Identifier: Apache-2.0
"""`mooring run` and `mooring exec`: a command in a new or in a running container, at this terminal.

Both speak the Docker Engine API of the agent, which has the words for attaching.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from typing import Any

from ..engine.resources.options import Size
from ..errors import InvalidSpec, MooringError
from .client import DOCKER, ApiFailure, Client, segment
from .confinement import confinement
from .containers import change, client_of
from .health import healthcheck
from .images import pair
from .limits import host_config
from .mountarguments import mounts
from .networking import beyond_docker, names, networking, ports
from .terminal import pump, raw_mode, watch_size, window_size

_NANO = 1_000_000_000
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def run(arguments: argparse.Namespace) -> int:
    """Run a command in a new container; the exit status is the command's."""
    _check_terminal(arguments)
    client = client_of(arguments)
    body, beyond = _body(arguments), beyond_docker(arguments)
    query = {"name": arguments.name} if arguments.name else None
    container = client.call("POST", f"{DOCKER}/containers/create", body, query)["Id"]
    path = f"{DOCKER}/containers/{container}"
    try:
        if beyond:
            change(client, container, beyond)
        if arguments.detach:
            client.call("POST", f"{path}/start")
            print(container)
            return 0
        return _attended(client, path, arguments)
    except MooringError:
        # A container that was made for this run alone and did not start is of no use to anybody.
        if arguments.rm:
            with contextlib.suppress(MooringError):
                client.call("DELETE", path, query={"force": True, "v": True})
        raise


def _attended(client: Client, path: str, arguments: argparse.Namespace) -> int:
    streams = {"stream": True, "stdin": arguments.interactive, "stdout": True, "stderr": True}
    connection, early, _ = client.take_over("POST", f"{path}/attach", None, streams)
    with connection:
        condition = "removed" if arguments.rm else "next-exit"
        # Its headers are here before the start, so that no end can be missed.
        waiting = client.stream("POST", f"{path}/wait", {"condition": condition})
        client.call("POST", f"{path}/start")
        with _at_terminal(client, path, arguments), _signals_passed_on(client, path, arguments):
            pump(connection, early, framed=not arguments.tty, stdin=arguments.interactive)
    with waiting:
        if arguments.tty and _runs_on(client, path):
            print("\ndetached: it runs on", file=sys.stderr)
            return 0
        result = json.loads(waiting.read())
    if result.get("Error"):
        raise MooringError(str(result["Error"]["Message"]))
    return int(result["StatusCode"])


def _runs_on(client: Client, path: str) -> bool:
    """Whether the user has left it with the detach keys (ctrl-p, ctrl-q)."""
    try:
        return bool(client.call("GET", f"{path}/json")["State"]["Running"])
    except ApiFailure:
        return False  # it has ended, and was removed


def execute(arguments: argparse.Namespace) -> int:
    """Run a command in a running container; the exit status is the command's."""
    _check_terminal(arguments)
    if not arguments.command:
        raise InvalidSpec("exec needs a command: mooring exec NAME COMMAND …")
    client = client_of(arguments)
    attached = not arguments.detach
    body = {
        "Cmd": _words(arguments.command),
        "Env": _variables(arguments.env),
        "WorkingDir": arguments.workdir,
        "User": arguments.user,
        "Privileged": arguments.privileged,
        "Tty": arguments.tty,
        "AttachStdin": arguments.interactive and attached,
        "AttachStdout": attached,
        "AttachStderr": attached,
    }
    if arguments.tty:
        body["ConsoleSize"] = list(window_size())
    created = client.call("POST", f"{DOCKER}/containers/{segment(arguments.name)}/exec", body)["Id"]
    path = f"{DOCKER}/exec/{created}"
    if arguments.detach:
        client.call("POST", f"{path}/start", {"Detach": True})
        return 0
    connection, early, _ = client.take_over("POST", f"{path}/start", {"Detach": False, "Tty": arguments.tty})
    with connection, _at_terminal(client, path, arguments):
        pump(connection, early, framed=not arguments.tty, stdin=arguments.interactive)
    code = client.call("GET", f"{path}/json")["ExitCode"]
    return 0 if code is None else int(code)


@contextlib.contextmanager
def _at_terminal(client: Client, path: str, arguments: argparse.Namespace) -> Iterator[None]:
    """The user's terminal becomes that of the container."""

    def resize(rows: int, columns: int) -> None:
        # It may have ended already.
        with contextlib.suppress(MooringError):
            client.call("POST", f"{path}/resize", query={"h": rows, "w": columns})

    with contextlib.ExitStack() as stack:
        if arguments.tty:
            if window_size() != (0, 0):
                stack.enter_context(watch_size(resize))
            if arguments.interactive:
                stack.enter_context(raw_mode())
        yield


@contextlib.contextmanager
def _signals_passed_on(client: Client, path: str, arguments: argparse.Namespace) -> Iterator[None]:
    """What would end us without a terminal in between goes to the container, as with `docker run`."""

    def tell(number: int, _: object) -> None:
        with contextlib.suppress(MooringError):
            client.call("POST", f"{path}/kill", query={"signal": signal.Signals(number).name})

    before = {} if arguments.tty else {number: signal.signal(number, tell) for number in _PASSED_ON}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _check_terminal(arguments: argparse.Namespace) -> None:
    if arguments.tty and arguments.interactive and not arguments.detach and not os.isatty(0):
        raise InvalidSpec("standard input is no terminal: leave -t out")


def _words(command: list[str]) -> list[str]:
    """argparse leaves a separating "--" in place."""
    return command[1:] if command[:1] == ["--"] else command


def _variables(given: list[str], *, unset: bool = False) -> list[str]:
    """`-e NAME` takes the value from here, if there is one; else, with `unset`, the image's is taken away."""
    return [
        item if "=" in item or item not in os.environ else f"{item}={os.environ[item]}"
        for item in given
        if unset or "=" in item or item in os.environ
    ]


def _body(arguments: argparse.Namespace) -> dict[str, Any]:
    restart, _, retries = arguments.restart.partition(":")
    host: dict[str, Any] = {
        "Annotations": dict(pair(item, "--annotation") for item in arguments.annotation),
        "AutoRemove": arguments.rm,
        "Binds": arguments.volume,
        "Mounts": mounts(arguments.mount),
        "CapAdd": arguments.cap_add,
        "CapDrop": arguments.cap_drop,
        "CgroupParent": arguments.cgroup,
        "CpuShares": arguments.cpu_shares,
        "CpusetCpus": arguments.cpuset_cpus,
        "CpusetMems": arguments.cpuset_mems,
        "Memory": _size(arguments.memory, "--memory"),
        "MemoryReservation": _size(arguments.memory_reservation, "--memory-reservation"),
        "MemorySwap": _size(arguments.memory_swap, "--memory-swap"),
        "NanoCpus": round(arguments.cpus * _NANO) if arguments.cpus else None,
        **names(arguments),
        "LogConfig": {
            "Type": arguments.log_driver,
            "Config": dict(pair(item, "--log-opt") for item in arguments.log_opt),
        },
        "PidsLimit": arguments.pids_limit,
        **host_config(arguments),
        "PortBindings": ports(arguments.publish),
        "ReadonlyRootfs": arguments.read_only,
        "RestartPolicy": {"Name": restart, "MaximumRetryCount": _number(retries, "--restart")},
        "Tmpfs": dict(item.partition(":")[::2] for item in arguments.tmpfs),
        **confinement(arguments),
    }
    body: dict[str, Any] = {
        "Image": arguments.image,
        "Cmd": _words(arguments.command),
        "Env": _variables(arguments.env, unset=True),
        "Labels": dict(item.partition("=")[::2] for item in arguments.label),
        "Hostname": arguments.hostname,
        "Domainname": arguments.domainname,
        "WorkingDir": arguments.workdir,
        "User": arguments.user,
        "Tty": arguments.tty,
        "OpenStdin": arguments.interactive,
        "StdinOnce": arguments.interactive and not arguments.detach,
        "AttachStdin": arguments.interactive and not arguments.detach,
        "AttachStdout": not arguments.detach,
        "AttachStderr": not arguments.detach,
        "StopSignal": arguments.stop_signal,
        "StopTimeout": arguments.stop_timeout,
        "Healthcheck": healthcheck(arguments),
        "HostConfig": host,
        **networking(arguments),
    }
    if arguments.entrypoint is not None:
        body["Entrypoint"] = shlex.split(arguments.entrypoint) or [""]
    return body


def _size(text: str | None, option: str) -> int | None:
    if text is None or text == "-1":
        return None if text is None else -1
    return Size().parse(text, option)


def _number(text: str, option: str) -> int:
    if text and not text.isdigit():
        raise InvalidSpec(f"{option} has {text!r}: expected a number of attempts")
    return int(text or 0)
