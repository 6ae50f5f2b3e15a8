# SPDX-License-Identifier: Apache-2.0
"""`mooring ps|start|stop|restart|drain|rm|inspect|logs`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable
from typing import Any

from ..errors import InvalidSpec, MooringError
from .client import DOCKER, FLEET, ApiFailure, Client, segment
from .frames import demultiplex
from .output import age, as_yaml, show

_KINDS = ("container", "image", "network", "volume", "cgroup")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST_COMMAND = 30


def client_of(arguments: argparse.Namespace) -> Client:
    """The client for the socket that the command line names, if it names one."""
    return Client(getattr(arguments, "socket", None))


def ps(arguments: argparse.Namespace) -> int:
    """List containers."""
    views = client_of(arguments).call("GET", f"{FLEET}/containers", query={"label": arguments.label})
    if not arguments.all:
        views = [view for view in views if view["state"] in ("running", "paused", "restarting")]
    if arguments.quiet:
        for view in views:
            print(view["name"])
        return 0
    header = ("NAME", "STATE", "IMAGE", "COMMAND", "ADDRESS", "PORTS", "AGE")
    show(views, arguments.output, header, [_row(view) for view in views])
    return 0


def _row(view: dict[str, Any]) -> tuple[str, ...]:
    command = view["spec"].get("command") or view["spec"].get("entrypoint") or []
    # A script of several lines is one cell of the table.
    text = " ".join((command if isinstance(command, str) else shlex.join(command)).split())
    if len(text) > _LONGEST_COMMAND:
        text = text[: _LONGEST_COMMAND - 1] + "…"
    state = view["state"]
    if state == "exited":
        state = f"exited ({view['exit_code']})"
    elif state == "running" and view["health"] is not None:
        state = f"running ({view['health']['status']})"
    addresses = [network["ipv4_address"] or network["ipv6_address"] for network in view["networks"].values()]
    return (
        view["name"],
        state,
        view["image"],
        text or "-",
        ",".join(filter(None, addresses)) or "-",
        ",".join(_port(port) for port in view["ports"]) or "-",
        age(view["started_at"] or view["created_at"]),
    )


def _port(port: dict[str, Any]) -> str:
    host_ip = f"[{port['host_ip']}]" if ":" in port["host_ip"] else port["host_ip"]
    address = "" if host_ip in ("0.0.0.0", "") else f"{host_ip}:"
    return f"{address}{port['host'] or '?'}→{port['container']}/{port['protocol']}"


def start(arguments: argparse.Namespace) -> int:
    """Start containers."""
    return _each(arguments, lambda client, name: _act(client, name, "start", {}))


def stop(arguments: argparse.Namespace) -> int:
    """Stop containers."""
    return _each(arguments, lambda client, name: _act(client, name, "stop", {"timeout": arguments.timeout}))


def restart(arguments: argparse.Namespace) -> int:
    """Restart containers."""
    return _each(
        arguments, lambda client, name: _act(client, name, "restart", {"timeout": arguments.timeout})
    )


def drain(arguments: argparse.Namespace) -> int:
    """Take containers out of the ports that they share, and wait for their connections."""
    return _each(arguments, lambda client, name: _drain(client, name, arguments.timeout))


def _drain(client: Client, name: str, timeout: float | None) -> None:
    left = _act(client, name, "drain", {"timeout": timeout})["connections"]
    if left:
        print(f"mooring: container {name} has {left} connections still", file=sys.stderr)


def update(arguments: argparse.Namespace) -> int:
    """Change the limits of a container."""
    changes: dict[str, Any] = {}
    for field in ("network_limit", "network_class"):
        value, none = getattr(arguments, field), getattr(arguments, f"no_{field}")
        option = f"--{field.replace('_', '-')}"
        if value and none:
            raise InvalidSpec(f"update has {option} and --no{option[1:]}: expected one of them")
        if value or none:
            changes["network_limits" if field == "network_limit" else field] = value or None
    if not changes:
        raise InvalidSpec("update needs --network-limit, --network-class, or one of them with no- before it")
    change(client_of(arguments), arguments.name, changes)
    print(arguments.name)
    return 0


def change(client: Client, name: str, changes: dict[str, Any]) -> None:
    """Change options of a container that change while it lives."""
    client.call("PATCH", f"{FLEET}/containers/{segment(name)}", changes)


def _act(client: Client, name: str, action: str, query: dict[str, object]) -> Any:
    return client.call("POST", f"{FLEET}/containers/{segment(name)}/{action}", query=query)


def remove(arguments: argparse.Namespace) -> int:
    """Remove containers; here, unlike in a declaration, one that is not there is an error."""
    query = {"force": arguments.force, "v": arguments.volumes}
    return _each(
        arguments,
        lambda client, name: client.call("DELETE", f"{DOCKER}/containers/{segment(name)}", query=query),
    )


def _each(arguments: argparse.Namespace, call: Callable[[Client, str], object]) -> int:
    """Do it to each; one failure does not keep the others from theirs."""
    client = client_of(arguments)
    status = 0
    for name in arguments.names:
        try:
            call(client, name)
            print(name)
        except ApiFailure as error:
            print(f"mooring: {error.message}", file=sys.stderr)
            status = 1
    return status


def inspect(arguments: argparse.Namespace) -> int:
    """Show things by name, whatever kind they are."""
    client = client_of(arguments)
    found = [_find(client, name, arguments.type) for name in arguments.names]
    if arguments.output == "yaml":
        sys.stdout.write(as_yaml(found))
    else:
        print(json.dumps(found, indent=2, ensure_ascii=False))
    return 0


def _find(client: Client, name: str, kind: str | None) -> Any:
    failure: MooringError | None = None
    for each in (kind,) if kind else _KINDS:
        try:
            return client.call("GET", f"{FLEET}/{each}s/{segment(name, slashes=each == 'image')}")
        except ApiFailure as error:
            if error.status not in (400, 404):
                raise
            failure = failure or error
    if kind and failure is not None:
        raise failure
    raise InvalidSpec(f"nothing is called {name}: expected a container, image, network, volume or cgroup")


def logs(arguments: argparse.Namespace) -> int:
    """Copy what a container wrote to the same streams here."""
    now = time.time()
    query = {
        "stdout": True,
        "stderr": True,
        "follow": arguments.follow,
        "tail": arguments.tail,
        "since": moment(arguments.since, now),
        "until": moment(arguments.until, now),
        "timestamps": arguments.timestamps,
    }
    if arguments.tail != "all" and not arguments.tail.isdigit():
        raise InvalidSpec(f'--tail {arguments.tail} is no number of lines: expected one, or "all"')
    answer = client_of(arguments).stream("GET", f"{DOCKER}/containers/{segment(arguments.name)}/logs", query)
    with answer:
        if "multiplexed" in answer.headers.get("Content-Type", ""):
            for stream, data in demultiplex(answer.read1):
                write(stream, data)
        else:
            while data := answer.read1():
                write(1, data)
    return 0


def write(stream: int, data: bytes) -> None:
    """Write all of it to standard output (1) or standard error (2), at once."""
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


def moment(text: str, now: float) -> str | None:
    """A time as the API takes it: a span before now becomes a moment, anything else is the API's to read."""
    match = _SPAN.fullmatch(text)
    if match is not None:
        return f"{now - float(match[1]) * _SECONDS[match[2]]:.6f}"
    return text or None
