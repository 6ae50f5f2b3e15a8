# SPDX-License-Identifier: Apache-2.0
"""`mooring peers show|set|rm`."""

from __future__ import annotations

import argparse
import os
from typing import Any

from .client import FLEET
from .containers import client_of
from .outcomes import report
from .output import show as shown

_PATH = f"{FLEET}/peers"


def show(arguments: argparse.Namespace) -> int:
    """Show who the peers are, and whether they are served; 1 if something is in the way."""
    view = client_of(arguments).call("GET", _PATH)
    declared = view["declared"] or {}
    rows = [(member, _role(member, declared)) for member in declared.get("members", ())]
    shown(view, arguments.output, ("MEMBER", ""), rows)
    if arguments.output == "table":
        origin = "the agent's configuration" if view["configured"] else "a declaration"
        if not declared:
            print("no peers")
        elif view["serving"]:
            print(f"served on {view['serving']}, by {origin}")
        else:
            print(f"not served, though wanted by {origin}: {view['failure']}")
    return 1 if view["failure"] else 0


def declare(arguments: argparse.Namespace) -> int:
    """Say who the peers are."""
    files = {"ca_file": arguments.ca_file, "certificate": arguments.certificate, "key": arguments.key}
    tls = {key: os.path.abspath(path) for key, path in files.items() if path}
    spec: dict[str, Any] = {
        "listen": arguments.listen,
        "address": arguments.address,
        "members": arguments.member,
        "tls": tls or None,
        "plain": arguments.plain,
        "uploads": arguments.uploads,
    }
    spec = {key: value for key, value in spec.items() if value is not None}
    report(
        client_of(arguments).call("PUT", _PATH, spec, {"dry_run": arguments.dry_run}),
        dry_run=arguments.dry_run,
    )
    return 0


def remove(arguments: argparse.Namespace) -> int:
    """Share with nobody."""
    report(
        client_of(arguments).call("DELETE", _PATH, None, {"dry_run": arguments.dry_run}),
        dry_run=arguments.dry_run,
    )
    return 0


def _role(member: str, declared: dict[str, Any]) -> str:
    return "this host" if member == declared["address"] else ""
