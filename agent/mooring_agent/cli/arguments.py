# SPDX-License-Identifier: Apache-2.0
"""The grammar of the command line; a command names its module, so that only that one is imported."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, NoReturn

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
from . import networkarguments

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction["_Parser"]

USAGE = 2


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Called by argparse."""
        print(f"{self.prog}: {message}; see '{self.prog} --help'", file=sys.stderr)
        sys.exit(USAGE)


def parser() -> argparse.ArgumentParser:
    """The parser of `mooring`."""
    top = _Parser(prog="mooring", description="A container fleet: the agent of one host, and its client.")
    top.add_argument("--version", action="version", version=f"mooring {__version__}")
    _add_socket(top)
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    _agent(commands)
    _containers(commands)
    _processes(commands)
    _images(commands)
    _registry(commands)
    _peers(commands)
    _build(commands)
    _layers(commands)
    _state(commands)
    _declared(commands)
    _system(commands)
    return top


def _add_socket(command: argparse.ArgumentParser) -> None:
    # A default of a subcommand would override what stands before it.
    command.add_argument(
        "--socket",
        metavar="PATH",
        default=argparse.SUPPRESS,
        help="the agent's socket (default: $MOORING_SOCKET, else /run/mooring/mooring.sock)",
    )


def _command(
    commands: _Commands, name: str, help: str, call: str, *, output: bool = False
) -> argparse.ArgumentParser:
    """A command that is done by `call`, "MODULE.FUNCTION"."""
    command = commands.add_parser(name, help=help, description=help)
    command.set_defaults(call=call)
    _add_socket(command)
    if output:
        command.add_argument("-o", "--output", choices=("table", "json", "yaml"), default="table")
    return command


def _group(commands: _Commands, name: str, help: str) -> _Commands:
    group = commands.add_parser(name, help=help, description=help)
    return group.add_subparsers(metavar="COMMAND", required=True)


def _agent(commands: _Commands) -> None:
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
        help=f"mebibytes that they may take together (default: {DEFAULT_POOL_MEMORY})",
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


def _containers(commands: _Commands) -> None:
    ps = _command(commands, "ps", "list containers", "containers.ps", output=True)
    ps.add_argument("-a", "--all", action="store_true", help="those that do not run, too")
    ps.add_argument("-q", "--quiet", action="store_true", help="names only")
    ps.add_argument(
        "--label", action="append", default=[], metavar="K[=V]", help="only those with this label"
    )
    for name, help in (
        ("start", "start containers"),
        ("stop", "stop containers"),
        ("restart", "restart containers"),
    ):
        command = _command(commands, name, help, f"containers.{name}")
        command.add_argument("names", nargs="+", metavar="NAME")
        if name != "start":
            command.add_argument(
                "-t", "--timeout", type=float, metavar="SECONDS", help="how long until it is killed"
            )
    update = _command(
        commands, "update", "change the limits of a container while it runs", "containers.update"
    )
    update.add_argument("name", metavar="NAME")
    networkarguments.limits(update)
    update.add_argument("--no-network-limit", action="store_true", help="take all limits of rates back")
    rm = _command(commands, "rm", "remove containers", "containers.remove")
    rm.add_argument("names", nargs="+", metavar="NAME")
    rm.add_argument("-f", "--force", action="store_true", help="running ones, too")
    rm.add_argument("-v", "--volumes", action="store_true", help="and their volumes without names")
    inspect = _command(commands, "inspect", "show all about something", "containers.inspect")
    inspect.add_argument("names", nargs="+", metavar="NAME")
    inspect.add_argument("--type", choices=("container", "image", "network", "volume", "cgroup"))
    inspect.add_argument("-o", "--output", choices=("json", "yaml"), default="json")
    logs = _command(commands, "logs", "show what a container wrote", "containers.logs")
    logs.add_argument("name", metavar="NAME")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    logs.add_argument("-n", "--tail", default="all", metavar="LINES", help="only the last lines")
    logs.add_argument(
        "--since", default="", metavar="TIME", help='a time, or a span before now such as "10m"'
    )
    logs.add_argument("--until", default="", metavar="TIME", help="likewise")
    logs.add_argument("-t", "--timestamps", action="store_true")


def _processes(commands: _Commands) -> None:
    run = _command(commands, "run", "run a command in a new container", "run.run")
    run.add_argument("-d", "--detach", action="store_true", help="do not wait for it; print its id")
    _terminal(run)
    run.add_argument("--rm", action="store_true", help="remove the container when it has ended")
    run.add_argument("--name", default="", metavar="NAME")
    run.add_argument("-p", "--publish", action="append", default=[], metavar="[[IP:]HOST:]PORT[/udp]")
    run.add_argument("-v", "--volume", action="append", default=[], metavar="SOURCE:TARGET[:ro]")
    run.add_argument("--tmpfs", action="append", default=[], metavar="TARGET[:size=…,mode=…,exec]")
    run.add_argument("-l", "--label", action="append", default=[], metavar="K=V")
    run.add_argument("--hostname", default="", metavar="NAME")
    run.add_argument("--domainname", default="", metavar="NAME")
    networkarguments.networking(run)
    networkarguments.limits(run)
    run.add_argument("-m", "--memory", metavar="SIZE", help='such as "64m"')
    run.add_argument("--memory-reservation", metavar="SIZE")
    run.add_argument("--memory-swap", metavar="SIZE", help="memory and swap together; -1 for no limit")
    run.add_argument("--cpus", type=float, metavar="NUMBER")
    run.add_argument("--cpu-shares", type=int, metavar="NUMBER")
    run.add_argument("--cpuset-cpus", metavar="LIST")
    run.add_argument("--cpuset-mems", metavar="LIST")
    run.add_argument("--pids-limit", type=int, metavar="NUMBER")
    run.add_argument("--restart", default="", metavar="no|always|unless-stopped|on-failure[:N]")
    run.add_argument("--stop-signal", default="", metavar="SIGNAL")
    run.add_argument("--stop-timeout", type=int, metavar="SECONDS")
    run.add_argument("--cap-add", action="append", default=[], metavar="NAME")
    run.add_argument("--cap-drop", action="append", default=[], metavar="NAME")
    run.add_argument("--no-new-privileges", action="store_true")
    run.add_argument("--read-only", action="store_true", help="the root file system cannot be written to")
    run.add_argument("--cgroup", default="", metavar="NAME", help="the declared cgroup to live in")
    _confinement(run)
    run.add_argument("--entrypoint", metavar="COMMAND")
    run.add_argument("image", metavar="IMAGE")
    run.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND …")
    exec_ = _command(commands, "exec", "run a command in a running container", "run.execute")
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


def _images(commands: _Commands) -> None:
    _command(commands, "images", "list images", "images.ls", output=True)
    group = _group(commands, "image", "make, list and remove images")
    _command(group, "ls", "list images", "images.ls", output=True)
    imported = _command(group, "import", "make an image from a root file system", "images.imported")
    imported.add_argument(
        "source", metavar="PATH|-", help="a tar file, a squashfs or a directory on the host, or - for stdin"
    )
    imported.add_argument("reference", metavar="NAME[:TAG]")
    imported.add_argument("--metadata", metavar="PATH", help="metadata of an LXC image, on the host")
    template = _command(group, "template", "make an image from a template", "images.template")
    template.add_argument("template", choices=("busybox", "debian", "ubuntu"))
    template.add_argument("reference", metavar="NAME[:TAG]")
    template.add_argument("--suite", metavar="NAME", help="the release, such as bookworm")
    template.add_argument("--variant", metavar="NAME", help="how much is in it, such as minbase")
    template.add_argument("--package", action="append", default=[], metavar="NAME", help="a package to add")
    template.add_argument("--mirror", metavar="URL", help="where packages come from; else the host's mirrors")
    template.add_argument("--component", action="append", default=[], metavar="NAME", help="as main")
    template.add_argument("--max-age", metavar="AGE", help="build it anew if it is older, such as 7d")
    for command in (imported, template):
        command.add_argument("--cmd", metavar="COMMAND", help="what runs by default")
        command.add_argument("--entrypoint", metavar="COMMAND")
        command.add_argument("-e", "--env", action="append", default=[], metavar="K=V")
        command.add_argument("-w", "--workdir", metavar="DIR")
        command.add_argument("-u", "--user", metavar="USER[:GROUP]")
        command.add_argument("-l", "--label", action="append", default=[], metavar="K=V")
        command.add_argument("--expose", action="append", default=[], metavar="PORT[/udp]")
        command.add_argument("--dry-run", action="store_true", help="say what would be done")
    rm = _command(group, "rm", "remove images", "images.remove")
    rm.add_argument("names", nargs="+", metavar="NAME")
    _image_moves(group)


def _image_moves(group: _Commands) -> None:
    pull = _command(group, "pull", "pull images from their registries", "imagemoves.pull")
    pull.add_argument("names", nargs="+", metavar="NAME[:TAG|@DIGEST]")
    pull.add_argument("--platform", metavar="OS/ARCH[/VARIANT]", help="other than that of the host")
    push = _command(group, "push", "push an image to a registry, unless it is there", "imagemoves.push")
    push.add_argument("name", metavar="NAME[:TAG]")
    push.add_argument("--to", metavar="NAME[:TAG]", help="under this name")
    push.add_argument("--dry-run", action="store_true", help="say what would be done")
    for command in (pull, push):
        _credentials(command)
    save = _command(group, "save", "write images as an archive", "imagemoves.save")
    save.add_argument("names", nargs="+", metavar="NAME")
    save.add_argument("-o", "--output", metavar="FILE", help="(default: standard output)")
    load = _command(group, "load", "take in the images of an archive", "imagemoves.load")
    load.add_argument("-i", "--input", metavar="FILE", help="(default: standard input)")
    tag = _command(group, "tag", "give an image one more name", "imagemoves.tag")
    tag.add_argument("name", metavar="NAME|ID")
    tag.add_argument("reference", metavar="NAME[:TAG]")
    history = _command(group, "history", "show how an image was made", "imagemoves.history", output=True)
    history.add_argument("name", metavar="NAME")
    verify = _command(group, "verify", "read all of an image, or of all images", "imagemoves.verify")
    verify.add_argument("name", nargs="?", metavar="NAME")
    verify.add_argument("--repair", action="store_true", help="fetch what is damaged again")
    prune = _command(group, "prune", "delete images that no container uses", "imagemoves.prune")
    prune.add_argument("-a", "--all", action="store_true", help="those with a name, too")
    prune.add_argument("--until", metavar="TIME", help="only those made before")
    prune.add_argument(
        "--label", action="append", default=[], metavar="K[=V]", help="only those with this label"
    )
    prune.add_argument(
        "--without-label", action="append", default=[], metavar="K[=V]", help="only those without it"
    )
    inspect = _command(group, "inspect", "show all about images", "containers.inspect")
    inspect.set_defaults(type="image")
    inspect.add_argument("names", nargs="+", metavar="NAME")
    inspect.add_argument("-o", "--output", choices=("json", "yaml"), default="json")


def _registry(commands: _Commands) -> None:
    group = _group(commands, "registry", "ask about images at their registries, and remove them there")
    tags = _command(group, "tags", "list the tags that a repository has", "registry.tags", output=True)
    tags.add_argument("name", metavar="NAME")
    rm = _command(group, "rm", "remove images from their registries", "registry.remove")
    rm.add_argument("names", nargs="+", metavar="NAME:TAG|NAME@DIGEST")
    rm.add_argument("-f", "--force", action="store_true", help="and other tags of the same manifest, too")
    rm.add_argument("--dry-run", action="store_true", help="say what would be done")
    for command in (tags, rm):
        _credentials(command)


def _peers(commands: _Commands) -> None:
    group = _group(commands, "peers", "the hosts with which this one shares what it holds of images")
    _command(group, "show", "show them", "peers.show", output=True)
    declare = _command(group, "set", "say who they are, in place of those of before", "peers.declare")
    declare.add_argument("--listen", required=True, metavar="HOST:PORT", help="where to serve")
    declare.add_argument(
        "--address", metavar="HOST:PORT", help="how others reach it (default: as it listens)"
    )
    declare.add_argument(
        "--member", action="append", default=[], metavar="HOST:PORT", help="one of all hosts"
    )
    for file in ("ca-file", "certificate", "key"):
        declare.add_argument(f"--{file}", metavar="PATH", help="a file on the agent's host, for TLS")
    declare.add_argument("--plain", action="store_true", help="without TLS, on loopback only")
    declare.add_argument("--uploads", type=int, metavar="N", help="blobs to send at a time")
    for command in (declare, _command(group, "rm", "share with nobody", "peers.remove")):
        command.add_argument("--dry-run", action="store_true", help="say what would be done")


def _credentials(command: argparse.ArgumentParser) -> None:
    command.add_argument("--username", metavar="USER", help="in place of what the agent knows")
    command.add_argument(
        "--password-stdin", action="store_true", help="read its password from standard input"
    )


def _layers(commands: _Commands) -> None:
    commit = _command(commands, "commit", "make an image of a container", "imagemoves.commit")
    commit.add_argument("container", metavar="CONTAINER")
    commit.add_argument("reference", nargs="?", metavar="NAME[:TAG]")
    commit.add_argument("-a", "--author", metavar="TEXT")
    commit.add_argument("-m", "--message", metavar="TEXT")
    commit.add_argument(
        "-c", "--change", action="append", default=[], metavar="INSTRUCTION", help="of a Dockerfile"
    )
    commit.add_argument("--no-pause", action="store_true", help="do not freeze it meanwhile")
    export = _command(commands, "export", "write a container's files as a tar archive", "imagemoves.export")
    export.add_argument("container", metavar="CONTAINER")
    export.add_argument("-o", "--output", metavar="FILE", help="(default: standard output)")
    diff = _command(commands, "diff", "show what a container changed of its image", "imagemoves.diff")
    diff.add_argument("container", metavar="CONTAINER")


def _build(commands: _Commands) -> None:
    build = _command(commands, "build", "build an image from a Dockerfile", "build.build")
    build.add_argument("context", metavar="DIR|-", help="the build context; - is a tar archive on stdin")
    build.add_argument("-f", "--file", metavar="PATH", help="the Dockerfile (default: Dockerfile in DIR)")
    build.add_argument("-t", "--tag", action="append", default=[], metavar="NAME[:TAG]")
    build.add_argument("--build-arg", action="append", default=[], metavar="NAME[=VALUE]")
    build.add_argument("--target", default="", metavar="STAGE", help="the stage to build")
    build.add_argument("--secret", action="append", default=[], metavar="id=ID[,src=FILE|,env=NAME]")
    build.add_argument("--no-cache", action="store_true", help="run everything anew")
    build.add_argument("--pull", action="store_true", help="get the newest base images")
    build.add_argument(
        "--network", default="", metavar="NAME", help="that of RUN: default, none, host or one"
    )
    build.add_argument("-l", "--label", action="append", default=[], metavar="K=V")
    build.add_argument("--platform", default="", metavar="OS/ARCH")
    build.add_argument("-m", "--memory", type=int, default=0, metavar="BYTES", help="what RUN may use")
    build.add_argument("--add-host", action="append", default=[], metavar="NAME:ADDRESS")
    build.add_argument(
        "--source-date-epoch", type=int, metavar="SECONDS", help="the time that nothing in it is later than"
    )
    build.add_argument("--time-limit", type=float, metavar="SECONDS", help="give up after so long")
    build.add_argument("-q", "--quiet", action="store_true", help="print the image's id alone")
    cache = _group(commands, "build-cache", "what builds keep for the next ones")
    _command(cache, "ls", "list it", "build.cache", output=True)
    prune = _command(cache, "prune", "delete it, the longest unused first", "build.prune")
    prune.add_argument("--unused-for", type=float, default=0, metavar="SECONDS")
    prune.add_argument("--keep-bytes", type=int, default=0, metavar="BYTES")


def _state(commands: _Commands) -> None:
    apply = _command(commands, "apply", "bring the host to a document", "apply.apply", output=True)
    plan = _command(commands, "plan", "say what apply would do", "apply.plan", output=True)
    apply.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    for command in (apply, plan):
        command.add_argument("-f", "--file", required=True, metavar="FILE", help="YAML or JSON; - for stdin")
        command.add_argument(
            "--prune", action="store_true", help="remove what is managed and not named any more"
        )
        command.add_argument("--diff", action="store_true", help="show before and after")


def _declared(commands: _Commands) -> None:
    group, network = _kind(commands, "network", "networks", "create")
    _attaching(group)
    networkarguments.declared(network)
    _, volume = _kind(commands, "volume", "volumes", "create")
    volume.add_argument("-l", "--label", action="append", default=[], metavar="K=V")
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
    cgroup.add_argument("-l", "--label", action="append", default=[], metavar="K=V")


def _attaching(group: _Commands) -> None:
    connect = _command(group, "connect", "bring a container onto a network", "networking.connect")
    connect.add_argument("--ip", metavar="ADDRESS")
    connect.add_argument("--ip6", metavar="ADDRESS")
    connect.add_argument("--mac-address", metavar="ADDRESS")
    connect.add_argument("--alias", action="append", default=[], metavar="NAME")
    connect.add_argument("--sysctl", action="append", default=[], metavar="NAME=VALUE")
    connect.add_argument("--default-route", action="store_true", help="its way out leads through it")
    disconnect = _command(group, "disconnect", "take a container off a network", "networking.disconnect")
    for command in (connect, disconnect):
        command.add_argument("network", metavar="NETWORK")
        command.add_argument("container", metavar="CONTAINER")


def _kind(
    commands: _Commands, name: str, plural: str, verb: str
) -> tuple[_Commands, argparse.ArgumentParser]:
    group = _group(commands, name, f"declare, list and remove {plural}")
    ls = _command(group, "ls", f"list {plural}", "declared.ls", output=True)
    inspect = _command(group, "inspect", f"show all about {plural}", "declared.inspect")
    inspect.add_argument("-o", "--output", choices=("json", "yaml"), default="json")
    rm = _command(group, "rm", f"remove {plural}", "declared.remove")
    declare = _command(group, verb, f"say how a {name} should be", "declared.declare")
    declare.add_argument("--dry-run", action="store_true", help="say what would be done")
    declare.add_argument("name", metavar="NAME")
    for command in (inspect, rm):
        command.add_argument("names", nargs="+", metavar="NAME")
    for command in (ls, inspect, rm, declare):
        command.set_defaults(kind=plural)
    return group, declare


def _system(commands: _Commands) -> None:
    _command(commands, "host", "show the host and its agent", "system.host", output=True)
    _command(commands, "version", "show the versions of client and agent", "system.version")
    events = _command(commands, "events", "show what happens, as it happens", "system.events")
    events.add_argument(
        "--since", default="", metavar="TIME", help='a time, or a span before now such as "10m"'
    )
    events.add_argument("--until", default="", metavar="TIME", help="likewise")
    events.add_argument("-o", "--output", choices=("table", "json"), default="table")
    group = _group(commands, "system", "the agent as a whole")
    _command(
        group,
        "dial-stdio",
        "connect standard input and output with the agent's socket",
        "system.dial_stdio",
    )
    _command(group, "down", "remove all containers and networks, and end the agent", "system.down")
