# SPDX-License-Identifier: Apache-2.0
"""The magics: what a notebook can ask about its fleet, and how it enters a container. Nothing here knows of
Jupyter.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from .core.client import Client, Container, Image
from .core.errors import ExitStatus, KernelError, UsageError
from .core.fleet import Answer, Fleet
from .core.inventory import DEFAULT_SOCKET, load_inventory
from .core.render import Table, human_age, human_bytes
from .core.workspace import Workspace
from .image_magics import pull, push
from .magic_line import Arguments, MagicCall, Option, parse_arguments
from .screen import Screen

T = TypeVar("T")

_DEFAULT_LOG_LINES = 50
_RUN_TIMEOUT = 60
_MOST_HOSTS = 1000  # that are named in one line


Handler = Callable[[Workspace, Arguments, Screen], None]


@dataclass(frozen=True)
class Magic:
    """A magic: how it is written, what it does in a sentence, and the function that does it."""

    name: str
    usage: str
    summary: str
    handler: Handler
    options: Sequence[Option] = field(default_factory=tuple)
    words: tuple[int, int] = (0, 0)  # how many arguments without a name: at least, at most
    takes: str = ""  # what its argument is, for completion: host, target or file
    rest: bool = False  # whether `--` may follow

    def run(self, rest: str, workspace: Workspace, screen: Screen) -> None:
        """Do it. Raises KernelError."""
        arguments = parse_arguments(rest, self.options, f"`{self.usage}`")
        least, most = self.words
        if not least <= len(arguments.words) <= most or (arguments.rest and not self.rest):
            raise UsageError(f"the usage is `{self.usage}`")
        self.handler(workspace, arguments, screen)

    def help(self) -> str:
        """Return what it does, after how it is written."""
        return f"{self.usage}\n    {self.summary}"


def run_magic(call: MagicCall, workspace: Workspace, screen: Screen) -> None:
    """Run a magic by its name. Raises KernelError, with the nearest name if there is none of this one."""
    find_magic(call.name).run(call.rest, workspace, screen)


def find_magic(name: str) -> Magic:
    """Return a magic by its name. Raises UsageError with the nearest name."""
    magic = MAGICS.get(name)
    if magic is None:
        near = difflib.get_close_matches(name.lstrip("%"), MAGICS, n=1)
        hint = f"did you mean %{near[0]}?" if near else "`%lsmagic` lists all"
        raise UsageError(f"there is no magic %{name}: {hint}")
    return magic


# --- the fleet


def _fleet(workspace: Workspace, arguments: Arguments, screen: Screen) -> None:
    source = arguments.words[0]
    if source == "local":
        socket = arguments.words[1] if len(arguments.words) > 1 else DEFAULT_SOCKET
        fleet = Fleet.local(socket)
        fleet.client("local").get_host(timeout=5.0)
    elif len(arguments.words) > 1:
        raise UsageError("an inventory takes no second argument: the usage is `%fleet INVENTORY`")
    else:
        fleet = Fleet.of(load_inventory(source))
    workspace.use_fleet(fleet)
    for warning in fleet.warnings:
        screen.text("stderr", f"{warning}\n")
    count = len(fleet.hosts)
    names = ", ".join(fleet.hosts[:10]) + (f" and {count - 10} more" if count > 10 else "")
    screen.result(
        {"text/plain": f"fleet of {fleet.source}: {count} host{'' if count == 1 else 's'} ({names})"}
    )


def _hosts(workspace: Workspace, _: Arguments, screen: Screen) -> None:
    fleet = workspace.require_fleet()
    rows = []
    for answer in fleet.ask(Client.get_host):
        host = answer.value
        if host is None:
            rows.append((answer.host, *[""] * 6, _problem(answer)))
            continue
        rows.append(
            (
                answer.host,
                host.version,
                host.kernel,
                str(host.cpus),
                human_bytes(host.memory),
                f"{host.running}/{host.containers}",
                str(host.images),
                "",
            )
        )
    columns = ("host", "agent", "kernel", "cpus", "memory", "running", "images", "problem")
    screen.result(Table(columns, tuple(rows), frozenset({"cpus", "memory", "running", "images"})).bundle())


def _ps(workspace: Workspace, arguments: Arguments, screen: Screen) -> None:
    rows = []
    for answer in _ask(workspace, arguments, screen, Client.containers):
        containers = answer.value or []
        workspace.remember_containers(answer.host, tuple(each.name for each in containers))
        rows += [(answer.host, *_container_row(each)) for each in containers]
    columns = ("host", "container", "image", "state", "up", "address", "ports")
    screen.result(Table(columns, tuple(rows), empty="no containers").bundle())


def _container_row(container: Container) -> tuple[str, ...]:
    state = container.state
    if state == "exited" and container.exit_code is not None:
        state = f"exited ({container.exit_code})"
    started = _seconds(container.started_at) if container.state in ("running", "paused") else None
    addresses = ", ".join(address for address in container.networks.values() if address)
    up = "" if started is None else human_age(started)
    return container.name, container.image, state, up, addresses, ", ".join(container.ports)


def _images(workspace: Workspace, arguments: Arguments, screen: Screen) -> None:
    rows = []
    for answer in _ask(workspace, arguments, screen, Client.images):
        rows += [(answer.host, *row) for image in answer.value or [] for row in _image_rows(image)]
    columns = ("host", "image", "id", "size", "layers", "platform", "created")
    screen.result(Table(columns, tuple(rows), frozenset({"size", "layers"}), empty="no images").bundle())


def _image_rows(image: Image) -> list[tuple[str, ...]]:
    created = _seconds(image.created_at)
    ago = "" if created is None else f"{human_age(created)} ago"
    short = image.id.removeprefix("sha256:")[:12]
    size, layers = human_bytes(image.size), str(image.layers)
    return [(name, short, size, layers, image.platform, ago) for name in image.references or ("<none>",)]


# --- one container


def _inspect(workspace: Workspace, arguments: Arguments, screen: Screen) -> None:
    target = workspace.target(arguments.words[0])
    view = dict(target.client.container(target.container).view)
    text = json.dumps(view, indent=2, ensure_ascii=False)
    screen.result({"text/plain": text, "application/json": view})


def _logs(workspace: Workspace, arguments: Arguments, screen: Screen) -> None:
    target = workspace.target(arguments.words[0])
    for line in target.client.logs(target.container, arguments.number("-n", _DEFAULT_LOG_LINES)):
        stamp = f"{line.time} " if arguments.given("-t") else ""
        screen.text(
            "stderr" if line.stream == "stderr" else "stdout", f"{stamp}{line.data.rstrip(chr(10))}\n"
        )


def _attach(workspace: Workspace, arguments: Arguments, screen: Screen) -> None:
    if not arguments.words:
        screen.result(_shells(workspace).bundle())
        return
    target = workspace.target(arguments.words[0])
    session, is_new = workspace.attach(
        target, user=arguments.text("--user"), shell=arguments.text("--shell"), new=arguments.given("--new")
    )
    how = f"a new {session.shell}" if is_new else f"the open {session.shell}"
    where = f", in {session.directory}" if session.directory else ""
    screen.result({"text/plain": f"attached to {session.where}: {how}{where}"})


def _shells(workspace: Workspace) -> Table:
    rows = []
    for where, session in workspace.shells.items():
        state = "ended" if session.ended else "attached" if session is workspace.attached else "open"
        rows.append((where, session.shell, session.user or "", session.directory or "", state))
    return Table(
        ("container", "shell", "user", "directory", "state"),
        tuple(rows),
        empty="no shell is open: `%attach host/container` opens one",
    )


def _detach(workspace: Workspace, _: Arguments, screen: Screen) -> None:
    screen.result({"text/plain": f"detached from {workspace.detach()}: its shell was ended"})


def _run(workspace: Workspace, arguments: Arguments, screen: Screen) -> None:
    if not arguments.rest:
        raise UsageError(
            "the command is missing: the usage is `%run [-t SECONDS] HOST/CONTAINER -- COMMAND…`"
        )
    target = workspace.target(arguments.words[0])
    timeout = arguments.number("-t", _RUN_TIMEOUT)
    done = target.client.exec(target.container, arguments.rest, timeout=float(timeout))
    for stream, text in (("stdout", done.stdout), ("stderr", done.stderr)):
        if text:
            screen.text(stream, text)
    if done.truncated:
        screen.text(
            "stderr", "mooring: there was more output than is shown; a shell cell has no such limit\n"
        )
    if done.timed_out:
        raise KernelError(
            f"`{arguments.rest[0]}` in {target} was stopped after {timeout} s: `-t` gives it longer"
        )
    if done.exit_code != 0:
        raise ExitStatus(done.exit_code)


# --- help


def _help(_: Workspace, arguments: Arguments, screen: Screen) -> None:
    if arguments.words:
        text = find_magic(arguments.words[0].removeprefix("%")).help()
    else:
        text = "\n".join([_INTRODUCTION, *(magic.help() for magic in MAGICS.values())])
    if arguments.given("--page"):
        screen.page({"text/plain": text})
    else:
        screen.result({"text/plain": text})


def _lsmagic(_: Workspace, __: Arguments, screen: Screen) -> None:
    screen.result({"text/plain": "  ".join(f"%{name}" for name in MAGICS)})


_INTRODUCTION = """\
A cell runs in the shell of the attached container; the shell stays, with its variables and its directory.
Lines at the head of a cell that begin with % are magics:
"""

_HOST_USAGE = " [HOST]"


# --- what several of them need


def _ask(
    workspace: Workspace, arguments: Arguments, screen: Screen, question: Callable[[Client], T]
) -> list[Answer[T]]:
    """Ask the host that was named, or all. Hosts that do not answer are named on stderr, unless none has."""
    fleet = workspace.require_fleet()
    if arguments.words:
        name = arguments.words[0]
        return [Answer(name, question(fleet.client(name)), None)]
    answers = fleet.ask(question)
    failed = [answer for answer in answers if answer.error is not None]
    if failed and len(failed) == len(answers):
        raise KernelError(
            "no host has answered: " + "; ".join(f"{each.host}: {_problem(each)}" for each in failed)
        )
    for answer in failed:
        screen.text("stderr", f"{answer.host}: {_problem(answer)}\n")
    return [answer for answer in answers if answer.error is None]


def _problem(answer: Answer[Any]) -> str:
    if answer.error is None:
        return ""
    return answer.error.message.removeprefix("host ").removeprefix(f"{answer.host}: ")


def _seconds(moment: str | None) -> float | None:
    """Return an RFC 3339 time as seconds since the epoch."""
    if not moment:
        return None
    try:
        return datetime.fromisoformat(moment).timestamp()
    except ValueError:
        return None


_ALL = (
    Magic(
        "fleet",
        "%fleet INVENTORY | %fleet local [SOCKET]",
        "Take the hosts of an Ansible inventory (YAML or INI), or the agent of this machine.",
        _fleet,
        words=(1, 2),
        takes="file",
    ),
    Magic("hosts", "%hosts", "Show the hosts, what they are and whether their agents answer.", _hosts),
    Magic(
        "ps",
        f"%ps{_HOST_USAGE}",
        "Show the containers of all hosts, or of one.",
        _ps,
        words=(0, 1),
        takes="host",
    ),
    Magic(
        "images",
        f"%images{_HOST_USAGE}",
        "Show the images of all hosts, or of one.",
        _images,
        words=(0, 1),
        takes="host",
    ),
    Magic(
        "pull",
        "%pull IMAGE [HOST…] [--platform OS/ARCH]",
        "Pull an image from its registry on all hosts, or on some, with a bar for each.",
        pull,
        options=(Option(("--platform",), "platform"),),
        words=(1, 1 + _MOST_HOSTS),
        takes="host",
    ),
    Magic(
        "push",
        "%push IMAGE [HOST] [--to NAME]",
        "Push an image of a host to its registry, or under another name, with a bar.",
        push,
        options=(Option(("--to",), "name"),),
        words=(1, 2),
        takes="host",
    ),
    Magic(
        "attach",
        "%attach HOST/CONTAINER [--user USER] [--shell PATH] [--new]",
        "Run the cells in a container from now on: in the shell that is open there, or in a new one. "
        "Without an argument, show the open shells.",
        _attach,
        options=(Option(("--user", "-u"), "user"), Option(("--shell", "-s"), "path"), Option(("--new",))),
        words=(0, 1),
        takes="target",
    ),
    Magic("detach", "%detach", "End the attached shell.", _detach),
    Magic(
        "inspect",
        "%inspect HOST/CONTAINER",
        "Show all that the agent knows about a container.",
        _inspect,
        words=(1, 1),
        takes="target",
    ),
    Magic(
        "logs",
        "%logs HOST/CONTAINER [-n LINES] [-t]",
        f"Show the end of a container's log ({_DEFAULT_LOG_LINES} lines), with -t the time of each line.",
        _logs,
        options=(Option(("-n", "--tail"), "number of lines"), Option(("-t", "--timestamps"))),
        words=(1, 1),
        takes="target",
    ),
    Magic(
        "run",
        "%run [-t SECONDS] HOST/CONTAINER -- COMMAND…",
        f"Run one command in a container without a shell, and show what it gave (within {_RUN_TIMEOUT} s).",
        _run,
        options=(Option(("-t", "--timeout"), "number of seconds"),),
        words=(1, 1),
        takes="target",
        rest=True,
    ),
    Magic(
        "help",
        "%help [NAME] [--page]",
        "Show what the magics do.",
        _help,
        options=(Option(("--page", "-p")),),
        words=(0, 1),
    ),
    Magic("lsmagic", "%lsmagic", "List the magics.", _lsmagic),
)
MAGICS: dict[str, Magic] = {magic.name: magic for magic in _ALL}
