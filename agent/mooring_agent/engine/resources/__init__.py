# SPDX-License-Identifier: Apache-2.0
"""Declared resources: parsing, normal form, comparison.

Pure: nothing here touches the host. A spec is made by `ContainerSpec.parse(mapping)`; `spec.given` is the
normal form of what the user gave and is what is stored, `compare(stored, wanted)` says what differs, and
`merge` changes some options.
"""

from __future__ import annotations

from mooring_agent.engine.resources.attachments import NetworkAttachment
from mooring_agent.engine.resources.cgroup import CgroupSpec
from mooring_agent.engine.resources.container import ContainerSpec, RestartPolicy
from mooring_agent.engine.resources.declared import Declared, FieldChange, compare, merge, options_of
from mooring_agent.engine.resources.health import Healthcheck
from mooring_agent.engine.resources.logdrivers import LogOptions
from mooring_agent.engine.resources.mounts import VolumeMount
from mooring_agent.engine.resources.names import check_name, signal_number
from mooring_agent.engine.resources.network import NetworkSpec
from mooring_agent.engine.resources.options import show_size
from mooring_agent.engine.resources.ports import PortMapping
from mooring_agent.engine.resources.state import Item, identity, order, phases
from mooring_agent.engine.resources.volume import VolumeSpec

__all__ = [
    "CgroupSpec",
    "ContainerSpec",
    "Declared",
    "FieldChange",
    "Healthcheck",
    "Item",
    "LogOptions",
    "NetworkAttachment",
    "NetworkSpec",
    "PortMapping",
    "RestartPolicy",
    "VolumeMount",
    "VolumeSpec",
    "check_name",
    "compare",
    "identity",
    "merge",
    "options_of",
    "order",
    "phases",
    "show_size",
    "signal_number",
]
