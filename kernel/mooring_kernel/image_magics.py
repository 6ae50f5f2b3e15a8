# SPDX-License-Identifier: Apache-2.0
"""The magics that move images: `%pull` and `%push`, with one bar for each host that is drawn in its place."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from .core.bars import bundle
from .core.errors import KernelError, UsageError
from .core.transfers import Journey, travel
from .core.workspace import Workspace
from .magic_line import Arguments
from .screen import Screen


def pull(workspace: Workspace, arguments: Arguments, screen: Screen) -> None:
    """Pull an image on all hosts, or on those that are named."""
    fleet = workspace.require_fleet()
    image, *named = arguments.words
    unknown = [host for host in named if host not in fleet.hosts]
    if unknown:
        fleet.client(unknown[0])  # it says what the fleet has
    platform = arguments.text("--platform")
    body = {"platform": platform} if platform else {}
    _move(
        workspace, list(dict.fromkeys(named)) or fleet.hosts, Journey(image, "pull", "pulled", body), screen
    )


def push(workspace: Workspace, arguments: Arguments, screen: Screen) -> None:
    """Push an image from one host."""
    fleet = workspace.require_fleet()
    image, *named = arguments.words
    if not named and len(fleet.hosts) != 1:
        raise UsageError(f"the fleet has {len(fleet.hosts)} hosts: name the one to push {image} from")
    host = named[0] if named else fleet.hosts[0]
    fleet.client(host)
    to = arguments.text("--to")
    _move(workspace, [host], Journey(image, "push", "pushed", {"to": to} if to else {}), screen)


def _move(workspace: Workspace, hosts: Sequence[str], journey: Journey, screen: Screen) -> None:
    fleet = workspace.require_fleet()
    show = screen.live()
    failed = travel(
        {host: partial(fleet.client, host) for host in hosts},
        journey,
        lambda bars: show(bundle(bars)),
        screen.abandoned,
    )
    if failed:
        raise KernelError(
            f"{journey.image} could not be {journey.done} on {len(failed)} of {len(hosts)} "
            f"host{'' if len(hosts) == 1 else 's'} ({', '.join(failed)}): the reasons stand above"
        )
