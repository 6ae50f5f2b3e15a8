# SPDX-License-Identifier: Apache-2.0
"""`docker import --change`: single Dockerfile instructions that say what an image's containers do by default.

Follows the Dockerfile reference for the instructions that `docker import` takes.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from ...errors import InvalidSpec, NotSupported
from ...images.config import ImageConfig


def config_of(changes: Iterable[str]) -> ImageConfig:
    """The image configuration that these instructions make. Raises InvalidSpec, NotSupported."""
    settings: dict[str, Any] = {"env": {}, "labels": {}, "exposed_ports": []}
    for change in changes:
        for line in change.splitlines():
            if line.strip():
                _apply(line.strip(), settings)
    return ImageConfig.from_spec({name: value for name, value in settings.items() if value})


def _apply(line: str, settings: dict[str, Any]) -> None:
    instruction, _, rest = line.partition(" ")
    rule = _INSTRUCTIONS.get(instruction.upper())
    if rule is None:
        known = ", ".join(_INSTRUCTIONS)
        raise NotSupported(f"change {line!r} is not supported: expected an instruction among {known}")
    if not rest.strip():
        raise InvalidSpec(f"change {line!r} has no value: expected one after {instruction}")
    rule(settings, rest.strip(), line)


def _command(name: str) -> Callable[[dict[str, Any], str, str], None]:
    def rule(settings: dict[str, Any], rest: str, line: str) -> None:
        words: object = None
        if rest.startswith("["):
            try:
                words = json.loads(rest)
            except ValueError:
                words = None
        # What is no JSON list is a line for the shell, as in a Dockerfile.
        if isinstance(words, list) and all(isinstance(word, str) for word in words):
            settings[name] = words
        else:
            settings[name] = ["/bin/sh", "-c", rest]

    return rule


def _pairs(name: str) -> Callable[[dict[str, Any], str, str], None]:
    def rule(settings: dict[str, Any], rest: str, line: str) -> None:
        try:
            words = shlex.split(rest)
        except ValueError as error:
            raise InvalidSpec(f"change {line!r} cannot be read: {error}") from None
        if "=" not in words[0]:
            # The old form: ENV NAME the whole rest.
            key, _, value = rest.partition(" ")
            if not value:
                raise InvalidSpec(f"change {line!r} has no value: expected NAME=VALUE")
            settings[name][key] = value.strip()
            return
        for word in words:
            key, mark, value = word.partition("=")
            if not mark or not key:
                raise InvalidSpec(f"change {line!r} has {word!r}: expected NAME=VALUE")
            settings[name][key] = value

    return rule


def _text(name: str) -> Callable[[dict[str, Any], str, str], None]:
    def rule(settings: dict[str, Any], rest: str, line: str) -> None:
        settings[name] = rest

    return rule


def _expose(settings: dict[str, Any], rest: str, line: str) -> None:
    for port in rest.split():
        number, _, protocol = port.partition("/")
        if not number.isascii() or not number.isdigit() or protocol not in ("", "tcp", "udp", "sctp"):
            raise InvalidSpec(f"change {line!r} has {port!r}: expected a port such as 80 or 53/udp")
        settings["exposed_ports"].append(f"{int(number)}/{protocol or 'tcp'}")


_INSTRUCTIONS: dict[str, Callable[[dict[str, Any], str, str], None]] = {
    "CMD": _command("cmd"),
    "ENTRYPOINT": _command("entrypoint"),
    "ENV": _pairs("env"),
    "EXPOSE": _expose,
    "LABEL": _pairs("labels"),
    "STOPSIGNAL": _text("stop_signal"),
    "USER": _text("user"),
    "WORKDIR": _text("workdir"),
}
