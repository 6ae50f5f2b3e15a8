# SPDX-License-Identifier: Apache-2.0
"""The document of a whole host: what `PUT /mooring/v1/state` takes, in the order of dependencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mooring_agent.engine.resources.declared import suggestion
from mooring_agent.engine.resources.namespaces import other_container
from mooring_agent.engine.resources.options import quoted, refusal
from mooring_agent.errors import InvalidSpec
from mooring_agent.images.reference import Reference

# The sections of a document and the kind that each declares, dependencies first: a container needs all the
# others.
SECTIONS = {
    "images": "image",
    "networks": "network",
    "volumes": "volume",
    "cgroups": "cgroup",
    "containers": "container",
}


@dataclass(frozen=True)
class Item:
    """One resource of a document: its kind ("container"), name, and spec as it was given."""

    kind: str
    name: str
    spec: dict[str, Any]


def order(document: object) -> tuple[Item, ...]:
    """Return the resources of a document, each after what it depends on; null is empty.

    Raises InvalidSpec if the document is not of that shape, or names an image twice. The specs themselves are
    parsed where they are applied, so that one that is wrong fails alone.
    """
    if not isinstance(document, Mapping):
        raise refusal("the state", document, f"a mapping with some of {', '.join(SECTIONS)}")
    for key in document:
        if key not in SECTIONS:
            raise InvalidSpec(f"the state has no section {quoted(key)}; {suggestion(str(key), SECTIONS)}")
    items = tuple(
        Item(kind, name, spec)
        for section, kind in SECTIONS.items()
        for name, spec in _specs(document.get(section), section).items()
    )
    written: dict[tuple[str, str], str] = {}
    for item in items:
        other = written.setdefault((item.kind, identity(item.kind, item.name)), item.name)
        if other != item.name:
            raise InvalidSpec(
                f"the state's {item.kind}s {quoted(other)} and {quoted(item.name)} are the same {item.kind}: "
                "declare it once"
            )
    return items


def identity(kind: str, name: str) -> str:
    """Return the one name of a resource that may be written in several ways: an image's is the full one.

    What is no name of an image is returned as it is; it fails where it is applied.
    """
    if kind != "image":
        return name
    try:
        return str(Reference.parse(name))
    except InvalidSpec:
        return name


def phases(items: tuple[Item, ...]) -> tuple[tuple[Item, ...], ...]:
    """Return the same resources in groups: those of one group may be made at the same time.

    A container comes after those whose namespaces it joins; those that join each other in a circle come last.
    """
    first = tuple(item for item in items if item.kind != "container")
    groups = [first] if first else []
    left = {item.name: item for item in items if item.kind == "container"}
    while left:
        free = tuple(item for item in left.values() if left.keys().isdisjoint(_joined_by(item)))
        groups.append(free or tuple(left.values()))
        left = {name: item for name, item in left.items() if free and item not in free}
    return tuple(groups)


def _joined_by(item: Item) -> set[str]:
    """The containers that a spec names, as far as it is well formed."""
    networks = item.spec.get("networks")
    modes = [item.spec.get(option) for option in ("pid", "ipc", "uts", "cgroupns", "userns")]
    for network in networks if isinstance(networks, list) else [networks]:
        modes.append(network.get("name") if isinstance(network, Mapping) else network)
    others = (other_container(mode) for mode in modes if isinstance(mode, str))
    return {other for other in others if other is not None} - {item.name}


def _specs(section: object, name: str) -> dict[str, dict[str, Any]]:
    if section is None:
        return {}
    if not isinstance(section, Mapping):
        raise refusal(f"the state's {name}", section, "a mapping of names to specs")
    specs: dict[str, dict[str, Any]] = {}
    for key, spec in section.items():
        if not isinstance(key, str):
            raise refusal(f"a name in the state's {name}", key, "a string: put it in quotes")
        if spec is not None and not isinstance(spec, Mapping):
            raise refusal(f"the state's {name}.{key}", spec, "a mapping of options to values")
        specs[key] = dict(spec or {})
    return specs
