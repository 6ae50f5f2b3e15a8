# SPDX-License-Identifier: Apache-2.0
"""The Docker Engine API, versions 1.24 to 1.47, on the agent's engine: one file a resource."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .archives import ArchiveCalls
from .attach import AttachCalls
from .builds import BuildCalls
from .commits import CommitCalls
from .containers import ContainerCalls
from .diskusage import DiskUsageCalls
from .events import EventCalls
from .execs import ExecCalls
from .images import ImageCalls
from .imagetransfers import ImageTransferCalls
from .lifecycle import LifecycleCalls
from .networks import NetworkCalls
from .sessions import SessionCalls
from .stats import StatsCalls
from .system import SystemCalls
from .unsupported import UnsupportedCalls
from .volumes import VolumeCalls

if TYPE_CHECKING:
    from ...engine.engine import Engine
    from ..router import Resource, Route


def routes(engine: Engine) -> list[Route]:
    """The route table of this API."""
    resources: tuple[Resource, ...] = (
        SystemCalls(engine),
        ContainerCalls(engine),
        LifecycleCalls(engine),
        ArchiveCalls(engine),
        AttachCalls(engine),
        ExecCalls(engine),
        StatsCalls(engine),
        ImageTransferCalls(engine),
        ImageCalls(engine),
        BuildCalls(engine),
        SessionCalls(),
        CommitCalls(engine),
        DiskUsageCalls(engine),
        NetworkCalls(engine),
        VolumeCalls(engine),
        EventCalls(engine),
        UnsupportedCalls(),
    )
    return [route for resource in resources for route in resource.routes()]
