# SPDX-License-Identifier: Apache-2.0
"""`state`, `list`, `ps` and `events`: what is, and nothing is changed."""

from __future__ import annotations

import json
import os
import pwd
import sys
from typing import Any

from ..errors import Conflict, InvalidSpec, NotFound
from . import groups
from .options import Parsed
from .runtime import Runtime
from .states import Directory, State, all_ids, status_of


def state(runtime: Runtime, options: Parsed) -> int:
    """The command: the state of the runtime-spec (runtime.md, "State") with what others add to it."""
    directory = Directory(runtime.root, options.words[0])
    known = directory.load()
    described = _described(directory, known)
    if described["status"] == "creating" and not known.told:
        raise NotFound(f"container {known.id} does not exist yet: it is being created")
    print(json.dumps(described, indent=2))
    return 0


def _described(directory: Directory, known: State) -> dict[str, Any]:
    status = status_of(directory, known)
    try:
        owner = pwd.getpwuid(known.owner).pw_name
    except KeyError:
        owner = str(known.owner)
    return {
        "ociVersion": known.oci_version,
        "id": known.id,
        "pid": 0 if status == "stopped" else known.pid,
        "status": status,
        "bundle": known.bundle,
        "rootfs": known.rootfs,
        "created": known.created,
        "owner": owner,
        **({"annotations": known.annotations} if known.annotations else {}),
    }


def list_all(runtime: Runtime, options: Parsed) -> int:
    """The command."""
    found = []
    for id in all_ids(runtime.root):
        directory = Directory(runtime.root, id)
        try:
            found.append(_described(directory, directory.load()))
        except NotFound:
            pass  # it was deleted meanwhile, or its creation killed before it was anything
    if options.quiet:
        sys.stdout.write("".join(f"{one['id']}\n" for one in found))
    elif _format(options) == "json":
        print(json.dumps(found))
    else:
        columns = ("id", "pid", "status", "bundle", "created", "owner")
        rows = [[name.upper() for name in columns], *([str(one[name]) for name in columns] for one in found)]
        widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
        for row in rows:
            print("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _format(options: Parsed) -> str:
    if options.format not in ("table", "json"):
        raise InvalidSpec(f"--format is {options.format!r}, expected table or json")
    return str(options.format)


def ps(runtime: Runtime, options: Parsed) -> int:
    """The command. What follows the container is for ps(1), of whose lines those of the container stay."""
    directory = Directory(runtime.root, options.words[0])
    known = directory.load()
    pids = (
        groups.pids(known.groups)
        if known.groups
        else [known.pid] * (status_of(directory, known) != "stopped")
    )
    if _format(options) == "json":
        print(json.dumps(pids))
        return 0
    arguments = options.words[1:]
    if not arguments:
        print("PID")
        for pid in pids:
            print(pid)
        return 0
    import subprocess

    try:
        answer = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise NotFound("ps is not there: install the package procps, or leave its options out") from None
    if answer.returncode:
        raise InvalidSpec(f"ps {' '.join(arguments)}: {answer.stderr.strip()}")
    lines = answer.stdout.splitlines()
    column = next((place for place, name in enumerate(lines[0].split()) if name == "PID"), None)
    if column is None:
        raise InvalidSpec(f"ps {' '.join(arguments)} prints no column PID, expected options that do")
    wanted = {str(pid) for pid in pids}
    print(lines[0])
    for line in lines[1:]:
        fields = line.split()
        if len(fields) > column and fields[column] in wanted:
            print(line)
    return 0


def events(runtime: Runtime, options: Parsed) -> int:
    """The command: one JSON object a line, now (--stats) or each interval until the container has ended."""
    import time

    directory = Directory(runtime.root, options.words[0])
    known = directory.load()
    interval = _seconds(options.interval)
    while True:
        if status_of(directory, known) == "stopped":
            if options.stats:
                raise Conflict(f"container {known.id} does not run, so there is nothing to tell of it")
            return 0
        print(json.dumps({"type": "stats", "id": known.id, "data": _stats(known)}), flush=True)
        if options.stats:
            return 0
        time.sleep(interval)


def _seconds(text: str) -> float:
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("", 1.0)):
        number = text.removesuffix(unit) if unit else text
        if text.endswith(unit) and number.replace(".", "", 1).isdigit() and float(number) > 0:
            return float(number) * factor
    raise InvalidSpec(f"--interval is {text!r}, expected a time such as 5s or 500ms")


def _stats(known: State) -> dict[str, Any]:
    """The numbers under the names that runc's events have."""
    from ..cgroups.hierarchy import detect

    group = detect().group(os.path.normpath(f"/{known.cgroup_path}").strip("/"))
    usage, cpu = group.usage(), group.cpu_stat()
    return {
        "cpu": {
            "usage": {
                "total": usage.cpu_ns or 0,
                "kernel": cpu.system_ns,
                "user": cpu.user_ns,
            },
            "throttling": {
                "periods": cpu.periods,
                "throttledPeriods": cpu.throttled_periods,
                "throttledTime": cpu.throttled_ns,
            },
        },
        "memory": {
            "usage": {"usage": usage.memory_bytes or 0, "max": usage.memory_max_usage or 0},
            "swap": {"usage": usage.memory_swap or 0},
            "raw": group.memory_stat(),
        },
        "pids": {"current": usage.pids or 0},
    }
