# SPDX-License-Identifier: Apache-2.0
"""Templates: root file systems that are built on this host from what the host has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from mooring_agent.images.busybox import DEFAULTS as BUSYBOX_DEFAULTS
from mooring_agent.images.busybox import busybox_layer, find_busybox
from mooring_agent.images.config import ImageConfig
from mooring_agent.images.debian import DEFAULTS as DEBIAN_DEFAULTS
from mooring_agent.images.debian import debian_layer, find_debian
from mooring_agent.images.image import Progress, ProgressEvent
from mooring_agent.images.platform import host_architecture
from mooring_agent.images.specs import TemplateSpec
from mooring_agent.images.turns import Stop


@dataclass(frozen=True, slots=True)
class Template:
    """A template ready to be built.

    `key` is the same for what would give the same layer, `defaults` is the config that the user's is laid
    over, and `build` yields the layer as a tar archive, telling its progress, or raises Cancelled.
    """

    key: str
    title: str
    architecture: str
    defaults: ImageConfig
    build: Callable[[Path, Progress, Stop], Generator[bytes, None, None]]


def open_template(spec: TemplateSpec) -> Template:
    """Find what the template needs on this host; raises MissingProgram naming the Debian package."""
    return _OPENERS[spec.name](spec)


def _open_busybox(spec: TemplateSpec) -> Template:
    busybox = find_busybox()

    def build(scratch: Path, progress: Progress, stop: Stop) -> Generator[bytes, None, None]:
        progress(ProgressEvent("build", detail=f"busybox from {busybox.path}"))
        return busybox_layer(busybox)

    key = _key(spec, busybox.version)
    return Template(key, "template busybox", busybox.architecture, BUSYBOX_DEFAULTS, build)


def _open_debian(spec: TemplateSpec) -> Template:
    debian = find_debian(spec)

    def build(scratch: Path, progress: Progress, stop: Stop) -> Generator[bytes, None, None]:
        return debian_layer(debian, scratch, progress, stop)

    key = _key(spec, debian.version)
    return Template(key, f"template {spec.name} {spec.suite}", host_architecture(), DEBIAN_DEFAULTS, build)


_OPENERS = {"busybox": _open_busybox, "debian": _open_debian, "ubuntu": _open_debian}


def _key(spec: TemplateSpec, version: str) -> str:
    text = json.dumps([spec.made_from(), host_architecture(), version], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
