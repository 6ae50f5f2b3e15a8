# SPDX-License-Identifier: Apache-2.0
"""`mooring host|version|events` and `mooring system dial-stdio|down`."""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import sys
import threading
import time
from typing import Any

from .. import __version__
from ..errors import MooringError, Unavailable
from .client import FLEET
from .containers import client_of, moment, write
from .output import show, size

_PIECE = 65536
_DOWN_WITHIN = 30.0
_POLL = 0.05


def host(arguments: argparse.Namespace) -> int:
    """Show the host."""
    facts = client_of(arguments).call("GET", f"{FLEET}/host")
    cgroup = facts["cgroup"]
    rows = [
        ("name", facts["name"]),
        ("agent", f"{facts['version']}, process {facts['agent']['pid']}"),
        ("keeper", f"{facts['keeper']['version']}, process {facts['keeper']['pid']}"),
        ("kernel", f"{facts['kernel']} {facts['arch']}"),
        ("cpus", str(facts["cpus"])),
        ("memory", size(facts["memory"])),
        ("cgroups", f"{cgroup['mode']}: {', '.join(cgroup['controllers'])}"),
        ("containers", f"{facts['containers']['total']}, {facts['containers']['running']} running"),
        ("images", str(facts["images"])),
        ("networks", str(facts["networks"])),
        ("data", f"{facts['data_root']} ({facts['storage_driver']})"),
    ]
    show(facts, arguments.output, ("HOST", ""), rows)
    return 0


def version(arguments: argparse.Namespace) -> int:
    """Show the versions on both ends; the agent's may be out of reach."""
    print(f"client {__version__}")
    try:
        print(f"agent  {client_of(arguments).call('GET', f'{FLEET}/host')['version']}")
    except Unavailable as error:
        print(f"mooring: {error.message}", file=sys.stderr)
        return 1
    return 0


def events(arguments: argparse.Namespace) -> int:
    """Show what happens until somebody ends it."""
    now = time.time()
    query = {"since": moment(arguments.since, now), "until": moment(arguments.until, now)}
    for event in client_of(arguments).lines("GET", f"{FLEET}/events", query=query):
        print(json.dumps(event) if arguments.output == "json" else _line(event), flush=True)
    return 0


def _line(event: dict[str, Any]) -> str:
    attributes = event["attributes"]
    name = attributes.get("name") or event["id"][:12]
    rest = ", ".join(f"{key}={value}" for key, value in attributes.items() if key != "name")
    return f"{event['time']} {event['type']} {event['action']} {name}" + (f" ({rest})" if rest else "")


def dial_stdio(arguments: argparse.Namespace) -> int:
    """Carry bytes between standard input and output and the socket, for a client at the other end of SSH.

    Each way ends by itself: input may end while output goes on. A thread a way, since with one for both a
    client and an agent that both wait for their output to be read would wait for ever.
    """
    with client_of(arguments).connect() as connection:
        threading.Thread(target=_carry_input, args=(connection,), daemon=True).start()
        poll = select.poll()
        poll.register(connection, select.POLLIN)
        poll.register(1, 0)  # for its errors alone: a client that has gone is noticed without output for it
        while True:
            ready = dict(poll.poll())
            if 1 in ready:
                return 0
            if connection.fileno() in ready:
                try:
                    data = connection.recv(_PIECE)
                except ConnectionResetError:
                    return 1
                if not data:
                    return 0
                write(1, data)


def _carry_input(connection: socket.socket) -> None:
    try:
        while data := os.read(0, _PIECE):
            connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
    except OSError:
        return  # the agent has ended the connection: the other way tells


def down(arguments: argparse.Namespace) -> int:
    """Remove all containers and networks, and wait until agent, keeper and guardian have ended."""
    client = client_of(arguments)
    facts = client.call("GET", f"{FLEET}/host")
    client.call("POST", f"{FLEET}/host/down")
    deadline = time.monotonic() + _DOWN_WITHIN
    keeper = facts["keeper"]
    pids = {"agent": facts["agent"]["pid"], "keeper": keeper["pid"], "guardian": keeper["guardian_pid"]}
    waiting = {name: pid for name, pid in pids.items() if pid}
    while waiting:
        waiting = {name: pid for name, pid in waiting.items() if os.path.exists(f"/proc/{pid}")}
        if time.monotonic() > deadline:
            left = ", ".join(f"{name} (process {pid})" for name, pid in waiting.items())
            raise MooringError(f"{left} has not ended within {_DOWN_WITHIN:g} s; see the agent's log")
        time.sleep(_POLL)
    print("containers and networks are removed, agent, keeper and guardian have ended")
    return 0
