# SPDX-License-Identifier: Apache-2.0
"""`mooring image pull|push|save|load|tag|history|verify|prune`, `mooring commit|export|diff`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from ..errors import InvalidSpec, MooringError
from ..images.reference import Reference
from .client import DOCKER, FLEET, Client, segment
from .containers import client_of, write
from .outcomes import report
from .output import age, short_id, show, size
from .progress import LayerBars, ProgressLine
from .registry import credentials

_PIECE = 1 << 20
_KINDS = ("C", "A", "D")  # Docker's ChangeType, as `docker diff` shows it


def pull(arguments: argparse.Namespace) -> int:
    """Pull images from their registries."""
    client = client_of(arguments)
    body = credentials(arguments) | ({"platform": arguments.platform} if arguments.platform else {})
    for name in arguments.names:
        done = _moved(client, _path(name, "pull"), body)
        what = "pulled" if done["changed"] else "is up to date"
        print(f"{name}: {what}, {done['digest']}")
    return 0


def push(arguments: argparse.Namespace) -> int:
    """Push an image to a registry, unless it is there."""
    body = credentials(arguments) | ({"to": arguments.to} if arguments.to else {})
    path = _path(arguments.name, "push")
    done = _moved(client_of(arguments), path, body, {"dry_run": arguments.dry_run})
    report(done, dry_run=arguments.dry_run)
    if done["result"]:
        print(f"{done['result']['name']}: {done['result']['digest']}")
    return 0


def verify(arguments: argparse.Namespace) -> int:
    """Read all of an image, or of all; 1 if something is damaged."""
    path = _path(arguments.name, "verify") if arguments.name else f"{FLEET}/images/verify"
    found = _moved(client_of(arguments), path, {"repair": arguments.repair})
    for image in found["images"]:
        print(f"{image['name']}: {'sound' if image['sound'] else 'damaged'}, {image['blobs']} blobs")
        for damage in image["damages"]:
            mended = f", fetched again from {damage['repaired_from']}" if damage["repaired_from"] else ""
            print(f"  {damage['digest']}: {damage['problem']}{mended}")
        for layer in image["missing_layers"]:
            print(f"  layer {layer}: it is not unpacked")
    return 0 if found["sound"] else 1


def save(arguments: argparse.Namespace) -> int:
    """Write images as an archive to a file or to standard output."""
    query = {"names": arguments.names}
    with _target(arguments.output) as target:
        _copy(client_of(arguments).stream("GET", f"{DOCKER}/images/get", query), target)
    return 0


def load(arguments: argparse.Namespace) -> int:
    """Take in the images of an archive, a file here or standard input."""
    body = _pieces(arguments.input)
    with (
        ProgressLine() as line,
        client_of(arguments).stream("POST", f"{DOCKER}/images/load", None, body) as answer,
    ):
        while raw := answer.readline():
            message = json.loads(raw)
            if "error" in message:
                raise MooringError(str(message["error"]))
            if "stream" in message:
                print(message["stream"], end="")
            else:
                detail = message.get("progressDetail", {})
                line.show(f"{message['status']} {message['id']}", detail.get("current"), detail.get("total"))
    return 0


def tag(arguments: argparse.Namespace) -> int:
    """Give an image one more name."""
    name = Reference.parse(arguments.reference)
    path = f"{DOCKER}/images/{segment(arguments.name, slashes=True)}/tag"
    client_of(arguments).call("POST", path, query={"repo": name.familiar_repository, "tag": name.tag or ""})
    return 0


def history(arguments: argparse.Namespace) -> int:
    """Show how an image came to be, newest first."""
    path = f"{DOCKER}/images/{segment(arguments.name, slashes=True)}/history"
    steps = client_of(arguments).call("GET", path)
    rows = [
        (
            age(_moment(step["Created"])),
            size(step["Size"]),
            " ".join(step["CreatedBy"].split()),
            step["Comment"],
        )
        for step in steps
    ]
    show(steps, arguments.output, ("AGE", "SIZE", "CREATED BY", "COMMENT"), rows)
    return 0


def prune(arguments: argparse.Namespace) -> int:
    """Delete images that no container uses."""
    body = {
        "all": arguments.all,
        "until": arguments.until,
        "labels": arguments.label,
        "without": arguments.without_label,
    }
    done = client_of(arguments).call("POST", f"{FLEET}/images/prune", body)
    for name in done["untagged"]:
        print(f"untagged {Reference.parse(name).familiar}")
    for image in done["deleted"]:
        print(f"deleted {short_id(image)}")
    print(f"{size(done['freed'])} freed")
    return 0


def commit(arguments: argparse.Namespace) -> int:
    """Make an image of a container."""
    name = Reference.parse(arguments.reference) if arguments.reference else None
    query = {
        "container": arguments.container,
        "repo": name.familiar_repository if name else None,
        "tag": name.tag if name else None,
        "author": arguments.author,
        "comment": arguments.message,
        "changes": arguments.change,
        "pause": "false" if arguments.no_pause else "true",
    }
    print(client_of(arguments).call("POST", f"{DOCKER}/commit", {}, query)["Id"])
    return 0


def export(arguments: argparse.Namespace) -> int:
    """Write the file tree of a container as a tar archive."""
    path = f"{DOCKER}/containers/{segment(arguments.container)}/export"
    with _target(arguments.output) as target:
        _copy(client_of(arguments).stream("GET", path), target)
    return 0


def diff(arguments: argparse.Namespace) -> int:
    """Show what a container changed of its image."""
    path = f"{DOCKER}/containers/{segment(arguments.container)}/changes"
    for change in client_of(arguments).call("GET", path) or ():
        print(f"{_KINDS[change['Kind']]} {change['Path']}")
    return 0


def _moved(
    client: Client, path: str, body: dict[str, Any], query: dict[str, object] | None = None
) -> dict[str, Any]:
    """The outcome of a call that tells on its way how far it is."""
    with LayerBars() as bars:
        return client.outcome("POST", path, body, query, bars.take)


def _moment(seconds: int) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds else None


def _path(name: str, action: str) -> str:
    return f"{FLEET}/images/{segment(name, slashes=True)}/{action}"


@contextmanager
def _target(path: str | None) -> Iterator[Callable[[bytes], object]]:
    """Where an archive goes: a file, which is there when it is whole, or standard output."""
    if path is None:
        if sys.stdout.isatty():
            raise InvalidSpec("an archive is not written to a terminal: give --output, or pipe it on")
        yield lambda data: write(1, data)
        return
    partial = f"{path}.partial"
    try:
        with open(partial, "wb") as file:
            yield file.write
        os.replace(partial, path)
    except OSError as error:
        raise InvalidSpec(f"{path} cannot be written ({error.strerror}): give another --output") from None
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def _copy(answer: Any, target: Callable[[bytes], object]) -> None:
    with answer:
        while data := answer.read(_PIECE):
            target(data)


def _pieces(path: str | None) -> Iterator[bytes]:
    """An archive in pieces. Raises InvalidSpec at once for a file that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY) if path is not None else os.dup(0)
    except OSError as error:
        raise InvalidSpec(f"archive {path} cannot be read ({error.strerror}): give another --input") from None

    def pieces() -> Iterator[bytes]:
        with open(descriptor, "rb", buffering=0) as file:
            while piece := file.read(_PIECE):
                yield piece

    return pieces()
