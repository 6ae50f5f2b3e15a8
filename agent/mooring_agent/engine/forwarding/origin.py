# SPDX-License-Identifier: Apache-2.0
"""What the messages of a container's log tell of it: its tag, and what its log options name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ..container import Container
from ..oci import environment
from ..resources.logtags import DEFAULT_TAG, Tagged, parse_tag, render_tag

_DAEMON = "mooring"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a log without its end: when (nanoseconds since the epoch), of which stream (1 output, 2
    error). One that is `partial` goes on in the next of its stream.
    """

    time_ns: int
    stream: int
    text: bytes
    partial: bool = False


Encoder = Callable[[Line], bytes]
"""A line as a message, with all that stands between it and the next one."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Whose lines they are."""

    id: str
    name: str
    image: str
    tag: str
    hostname: str
    pid: int
    attributes: Mapping[str, str]


def attributes_of(container: Container, image_labels: Mapping[str, str]) -> dict[str, str]:
    """The labels and variables of a container that its log options ask for, with the names that they have.

    A tag that was asked for is one of them, as with dockerd's json-file.
    """
    options = container.spec.log.options
    if not options:
        return {}
    labels = {**image_labels, **container.spec.labels}
    found = _chosen(labels, options.get("labels"), options.get("labels-regex"))
    found |= _chosen(environment(container.env), options.get("env"), options.get("env-regex"))
    if "tag" in options and not container.spec.log.forwarded:
        found["tag"] = tag_of(container, labels, "")
    return found


def tag_of(container: Container, labels: Mapping[str, str], hostname: str) -> str:
    """The tag of a container's messages; `hostname` is the host's."""
    of = Tagged(
        id=container.id,
        name=container.name,
        image=container.spec.image,
        image_id=container.image_id,
        hostname=hostname,
        command=" ".join(container.argv),
        daemon=_DAEMON,
        labels=dict(labels),
    )
    return render_tag(parse_tag(container.spec.log.options.get("tag", DEFAULT_TAG), "tag"), of)


def origin_of(container: Container, image_labels: Mapping[str, str], hostname: str, pid: int) -> Origin:
    """What is told of a container; `pid` is the process that sends."""
    return Origin(
        id=container.id,
        name=container.name,
        image=container.spec.image,
        tag=tag_of(container, {**image_labels, **container.spec.labels}, hostname),
        hostname=hostname,
        pid=pid,
        attributes=attributes_of(container, image_labels),
    )


def _chosen(values: Mapping[str, str], names: str | None, pattern: str | None) -> dict[str, str]:
    wanted: Iterable[str] = names.split(",") if names else ()
    found = {name: values[name] for name in wanted if name in values}
    if pattern:
        expression = re.compile(pattern)
        found |= {name: value for name, value in values.items() if expression.search(name)}
    return found
