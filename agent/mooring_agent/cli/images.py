# SPDX-License-Identifier: Apache-2.0
"""`mooring images` and `mooring image ls|import|template|rm`."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Iterator
from typing import Any

from ..errors import InvalidSpec, MooringError
from .client import DOCKER, FLEET, ApiFailure, Client, segment
from .containers import client_of
from .outcomes import report
from .output import age, short_id, show, size
from .progress import ProgressLine

_CHUNK = 1 << 20


def ls(arguments: argparse.Namespace) -> int:
    """List images."""
    views = client_of(arguments).call("GET", f"{FLEET}/images")
    rows = [
        (name, short_id(view["id"]), view["architecture"], size(view["size"]), age(view["created_at"]))
        for view in views
        for name in view["references"] or ["<none>"]
    ]
    show(views, arguments.output, ("NAME", "ID", "ARCH", "SIZE", "AGE"), rows)
    return 0


def imported(arguments: argparse.Namespace) -> int:
    """Make an image of a root file system: a path on the agent's host, or standard input."""
    client = client_of(arguments)
    if arguments.source != "-":
        source = {"path": os.path.abspath(arguments.source)}
        if arguments.metadata:
            source["metadata"] = os.path.abspath(arguments.metadata)
        return _put(client, arguments, {"import": source})
    if arguments.metadata:
        raise InvalidSpec("--metadata goes with a file, not with standard input; name a file")
    if arguments.dry_run:
        raise InvalidSpec("--dry-run cannot tell what an import from standard input would do; name a file")
    repository, tag = _split(arguments.reference)
    query = {"fromSrc": "-", "repo": repository, "tag": tag, "changes": list(_changes(arguments))}
    with ProgressLine() as line, client.stream("POST", f"{DOCKER}/images/create", query, _stdin()) as answer:
        identity = ""
        while raw := answer.readline():
            message = json.loads(raw)
            if "error" in message:
                raise MooringError(str(message["error"]))
            detail = message.get("progressDetail", {})
            line.show(message["status"], detail.get("current"), detail.get("total"))
            identity = message["status"]
    print(identity)
    return 0


def template(arguments: argparse.Namespace) -> int:
    """Make an image from a template."""
    chosen = {"name": arguments.template}
    for option, value in (
        ("suite", arguments.suite),
        ("variant", arguments.variant),
        ("packages", arguments.package),
        ("mirror", arguments.mirror),
        ("components", arguments.component),
        ("max_age", arguments.max_age),
    ):
        if value:
            chosen[option] = value
    return _put(client_of(arguments), arguments, {"template": chosen})


def remove(arguments: argparse.Namespace) -> int:
    """Remove images; here, unlike in a declaration, one that is not there is an error."""
    client = client_of(arguments)
    status = 0
    for name in arguments.names:
        try:
            client.call("DELETE", f"{DOCKER}/images/{segment(name, slashes=True)}")
            print(name)
        except ApiFailure as error:
            print(f"mooring: {error.message}", file=sys.stderr)
            status = 1
    return status


def _put(client: Client, arguments: argparse.Namespace, spec: dict[str, Any]) -> int:
    config = _config(arguments)
    if config:
        spec["config"] = config
    path = f"{FLEET}/images/{segment(arguments.reference, slashes=True)}"
    outcome: dict[str, Any] | None = None
    with ProgressLine() as line:
        for message in client.lines("PUT", path, spec, {"dry_run": arguments.dry_run}):
            if "error" in message:
                raise MooringError(str(message["error"]["message"]))
            if "progress" in message:
                event = message["progress"]
                line.show(event["detail"] or event["step"], event["current"], event["total"])
            else:
                outcome = message["outcome"]
    if outcome is None:
        raise MooringError(
            f"image {arguments.reference}: the agent ended its answer without an outcome; see its log"
        )
    report(outcome, dry_run=arguments.dry_run)
    return 0


def _config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The `config` of an image spec from the options."""
    config: dict[str, Any] = {
        "cmd": _words(arguments.cmd),
        "entrypoint": _words(arguments.entrypoint),
        "env": dict(pair(item, "--env") for item in arguments.env),
        "workdir": arguments.workdir,
        "user": arguments.user,
        "labels": dict(pair(item, "--label") for item in arguments.label),
        "exposed_ports": arguments.expose,
    }
    return {name: value for name, value in config.items() if value}


def _changes(arguments: argparse.Namespace) -> Iterator[str]:
    """The same as Dockerfile instructions, for an import from a stream."""
    config = _config(arguments)
    for instruction, name in (("CMD", "cmd"), ("ENTRYPOINT", "entrypoint")):
        if name in config:
            yield f"{instruction} {json.dumps(config[name])}"
    for instruction, name in (("ENV", "env"), ("LABEL", "labels")):
        for key, value in config.get(name, {}).items():
            yield f"{instruction} {shlex.quote(f'{key}={value}')}"
    for instruction, name in (("WORKDIR", "workdir"), ("USER", "user")):
        if name in config:
            yield f"{instruction} {config[name]}"
    for port in config.get("exposed_ports", ()):
        yield f"EXPOSE {port}"


def _words(command: str | None) -> list[str]:
    try:
        return shlex.split(command or "")
    except ValueError as error:
        raise InvalidSpec(f"the command {command!r} cannot be split into words: {error}") from None


def pair(item: str, option: str) -> tuple[str, str]:
    """The two of `NAME=VALUE`; `option` is where it stands."""
    key, mark, value = item.partition("=")
    if not mark or not key:
        raise InvalidSpec(f"{option} {item} is no pair: expected NAME=VALUE")
    return key, value


def _split(reference: str) -> tuple[str, str]:
    """Repository and tag: a colon before a slash is a registry's port."""
    front, _, tag = reference.rpartition(":")
    return (front, tag) if front and "/" not in tag else (reference, "")


def _stdin() -> Iterator[bytes]:
    while piece := os.read(sys.stdin.fileno(), _CHUNK):
        yield piece
