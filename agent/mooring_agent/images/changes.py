# SPDX-License-Identifier: Apache-2.0
"""Lines of Dockerfile language that change an image's config (`docker import --change`). Pure.

Quotes, backslashes and variables are read as in the Dockerfile reference ("Environment replacement"): in
double quotes a backslash escapes only `"`, `$` and itself; `$NAME`, `${NAME}`, `${NAME:-word}` and
`${NAME:+word}` stand for the variables set so far.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.config import (
    ImageConfig,
    check_env_name,
    check_port,
    check_signal,
    check_workdir,
    merge_env,
)

_SHELL = ("/bin/sh", "-c")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BRACED = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-+])(.*))?", re.DOTALL)
_RANGE = re.compile(r"(\d+)-(\d+)(/\w+)?")


def apply_changes(config: ImageConfig, changes: Iterable[str]) -> ImageConfig:
    """Return `config` after the given lines, each one instruction; an entry may hold several lines.

    Raises InvalidSpec naming the line for an instruction that is unknown or cannot change an existing
    image. As in a build, ENTRYPOINT without a CMD beside it drops the CMD that was there before.
    """
    lines = [line.strip() for entry in changes for line in entry.splitlines()]
    seen = set()
    for line in lines:
        if not line or line.startswith("#"):
            continue
        word, _, rest = line.partition(" ")
        instruction = _INSTRUCTIONS.get(word.upper())
        if instruction is None:
            known = ", ".join(_INSTRUCTIONS)
            raise InvalidSpec(
                f"change {line!r} is not an instruction for an image's config: expected one of {known}"
            )
        if not rest.strip():
            raise InvalidSpec(f"change {line!r} has no argument: expected one after {word.upper()}")
        try:
            config = instruction(config, rest.strip())
        except InvalidSpec as error:
            raise InvalidSpec(f"change {line!r} is not valid: {error.message}") from error
        seen.add(word.upper())
    if "ENTRYPOINT" in seen and "CMD" not in seen:
        config = replace(config, cmd=None)
    return config


def expand(text: str, variables: Mapping[str, str], *, split: bool) -> list[str]:
    """Take quotes and backslashes away and put variables in; `split` divides words at blanks."""
    words: list[str] = []
    current: list[str] | None = None
    quote = ""
    position = 0
    while position < len(text):
        char = text[position]
        position += 1
        if split and not quote and char.isspace():
            if current is not None:
                words.append("".join(current))
            current = None
            continue
        if current is None:
            current = []
        if char in "'\"" and quote in ("", char):
            quote = "" if quote else char
        elif char == "\\" and quote != "'":
            following = text[position : position + 1]
            if quote and following not in ('"', "$", "\\"):
                current.append(char)
            else:
                current.append(following)
                position += 1
        elif char == "$" and quote != "'":
            value, position = _variable(text, position, variables)
            current.append(value)
        else:
            current.append(char)
    if quote:
        raise InvalidSpec(f"the quote {quote} is not closed")
    if current is not None:
        words.append("".join(current))
    return words


def _variable(text: str, position: int, variables: Mapping[str, str]) -> tuple[str, int]:
    """Read what follows a dollar sign; returns its value and where the text goes on."""
    if text[position : position + 1] != "{":
        match = _NAME.match(text, position)
        if match is None:
            return "$", position
        return variables.get(match[0], ""), match.end()
    end = _closing(text, position)
    match = _BRACED.fullmatch(text, position + 1, end)
    if match is None:
        raise InvalidSpec(
            f"{text[position - 1 : end + 1]} is no replacement of a variable: expected ${{NAME}}, "
            "${NAME:-word} or ${NAME:+word}"
        )
    name, operator, word = match.groups()
    value = variables.get(name)
    if operator is None:
        return value or "", end + 1
    filled = value is not None if operator in ("-", "+") else bool(value)
    alternative = "".join(expand(word, variables, split=False))
    if operator.endswith("-"):
        return (value or "") if filled else alternative, end + 1
    return alternative if filled else "", end + 1


def _closing(text: str, position: int) -> int:
    depth = 0
    for index in range(position, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return index
    raise InvalidSpec(f"the brace in {text[position - 1 :]} is not closed")


def _variables(config: ImageConfig) -> dict[str, str]:
    pairs = (item.partition("=") for item in config.env or ())
    return {name: value for name, _, value in pairs}


def _single(config: ImageConfig, text: str) -> str:
    return "".join(expand(text, _variables(config), split=False))


def _words(config: ImageConfig, text: str) -> list[str]:
    return expand(text, _variables(config), split=True)


def _command(text: str) -> tuple[str, ...]:
    """The exec form, a JSON list of strings, or else the shell form."""
    listed = _listed(text)
    return listed if listed is not None else (*_SHELL, text)


def _listed(text: str) -> tuple[str, ...] | None:
    """A JSON list of strings, or None for anything else."""
    if text.startswith("["):
        try:
            value = json.loads(text)
        except ValueError:
            return None
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
    return None


def _cmd(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, cmd=_command(text) or None)


def _entrypoint(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, entrypoint=_command(text) or None)


def _pairs(config: ImageConfig, text: str) -> dict[str, str]:
    """`name=value …`, or the old form `name value with blanks`."""
    first, _, rest = text.partition(" ")
    if "=" not in first:
        if not rest.strip():
            raise InvalidSpec("expected NAME=value")
        return {first: _single(config, rest.strip())}
    pairs = {}
    for word in _words(config, text):
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise InvalidSpec(f"{word!r} is not of the form NAME=value")
        pairs[name] = value
    return pairs


def _env(config: ImageConfig, text: str) -> ImageConfig:
    pairs = (f"{check_env_name(name)}={value}" for name, value in _pairs(config, text).items())
    return replace(config, env=merge_env(config.env or (), pairs))


def _label(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, labels={**config.labels, **_pairs(config, text)})


def _expose(config: ImageConfig, text: str) -> ImageConfig:
    ports = set(config.exposed_ports)
    for word in _words(config, text):
        match = _RANGE.fullmatch(word)
        if match is None:
            ports.add(check_port(word))
            continue
        first, last = int(match[1]), int(match[2])
        if not 1 <= first <= last <= 65535:
            raise InvalidSpec(f"{word!r} is no range of ports: expected FIRST-LAST within 1 to 65535")
        ports |= {check_port(f"{port}{match[3] or ''}") for port in range(first, last + 1)}
    return replace(config, exposed_ports=tuple(sorted(ports)))


def _workdir(config: ImageConfig, text: str) -> ImageConfig:
    directory = posixpath.normpath(posixpath.join(config.workdir or "/", _single(config, text)))
    return replace(config, workdir=check_workdir("/" + directory.lstrip("/")))


def _user(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, user=_single(config, text))


def _stop_signal(config: ImageConfig, text: str) -> ImageConfig:
    return replace(config, stop_signal=check_signal(_single(config, text)))


def _volume(config: ImageConfig, text: str) -> ImageConfig:
    listed = _listed(text)
    words = listed if listed is not None else tuple(_words(config, text))
    volumes = {check_workdir(posixpath.normpath(posixpath.join("/", word))) for word in words if word}
    if not volumes:
        raise InvalidSpec("expected the directory of a volume")
    return replace(config, volumes=tuple(sorted({*config.volumes, *volumes})))


def _on_build(config: ImageConfig, text: str) -> ImageConfig:
    word = text.split(maxsplit=1)[0].upper()
    if word in ("ONBUILD", "FROM", "MAINTAINER"):
        raise InvalidSpec(f"{word} cannot be put off until a build on the image")
    return replace(config, on_build=(*config.on_build, text))


_INSTRUCTIONS: dict[str, Callable[[ImageConfig, str], ImageConfig]] = {
    "CMD": _cmd,
    "ENTRYPOINT": _entrypoint,
    "ENV": _env,
    "EXPOSE": _expose,
    "LABEL": _label,
    "ONBUILD": _on_build,
    "STOPSIGNAL": _stop_signal,
    "USER": _user,
    "VOLUME": _volume,
    "WORKDIR": _workdir,
}
