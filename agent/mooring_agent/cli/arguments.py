# SPDX-License-Identifier: Apache-2.0
"""The commands of the command line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from .. import __version__
from ..config import (
    DEFAULT_DATA_ROOT,
    DEFAULT_NETWORK_PREFIX,
    DEFAULT_POOL,
    DEFAULT_POOL_MEMORY,
    DEFAULT_RUN_ROOT,
    LOG_LEVELS,
    STORAGE_DRIVERS,
)
from . import healtharguments, imagearguments, limitarguments, networkarguments
from .grammar import Parser, add_command, add_group, add_socket

if TYPE_CHECKING:
    from .grammar import Commands


def parser() -> argparse.ArgumentParser:
    """The parser of `mooring`."""
    top = Parser(prog="mooring", description="A container fleet: the agent of one host, and its client.")
    top.add_argument("--version", action="version", version=f"mooring {__version__}")
    add_socket(top)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _agent(commands)
    _containers(commands)
    _processes(commands)
    imagearguments.images(commands)
    imagearguments.registry(commands)
    imagearguments.peers(commands)
    imagearguments.build(commands)
    imagearguments.layers(commands)
    _state(commands)
    _declared(commands)
    _system(commands)
    return top


def _agent(commands: Commands) -> None:
    agent = commands.add_parser("agent", help="run the agent in the foreground")
    agent.set_defaults(call="agent.run")
    agent.add_argument(
        "--config",
        metavar="FILE",
        help="settings in YAML, over which these options go (default: /etc/mooring/agent.yaml if it exists)",
    )
    # What is not given here may be in the file, so no option has a default of its own.
    unset = argparse.SUPPRESS
    roots = (
        (DEFAULT_DATA_ROOT, "data", "images and state"),
        (DEFAULT_RUN_ROOT, "run", "what a reboot may take"),
    )
    for default, name, what in roots:
        agent.add_argument(
            f"--{name}-root", default=unset, metavar="DIR", help=f"{what} (default: {default})"
        )
    agent.add_argument(
        "--socket",
        metavar="PATH",
        default=unset,
        help="where it answers (default: RUN-ROOT/mooring.sock)",
    )
    agent.add_argument(
        "--cgroup-parent", default=unset, metavar="NAME", help="the cgroup above all containers"
    )
    agent.add_argument(
        "--network-prefix",
        default=unset,
        metavar="CIDR",
        help=f"networks take a /24 of this (default: {DEFAULT_NETWORK_PREFIX})",
    )
    agent.add_argument(
        "--pool",
        type=int,
        default=unset,
        metavar="N",
        help=f"launchers to keep ready for containers, 0 for none (default: {DEFAULT_POOL})",
    )
    agent.add_argument(
        "--pool-memory",
        type=int,
        default=unset,
        metavar="MIB",
        help=f"mebibytes that they and those in reserve may take together (default: {DEFAULT_POOL_MEMORY})",
    )
    agent.add_argument(
        "--storage-driver",
        choices=STORAGE_DRIVERS,
        default=unset,
        help="how layers are kept below the data root (default: auto, btrfs on btrfs and overlay elsewhere)",
    )
    agent.add_argument(
        "--name", default=unset, metavar="NAME", help="how the agent calls itself (default: the host's name)"
    )
    agent.add_argument("--log-level", default=unset, choices=LOG_LEVELS, help="(default: info)")


def _containers(commands: Commands) -> None:
    ps = add_command(commands, "ps", "list containers", "containers.ps", output=True)
    ps.add_argument("-a", "--all", action="store_true", help="those that do not run, too")
    ps.add_argument("-q", "--quiet", action="store_true", help="names only")
    ps.add_argument(
        "--label", action="append", default=[], metavar="K[=V]", help="only those with this label"
    )
    for name, help, timeout in (
        ("start", "start containers", ""),
        ("stop", "stop containers", "how long until it is killed"),
        ("restart", "restart containers", "how long until it is killed"),
        ("drain", "take containers out of the ports that they share", "how long its connections may last"),
    ):
        command = add_command(commands, name, help, f"containers.{name}")
        command.add_argument("names", nargs="+", metavar="NAME")
        if timeout:
            command.add_argument("-t", "--timeout", type=float, metavar="SECONDS", help=timeout)
    update = add_command(
        commands, "update", "change the limits of a container while it runs", "containers.update"
    )
    update.add_argument("name", metavar="NAME")
    networkarguments.traffic(update)
    update.add_argument("--no-network-limit", action="store_true", help="take all limits of rates back")
    update.add_argument("--no-network-class", action="store_true", help="take its class back")
    rm = add_command(commands, "rm", "remove containers", "containers.remove")
    rm.add_argument("names", nargs="+", metavar="NAME")
    rm.add_argument("-f", "--force", action="store_true", help="running ones, too")
    rm.add_argument("-v", "--volumes", action="store_true", help="and their volumes without names")
    inspect = add_command(commands, "inspect", "show all about something", "containers.inspect")
    inspect.add_argument("names", nargs="+", metavar="NAME")
    inspect.add_argument("--type", choices=("container", "image", "network", "volume", "cgroup"))
    inspect.add_argument("-o", "--output", choices=("json", "yaml"), default="json")
    logs = add_command(commands, "logs", "show what a container wrote", "containers.logs")
    logs.add_argument("name", metavar="NAME")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    logs.add_argument("-n", "--tail", default="all", metavar="LINES", help="only the last lines")
    logs.add_argument(
        "--since", default="", metavar="TIME", help='a time, or a span before now such as "10m"'
    )
    logs.add_argument("--until", default="", metavar="TIME", help="likewise")
    logs.add_argument("-t", "--timestamps", action="store_true")


def _processes(commands: Commands) -> None:
    run = add_command(commands, "run", "run a command in a new container", "run.run")
    run.add_argument("-d", "--detach", action="store_true", help="do not wait for it; print its id")
    _terminal(run)
    run.add_argument("--rm", action="store_true", help="remove the container when it has ended")
    run.add_argument("--name", default="", metavar="NAME")
    networkarguments.published(run)
    run.add_argument("-v", "--volume", action="append", default=[], metavar="SOURCE:TARGET[:ro]")
    run.add_argument(
        "--mount",
        action="append",
        default=[],
        metavar="type=bind|volume|tmpfs|image,source=…,target=…",
        help="the same with more to be said, such as image-subpath=, volume-opt=",
    )
    run.add_argument("--tmpfs", action="append", default=[], metavar="TARGET[:size=…,mode=…,exec]")
    run.add_argument("-l", "--label", action="append", default=[], metavar="K=V")
    run.add_argument(
        "--annotation", action="append", default=[], metavar="K=V", help="for the OCI runtime's config"
    )
    run.add_argument("--hostname", default="", metavar="NAME")
    run.add_argument("--domainname", default="", metavar="NAME")
    networkarguments.networking(run)
    networkarguments.traffic(run)
    run.add_argument("-m", "--memory", metavar="SIZE", help='such as "64m"')
    run.add_argument("--memory-reservation", metavar="SIZE")
    run.add_argument("--memory-swap", metavar="SIZE", help="memory and swap together; -1 for no limit")
    run.add_argument("--cpus", type=float, metavar="NUMBER")
    run.add_argument("--cpu-shares", type=int, metavar="NUMBER")
    run.add_argument("--cpuset-cpus", metavar="LIST")
    run.add_argument("--cpuset-mems", metavar="LIST")
    run.add_argument("--pids-limit", type=int, metavar="NUMBER")
    limitarguments.limited(run)
    run.add_argument("--oom-kill-disable", action="store_true", help="at the limit of memory, wait for some")
    run.add_argument("--restart", default="", metavar="no|always|unless-stopped|on-failure[:N]")
    run.add_argument("--stop-signal", default="", metavar="SIGNAL")
    run.add_argument("--stop-timeout", type=int, metavar="SECONDS")
    healtharguments.health(run)
    run.add_argument("--drain", type=int, metavar="SECONDS", help="how long its connections may last then")
    run.add_argument("--log-driver", metavar="json-file|local|none|journald|syslog")
    run.add_argument(
        "--log-opt",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="max-size and max-file of what is kept of its output; the driver's own, such as syslog-address",
    )
    run.add_argument("--cap-add", action="append", default=[], metavar="NAME")
    run.add_argument("--cap-drop", action="append", default=[], metavar="NAME")
    run.add_argument("--no-new-privileges", action="store_true")
    run.add_argument("--read-only", action="store_true", help="the root file system cannot be written to")
    run.add_argument("--cgroup", default="", metavar="NAME", help="the declared cgroup to live in")
    _confinement(run)
    run.add_argument("--entrypoint", metavar="COMMAND")
    run.add_argument("image", metavar="IMAGE")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND …")
    exec_ = add_command(commands, "exec", "run a command in a running container", "run.execute")
    exec_.add_argument("-d", "--detach", action="store_true", help="do not wait for it")
    exec_.add_argument("--privileged", action="store_true", help="with all capabilities")
    _terminal(exec_)
    exec_.add_argument("name", metavar="NAME")
    exec_.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND …")


def _confinement(run: argparse.ArgumentParser) -> None:
    run.add_argument("--init", action="store_true", help="an init of the host's reaps and passes signals on")
    run.add_argument("--privileged", action="store_true", help="all capabilities and devices, and no filters")
    run.add_argument(
        "--security-opt",
        action="append",
        default=[],
        metavar="OPTION",
        help="seccomp=unconfined|FILE, apparmor=PROFILE, label=…, systempaths=unconfined, mask=…, unmask=…",
    )
    run.add_argument("--device", action="append", default=[], metavar="HOST[:CONTAINER][:rwm]")
    run.add_argument("--device-cgroup-rule", action="append", default=[], metavar='"c 10:200 rwm"')
    run.add_argument("--ulimit", action="append", default=[], metavar="NAME=SOFT[:HARD]")
    run.add_argument("--sysctl", action="append", default=[], metavar="NAME=VALUE")
    run.add_argument(
        *("--storage-opt", "--storage-size"),
        default="",
        metavar="[size=]SIZE",
        help="what it may write beside its volumes, on a btrfs with quotas",
    )
    run.add_argument("--shm-size", metavar="SIZE", help='of /dev/shm (default: "64m")')
    run.add_argument("--group-add", action="append", default=[], metavar="GROUP")
    run.add_argument("--oom-score-adj", type=int, metavar="NUMBER")
    run.add_argument("--pid", default="", metavar="host|container:NAME")
    run.add_argument("--ipc", default="", metavar="shareable|none|host|container:NAME")
    run.add_argument("--uts", default="", metavar="host|container:NAME")
    run.add_argument("--cgroupns", default="", metavar="host|container:NAME")
    run.add_argument(
        "--userns",
        default="",
        metavar="auto|container:NAME|FIRST:SIZE",
        help="map its users to others of the host",
    )


def _terminal(command: argparse.ArgumentParser) -> None:
    command.add_argument("-i", "--interactive", action="store_true", help="pass standard input on")
    command.add_argument("-t", "--tty", action="store_true", help="give it a terminal")
    command.add_argument("-e", "--env", action="append", default=[], metavar="K=V")
    command.add_argument("-w", "--workdir", default="", metavar="DIR")
    command.add_argument("-u", "--user", default="", metavar="USER[:GROUP]")


def _state(commands: Commands) -> None:
    apply = add_command(commands, "apply", "bring the host to a document", "apply.apply", output=True)
    plan = add_command(commands, "plan", "say what apply would do", "apply.plan", output=True)
    apply.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    for command in (apply, plan):
        command.add_argument("-f", "--file", required=True, metavar="FILE", help="YAML or JSON; - for stdin")
        command.add_argument(
            "--prune", action="store_true", help="remove what is managed and not named any more"
        )
        command.add_argument("--diff", action="store_true", help="show before and after")


def _declared(commands: Commands) -> None:
    group, network = _kind(commands, "network", "networks", "create")
    _attaching(group)
    networkarguments.declared(network)
    networkarguments.key(group)
    _, volume = _kind(commands, "volume", "volumes", "create")
    volume.add_argument("-l", "--label", action="append", default=[], metavar="K=V")
    volume.add_argument(
        "--opt",
        action="append",
        default=[],
        metavar="K=V",
        help="mount it from elsewhere: type, device and o, such as type=nfs o=addr=server,rw device=:/srv",
    )
    _, cgroup = _kind(commands, "cgroup", "cgroups", "set")
    for option, kind in (
        ("memory", str),
        ("memory-reservation", str),
        ("memory-swap", str),
        ("cpus", float),
        ("cpu-shares", int),
        ("cpuset-cpus", str),
        ("cpuset-mems", str),
        ("pids-limit", int),
    ):
        cgroup.add_argument(f"--{option}", type=kind)
    limitarguments.limited(cgroup)
    cgroup.add_argument("-l", "--label", action="append", default=[], metavar="K=V")


def _attaching(group: Commands) -> None:
    connect = add_command(group, "connect", "bring a container onto a network", "networking.connect")
    networkarguments.attachment(connect)
    disconnect = add_command(group, "disconnect", "take a container off a network", "networking.disconnect")
    for command in (connect, disconnect):
        command.add_argument("network", metavar="NETWORK")
        command.add_argument("container", metavar="CONTAINER")


def _kind(commands: Commands, name: str, plural: str, verb: str) -> tuple[Commands, argparse.ArgumentParser]:
    group = add_group(commands, name, f"declare, list and remove {plural}")
    ls = add_command(group, "ls", f"list {plural}", "declared.ls", output=True)
    inspect = add_command(group, "inspect", f"show all about {plural}", "declared.inspect")
    inspect.add_argument("-o", "--output", choices=("json", "yaml"), default="json")
    rm = add_command(group, "rm", f"remove {plural}", "declared.remove")
    declare = add_command(group, verb, f"say how a {name} should be", "declared.declare")
    declare.add_argument("--dry-run", action="store_true", help="say what would be done")
    declare.add_argument("name", metavar="NAME")
    for command in (inspect, rm):
        command.add_argument("names", nargs="+", metavar="NAME")
    for command in (ls, inspect, rm, declare):
        command.set_defaults(kind=plural)
    return group, declare


def _system(commands: Commands) -> None:
    add_command(commands, "host", "show the host and its agent", "system.host", output=True)
    add_command(commands, "version", "show the versions of client and agent", "system.version")
    events = add_command(commands, "events", "show what happens, as it happens", "system.events")
    events.add_argument(
        "--since", default="", metavar="TIME", help='a time, or a span before now such as "10m"'
    )
    events.add_argument("--until", default="", metavar="TIME", help="likewise")
    events.add_argument("-o", "--output", choices=("table", "json"), default="table")
    group = add_group(commands, "system", "the agent as a whole")
    add_command(
        group,
        "dial-stdio",
        "connect standard input and output with the agent's socket",
        "system.dial_stdio",
    )
    add_command(group, "down", "remove all containers and networks, and end the agent", "system.down")
