# SPDX-License-Identifier: Apache-2.0
"""What instructions do to an image's configuration, and how its history tells it, as BuildKit does. Pure.

A configuration is the `config` object of the image-spec (config.md) with Docker's additions: Healthcheck,
Shell, OnBuild.
"""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping, Sequence
from typing import Any

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.config import check_env_name, check_signal, merge_env
from mooring_agent.images.dockerfile import instructions as language

Config = Mapping[str, Any]

DEFAULT_SHELL = ("/bin/sh", "-c")
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMENT = "buildkit.dockerfile.v0"
"""What the history says of each instruction, so that tools know the form of its text."""

_LAYER = " # buildkit"  # behind the text of what has made a layer


def environment_of(config: Config) -> dict[str, str]:
    """The variables that a configuration sets."""
    return {name: value for name, _, value in (item.partition("=") for item in config.get("Env") or ())}


def command_words(command: language.CommandLine, config: Config) -> tuple[str, ...]:
    """What is executed: the words, or the stage's shell with the text."""
    if not command.shell:
        return command.words
    return (*(config.get("Shell") or DEFAULT_SHELL), *command.words)


def joined(config: Config, path: str) -> str:
    """A path, relative to the working directory unless absolute; a slash at its end stays."""
    whole = posixpath.normpath(posixpath.join("/", config.get("WorkingDir") or "/", path or "."))
    whole = "/" + whole.lstrip("/")
    is_directory = path in ("", ".") or path.endswith(("/", "/."))
    return whole + "/" if is_directory and whole != "/" else whole


def configure(config: Config, instruction: language.Instruction, *, has_command: bool) -> dict[str, Any]:
    """The configuration after an instruction that is expanded; `has_command`: the stage had a CMD of its own.

    Raises InvalidSpec for a value that no image can have.
    """
    new = dict(config)
    match instruction:
        case language.Env(pairs=pairs):
            changed = (f"{check_env_name(pair.name)}={pair.value}" for pair in pairs)
            new["Env"] = list(merge_env(config.get("Env") or (), changed))
        case language.Label(pairs=pairs):
            new["Labels"] = {**(config.get("Labels") or {}), **{pair.name: pair.value for pair in pairs}}
        case language.Cmd(command=command):
            new["Cmd"] = list(command_words(command, config)) if command.words else []
        case language.Entrypoint(command=command):
            new["Entrypoint"] = list(command_words(command, config)) if command.words else []
            if not has_command:
                new.pop("Cmd", None)  # it was the arguments of another entrypoint
        case language.Shell(words=words):
            new["Shell"] = list(words)
        case language.User(user=user):
            new["User"] = user
        case language.Workdir(path=path):
            new["WorkingDir"] = joined(config, path).rstrip("/") or "/"
        case language.Volume(paths=paths):
            if not all(paths):
                raise InvalidSpec("VOLUME has an empty path: expected the path of a directory")
            new["Volumes"] = {**(config.get("Volumes") or {}), **{path: {} for path in paths}}
        case language.Expose(ports=ports):
            new["ExposedPorts"] = {**(config.get("ExposedPorts") or {}), **{port: {} for port in ports}}
        case language.StopSignal(signal=signal):
            new["StopSignal"] = check_signal(signal)
        case language.Healthcheck():
            new["Healthcheck"] = _healthcheck(instruction)
        case language.Onbuild(trigger=trigger):
            new["OnBuild"] = [*(config.get("OnBuild") or ()), trigger]
    return new


def _healthcheck(check: language.Healthcheck) -> dict[str, Any]:
    found = {
        "Test": list(check.test),
        "Interval": check.interval,
        "Timeout": check.timeout,
        "StartPeriod": check.start_period,
        "StartInterval": check.start_interval,
        "Retries": check.retries,
    }
    return {key: value for key, value in found.items() if value}


def finished(config: Config, labels: Mapping[str, str]) -> dict[str, Any]:
    """The configuration as it is stored: labels of the build laid over, empty things left out, in order."""
    whole = dict(config)
    if labels:
        whole["Labels"] = {**(config.get("Labels") or {}), **labels}
    for key in ("Labels", "ExposedPorts", "Volumes"):
        if whole.get(key):
            whole[key] = dict(sorted(whole[key].items()))
    return {key: whole[key] for key in sorted(whole) if whole[key]}


def told(
    instruction: language.Instruction,
    config: Config,
    arguments: Sequence[tuple[str, str]],
    argv: Sequence[str] = (),
) -> str | None:
    """How the history tells an instruction after which `config` holds; None if it is not told.

    `arguments` are the build arguments in scope, `argv` what RUN executes.
    """
    match instruction:
        case language.Run():
            scope = [f"|{len(arguments)}", *(f"{name}={value}" for name, value in arguments)]
            return " ".join(["RUN", *(scope if arguments else ()), *argv]) + _LAYER
        case language.Transfer():
            return _transfer(instruction) + _LAYER
        case language.Env(pairs=pairs) | language.Label(pairs=pairs):
            word = "ENV" if isinstance(instruction, language.Env) else "LABEL"
            return " ".join([word, *(f"{pair.name}={pair.value}" for pair in pairs)])
        case language.Arg():
            texts = (
                one.name if one.value is None else f"{one.name}={one.value}" for one in instruction.arguments
            )
            return " ".join(["ARG", *texts])
        case language.Cmd():
            return f"CMD {_quoted(config.get('Cmd') or ())}"
        case language.Entrypoint():
            return f"ENTRYPOINT {_quoted(config.get('Entrypoint') or ())}"
        case language.Shell(words=words):
            return f"SHELL [{' '.join(words)}]"
        case language.User(user=user):
            return f"USER {user}"
        case language.Workdir():
            return f"WORKDIR {config.get('WorkingDir')}"
        case language.Volume(paths=paths):
            return f"VOLUME [{' '.join(paths)}]"
        case language.Expose(ports=ports):
            return f"EXPOSE map[{' '.join(f'{port}:{{}}' for port in sorted(ports))}]"
        case language.StopSignal(signal=signal):
            return f"STOPSIGNAL {signal}"
        case language.Healthcheck(test=test):
            return f"HEALTHCHECK {_quoted(test)}"
        case language.Maintainer(author=author):
            return f"MAINTAINER {author}"
    return None


def _transfer(transfer: language.Transfer) -> str:
    words = ["ADD" if isinstance(transfer, language.Add) else "COPY"]
    if isinstance(transfer, language.Copy) and transfer.parents:
        words.append("--parents")
    if transfer.chown:
        words.append(f"--chown={transfer.chown}")
    if transfer.chmod:
        words.append(f"--chmod={transfer.chmod}")
    names = (*transfer.sources, *(file.name for file in transfer.files))
    return " ".join([*words, *names, transfer.destination])


def _quoted(words: Sequence[str]) -> str:
    return f"[{' '.join(json.dumps(word, ensure_ascii=False) for word in words)}]"
