# SPDX-License-Identifier: Apache-2.0
"""The Mooring API under `/mooring/v1`: desired state, and what Docker has no word for. One file a resource.

A PUT says what should be and a DELETE what should not; both answer with an outcome, `{"changed", "actions",
"before", "after", "result"}`, and with `?dry_run=true` they answer the same and touch nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .builds import BuildCalls
from .containers import ContainerCalls
from .declared import DeclaredCalls
from .events import EventCalls
from .execs import ExecCalls
from .host import HostCalls
from .images import ImageCalls
from .networks import NetworkCalls
from .peers import PeerCalls
from .shell import ShellCalls
from .state import StateCalls

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ..router import Resource, Route


def routes(engine: Engine) -> list[Route]:
    """The route table of this API."""
    resources: tuple[Resource, ...] = (
        HostCalls(engine),
        ContainerCalls(engine),
        ExecCalls(engine),
        ShellCalls(engine),
        ImageCalls(engine),
        BuildCalls(engine),
        PeerCalls(engine),
        *DeclaredCalls.of(engine),
        NetworkCalls(engine),
        StateCalls(engine),
        EventCalls(engine),
    )
    return [route for resource in resources for route in resource.routes()]
