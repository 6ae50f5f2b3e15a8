# SPDX-License-Identifier: Apache-2.0
"""An instruction as it is written to a typed one, checked by BuildKit's rules."""

from __future__ import annotations

import re
from collections.abc import Callable

from .durations import parse_duration
from .errors import DockerfileError, Location, nearest
from .flags import Flags
from .heredocs import parse_heredoc
from .ignore import Ignore
from .instructions import (
    Add,
    Arg,
    Argument,
    Cmd,
    CommandLine,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    InlineFile,
    Instruction,
    Label,
    Maintainer,
    Onbuild,
    Pair,
    Run,
    Shell,
    StopSignal,
    User,
    Volume,
    Workdir,
)
from .mounts import MountFlag
from .syntax import KEYWORDS, Heredoc, Node
from .words import SPACE, process_word

_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
_ONBUILD = re.compile(r"ONBUILD[\t\n\f\r ]*", re.IGNORECASE)
_NETWORKS = ("default", "none", "host")
_SECURITIES = ("sandbox", "insecure")
_MAX_RETRIES = (1 << 31) - 1


def interpret(node: Node, file: str) -> Instruction:
    """The typed instruction. Raises DockerfileError with its place."""
    location = Location(file, node.start, node.end, node.original.strip(SPACE))
    try:
        return _typed(node, location)
    except DockerfileError as error:
        raise error.at(location) from None


def _typed(node: Node, location: Location) -> Instruction:
    keyword = node.name.upper()
    read = _READERS.get(keyword)
    if read is None:
        known = nearest(keyword, (name.upper() for name in KEYWORDS))
        raise DockerfileError(f"the instruction {node.name!r} is not known: {known}")
    return read(node, location)


def _from(node: Node, location: Location) -> From:
    platform = Flags(node.flags, once=("platform",)).value("platform")
    match node.arguments:
        case (image,):
            return From(location, image, platform)
        case (image, as_, name) if as_.lower() == "as":
            if not _STAGE_NAME.fullmatch(name.lower()):
                raise DockerfileError(
                    f"the stage name {name!r} is not valid: expected a letter, then letters, digits, _ . or -"
                )
            return From(location, image, platform, name.lower())
    raise DockerfileError(
        f"FROM has {len(node.arguments)} arguments: expected FROM [--platform=…] image [AS name]"
    )


def _arg(node: Node, location: Location) -> Arg:
    Flags(node.flags)
    arguments: list[Argument] = []
    for word in _some(node):
        name, equals, value = word.partition("=")
        if not name:
            raise DockerfileError(f"ARG {word} has no name: expected ARG name or ARG name=default")
        arguments.append(Argument(name, value if equals else None))
    return Arg(location, tuple(arguments))


def _pairs(node: Node) -> tuple[Pair, ...]:
    Flags(node.flags)
    words = _some(node)
    pairs = tuple(map(Pair, words[::3], words[1::3]))
    if any(not pair.name for pair in pairs):
        raise DockerfileError(f"{node.name.upper()} has a value without a name: expected name=value")
    return pairs


def _run(node: Node, location: Location) -> Run:
    flags = Flags(node.flags, once=("network", "security"), many=("mount", "device"))
    if flags.values("device"):
        raise DockerfileError(
            "RUN --device is not supported: expected a build that needs no device of the host"
        )
    command = _command(node)
    if not any(command.words):
        raise DockerfileError('RUN has no command: expected RUN command or RUN ["program", "argument"]')
    mounts = tuple(map(MountFlag, flags.values("mount")))
    for mount in mounts:
        mount.check()
    network = flags.value("network", "default")
    if network not in _NETWORKS:
        raise DockerfileError(f"RUN --network={network} is not known: {nearest(network, _NETWORKS)}")
    security = flags.value("security", "sandbox")
    if security not in _SECURITIES:
        raise DockerfileError(f"RUN --security={security} is not known: {nearest(security, _SECURITIES)}")
    return Run(location, command, mounts, network, security)


def _command(node: Node) -> CommandLine:
    return CommandLine(node.arguments, not node.json, node.heredocs)


def _copy(node: Node, location: Location) -> Copy:
    flags = Flags(node.flags, ("link", "parents"), ("chown", "chmod", "from"), ("exclude",))
    origin = flags.value("from")
    if process_word(origin, lambda _: None) != origin:
        raise DockerfileError(
            f"COPY --from={origin} has a variable, quote or escape, which --from cannot: "
            "name a stage there, and use the variable in that stage's FROM"
        )
    return Copy(location, *_transfer(node, flags), origin, bool(flags.switch("parents")))


def _add(node: Node, location: Location) -> Add:
    flags = Flags(
        node.flags, ("link", "keep-git-dir", "unpack"), ("chown", "chmod", "checksum"), ("exclude",)
    )
    return Add(
        location,
        *_transfer(node, flags),
        flags.value("checksum"),
        flags.switch("keep-git-dir"),
        flags.switch("unpack"),
    )


def _transfer(
    node: Node, flags: Flags
) -> tuple[tuple[str, ...], tuple[InlineFile, ...], str, str, str, bool, tuple[str, ...]]:
    """What COPY and ADD have in common, in the order of Transfer's fields."""
    name = node.name.upper()
    if len(node.arguments) < 2:
        missing = "destination" if node.arguments else "source"
        raise DockerfileError(f"{name} has no {missing}: expected {name} source… destination")
    *words, destination = node.arguments
    if _announced(destination) is not None:
        raise DockerfileError(f"{name} has a heredoc as its destination: expected a path behind it")
    by_name = {heredoc.name: heredoc for heredoc in node.heredocs}
    sources: list[str] = []
    files: list[InlineFile] = []
    for word in words:
        announced = None if node.json else _announced(word)
        if announced is None or announced.name not in by_name:
            sources.append(word)
        else:
            heredoc = by_name[announced.name]
            files.append(InlineFile(heredoc.name, heredoc.chomped, heredoc.expand))
    for name in by_name.keys() - {file.name for file in files}:
        raise DockerfileError(
            f"the heredoc {name} is no source: expected <<WORD without blanks in or before it"
        )
    excludes = flags.values("exclude")
    Ignore(excludes)  # raises for one that is not valid
    return (
        tuple(sources),
        tuple(files),
        destination,
        flags.value("chown"),
        flags.value("chmod"),
        bool(flags.switch("link")),
        excludes,
    )


def _announced(word: str) -> Heredoc | None:
    try:
        return parse_heredoc(word)
    except DockerfileError:
        # A path with << and a quote in it.
        return None


def _shell(node: Node, location: Location) -> Shell:
    Flags(node.flags)
    words = _some(node)
    if not node.json:
        raise DockerfileError(f'SHELL {words[0]} is not in JSON form: expected SHELL ["program", "argument"]')
    return Shell(location, words)


def _volume(node: Node, location: Location) -> Volume:
    Flags(node.flags)
    paths = tuple(word.strip(SPACE) for word in _some(node))
    if "" in paths:
        raise DockerfileError("VOLUME has an empty path: expected absolute paths")
    return Volume(location, paths)


def _expose(node: Node, location: Location) -> Expose:
    Flags(node.flags)
    return Expose(location, _some(node))


def _healthcheck(node: Node, location: Location) -> Healthcheck:
    flags = Flags(node.flags, once=("interval", "timeout", "start-period", "start-interval", "retries"))
    kind, *command = _some(node)
    match kind.upper():
        case "NONE":
            if command or node.flags:
                raise DockerfileError("HEALTHCHECK NONE has flags or arguments: expected it alone")
            return Healthcheck(location, ("NONE",))
        case "CMD":
            if not any(command):
                raise DockerfileError("HEALTHCHECK CMD has no command: expected HEALTHCHECK CMD command")
        case _:
            raise DockerfileError(f"HEALTHCHECK {kind} is not known: expected CMD or NONE behind the flags")

    def duration(name: str) -> int:
        text = flags.value(name)
        return parse_duration(f"--{name}", text) if text else 0

    return Healthcheck(
        location,
        ("CMD" if node.json else "CMD-SHELL", *command),
        duration("interval"),
        duration("timeout"),
        duration("start-period"),
        duration("start-interval"),
        _retries(flags.value("retries")),
    )


def _retries(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _MAX_RETRIES):
        raise DockerfileError(f"--retries={text} is not valid: expected a number from 0 to {_MAX_RETRIES}")
    return int(text)


def _onbuild(node: Node, location: Location) -> Onbuild:
    Flags(node.flags)
    child = node.child
    if child is None:
        raise DockerfileError("ONBUILD has no instruction: expected ONBUILD RUN command, or another")
    if child.name.upper() in ("FROM", "MAINTAINER", "ONBUILD"):
        raise DockerfileError(f"ONBUILD {child.name.upper()} is not allowed: expected another instruction")
    _typed(
        Node(child.name, child.original, child.flags, child.arguments, child.json, None, node.heredocs),
        location,
    )
    text = _ONBUILD.sub("", node.original.strip(SPACE), count=1)
    for heredoc in node.heredocs:
        text += f"\n{heredoc.content}{heredoc.name}"
    return Onbuild(location, text)


def _some(node: Node) -> tuple[str, ...]:
    if not node.arguments:
        raise DockerfileError(f"{node.name.upper()} has no argument: expected one at least")
    return node.arguments


def _one(node: Node) -> str:
    Flags(node.flags)
    if len(node.arguments) != 1:
        raise DockerfileError(f"{node.name.upper()} has no argument: expected exactly one")
    return node.arguments[0]


def _plain_command(node: Node) -> CommandLine:
    Flags(node.flags)
    return _command(node)


_READERS: dict[str, Callable[[Node, Location], Instruction]] = {
    "ADD": _add,
    "ARG": _arg,
    "CMD": lambda node, location: Cmd(location, _plain_command(node)),
    "COPY": _copy,
    "ENTRYPOINT": lambda node, location: Entrypoint(location, _plain_command(node)),
    "ENV": lambda node, location: Env(location, _pairs(node)),
    "EXPOSE": _expose,
    "FROM": _from,
    "HEALTHCHECK": _healthcheck,
    "LABEL": lambda node, location: Label(location, _pairs(node)),
    "MAINTAINER": lambda node, location: Maintainer(location, _one(node)),
    "ONBUILD": _onbuild,
    "RUN": _run,
    "SHELL": _shell,
    "STOPSIGNAL": lambda node, location: StopSignal(location, _one(node)),
    "USER": lambda node, location: User(location, _one(node)),
    "VOLUME": _volume,
    "WORKDIR": lambda node, location: Workdir(location, _one(node)),
}
