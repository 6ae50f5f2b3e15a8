# SPDX-License-Identifier: Apache-2.0
"""`mooring build` and `mooring build-cache`."""

from __future__ import annotations

import argparse
import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InvalidSpec, MooringError
from ..images.build.context import DOCKERFILE, archive_context
from ..images.build.reporting import ERRORS, NOTE, OUTPUT, STEP, WARNING
from ..images.fetching import is_git, is_url
from .client import FLEET
from .containers import client_of
from .images import pair, stdin
from .output import age, show, size

_BUILDS = f"{FLEET}/builds"


def build(arguments: argparse.Namespace) -> int:
    """Send the context, show what is done, and print the image's id at the end."""
    options, context = _prepared(arguments)

    def body() -> Iterator[bytes]:
        yield json.dumps(options).encode() + b"\n"
        yield from context

    with client_of(arguments).stream("POST", _BUILDS, None, body()) as answer:
        while line := answer.readline():
            event = json.loads(line)
            if "error" in event:
                raise MooringError(str(event["error"]["message"]))
            if "image" in event:
                print(event["image"]["id"])
                return 0
            _show(event["progress"], quiet=arguments.quiet)
    raise MooringError("the agent ended its answer without an image; see its log")


def cache(arguments: argparse.Namespace) -> int:
    """List what builds have kept."""
    found = client_of(arguments).call("GET", f"{_BUILDS}/cache")
    rows = [
        (step["key"][:12], size(step["size"]), age(step["created"]), step["description"][:60])
        for step in found["steps"]
    ]
    rows += [(mount["name"][:12], size(mount["size"]), "", "cache mount") for mount in found["mounts"]]
    show(found, arguments.output, ("KEY", "SIZE", "AGE", "STEP"), rows)
    return 0


def prune(arguments: argparse.Namespace) -> int:
    """Delete what builds have kept."""
    query = {"unused_for": arguments.unused_for, "keep_bytes": arguments.keep_bytes}
    pruned = client_of(arguments).call("DELETE", f"{_BUILDS}/cache", query=query)
    print(f"{len(pruned['deleted'])} deleted, {size(pruned['freed'])} freed")
    return 0


def _prepared(arguments: argparse.Namespace) -> tuple[dict[str, Any], Iterator[bytes]]:
    """The options for the agent, and the context."""
    options: dict[str, Any] = {
        "tags": arguments.tag,
        "args": dict(_arguments(arguments.build_arg)),
        "labels": dict(pair(label, "--label") for label in arguments.label),
        "target": arguments.target,
        "no_cache": arguments.no_cache,
        "cache_from": arguments.cache_from,
        "pull": arguments.pull,
        "network": arguments.network,
        "platform": arguments.platform,
        "memory": arguments.memory,
        "extra_hosts": arguments.add_host,
        "secrets": dict(_secret(text) for text in arguments.secret),
        "source_date_epoch": arguments.source_date_epoch,
        "time_limit": arguments.time_limit,
        "ulimits": arguments.ulimit or None,
        "cgroup": arguments.cgroup,
    }
    file = arguments.file
    if is_git(arguments.context) or is_url(arguments.context):
        options["remote"] = arguments.context
        if file == "-":
            options["text"] = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
        options["dockerfile"] = DOCKERFILE if file in (None, "-") else file
        return options, iter(())
    if arguments.context == "-":
        if file == "-":
            raise InvalidSpec(
                "--file - and the context - are both standard input: expected one of them there"
            )
        options["dockerfile"] = file or DOCKERFILE
        return options, stdin()
    directory = Path(arguments.context)
    name = DOCKERFILE
    if file == "-":
        options["text"] = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    elif file is not None:
        name = _within(directory, Path(file), options)
    options["dockerfile"] = name
    return options, archive_context(directory, name)


def _within(directory: Path, file: Path, options: dict[str, Any]) -> str:
    """The Dockerfile's name in the context; one that is elsewhere is sent by itself."""
    try:
        text = file.read_bytes()
    except OSError as error:
        raise InvalidSpec(f"the Dockerfile {file} cannot be read: {error.strerror}") from None
    whole, root = file.resolve(), directory.resolve()
    if whole.is_relative_to(root):
        return str(whole.relative_to(root))
    options["text"] = text.decode("utf-8", "surrogateescape")
    return file.name


def _show(event: dict[str, Any], *, quiet: bool) -> None:
    kind, text = event["step"], event["detail"]
    if kind == WARNING:
        print(f"warning: {text}", file=sys.stderr)
    elif quiet:
        return
    elif kind in (OUTPUT, ERRORS):
        sys.stderr.write(text)
        sys.stderr.flush()
    elif kind in (STEP, NOTE):
        print(text if kind == STEP else f" ---> {text}", file=sys.stderr)


def _arguments(given: list[str]) -> Iterator[tuple[str, str]]:
    """Build arguments; a name alone takes the value from the environment, if there is one."""
    for text in given:
        name, mark, value = text.partition("=")
        if not name:
            raise InvalidSpec(f"--build-arg {text} has no name: expected NAME=VALUE")
        if mark:
            yield name, value
        elif name in os.environ:
            yield name, os.environ[name]


def _secret(text: str) -> tuple[str, str]:
    """A secret's id and its content in base64, from `id=ID[,src=FILE|,env=NAME]`."""
    fields = dict(part.partition("=")[::2] for part in text.split(","))
    unknown = set(fields) - {"id", "src", "source", "env", "type"}
    name = fields.get("id", "")
    if unknown or not name or fields.get("type", "file") not in ("file", "env"):
        raise InvalidSpec(f"--secret {text} is not valid: expected id=ID,src=FILE or id=ID,env=NAME")
    source, variable = fields.get("src") or fields.get("source"), fields.get("env")
    if source is None and (variable is not None or name in os.environ):
        value = os.environ.get(variable or name)
        if value is None:
            raise InvalidSpec(f"--secret {text}: the variable {variable} is not in the environment")
        content = value.encode("utf-8", "surrogateescape")
    else:
        try:
            content = Path(source or name).read_bytes()
        except OSError as error:
            raise InvalidSpec(f"--secret {text}: {source or name} cannot be read: {error.strerror}") from None
    return name, base64.b64encode(content).decode("ascii")
