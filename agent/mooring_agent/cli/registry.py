# SPDX-License-Identifier: Apache-2.0
"""`mooring registry tags|rm`."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from ..errors import InvalidSpec
from .client import FLEET, ApiFailure
from .containers import client_of
from .outcomes import report
from .output import show


def tags(arguments: argparse.Namespace) -> int:
    """List the tags that a repository has at its registry."""
    body = credentials(arguments) | {"name": arguments.name}
    found = client_of(arguments).call("POST", f"{FLEET}/registry/tags", body)
    show(found, arguments.output, ("TAG",), [(tag,) for tag in found["tags"]])
    return 0


def remove(arguments: argparse.Namespace) -> int:
    """Remove images from their registries; 1 if one could not be removed."""
    body = credentials(arguments) | {"force": arguments.force}
    client = client_of(arguments)
    status = 0
    for name in arguments.names:
        try:
            outcome = client.call(
                "POST", f"{FLEET}/registry/remove", body | {"name": name}, {"dry_run": arguments.dry_run}
            )
        except ApiFailure as error:
            print(f"mooring: {error.message}", file=sys.stderr)
            status = 1
            continue
        if not outcome["changed"]:
            print(
                f"mooring: {name} is not at its registry: look with 'mooring registry tags'", file=sys.stderr
            )
            status = 1
            continue
        report(outcome, dry_run=arguments.dry_run)
    return status


def credentials(arguments: argparse.Namespace) -> dict[str, Any]:
    """Those of the command line, for the body of a call; else the agent looks for some."""
    if bool(arguments.username) != arguments.password_stdin:
        raise InvalidSpec("--username and --password-stdin belong together: give both or none")
    if not arguments.username:
        return {}
    password = sys.stdin.readline().rstrip("\r\n")
    return {"credentials": {"username": arguments.username, "password": password}}
