# SPDX-License-Identifier: Apache-2.0
"""What has been told of containers so far, so that only what is different is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from . import zone
from .files import NameFiles
from .realms import Home


@dataclass(slots=True)
class Changed:
    """On which networks, by their bridges, servers have to be told of a change that they do not see."""

    local: set[str] = field(default_factory=set)
    reservations: set[str] = field(default_factory=set)

    def include(self, other: Changed) -> None:
        """Add another change."""
        self.local |= other.local
        self.reservations |= other.reservations


class Told:
    """The names of containers as they are in the files."""

    def __init__(self, files: NameFiles) -> None:
        self._files = files
        self._texts: dict[str, dict[str, str]] = {}
        self._dotted: dict[tuple[str, str], frozenset[str]] = {}

    def __contains__(self, container_id: str) -> bool:
        return container_id in self._texts

    def take_up(self, texts: Mapping[tuple[str, str], str]) -> None:
        """These names are in the files already, by bridge and container."""
        for (bridge, container_id), text in texts.items():
            self._texts.setdefault(container_id, {})[bridge] = text

    def tell(self, container_id: str, homes: Iterable[Home]) -> Changed:
        """Have a container known at its homes, and nowhere else. Raises OSError, InvalidSpec."""
        here = {home.bridge: home for home in homes}
        texts = self._texts.setdefault(container_id, {})
        changed = Changed()
        for bridge in set(texts) - set(here):
            del texts[bridge]
            self._files.set_names(bridge, container_id, "")
            self._note_dotted(changed, bridge, container_id, frozenset())
        for bridge, home in here.items():
            text = zone.hosts_text(home)
            if texts.get(bridge) != text:
                self._files.set_names(bridge, container_id, text)
                texts[bridge] = text
            self._note_dotted(changed, bridge, container_id, frozenset(zone.dotted(home.names)))
            for address in (one for one in home.addresses if "." in one):
                if self._files.reserve(bridge, address, zone.reservation(home, address)):
                    changed.reservations.add(bridge)
        if not texts:
            del self._texts[container_id]
        return changed

    def dotted(self, bridges: Iterable[str]) -> Iterator[str]:
        """The names on networks that others could know, too."""
        wanted = set(bridges)
        return (name for (bridge, _), names in self._dotted.items() if bridge in wanted for name in names)

    def clear(self) -> None:
        """Forget everything."""
        self._texts.clear()
        self._dotted.clear()

    def _note_dotted(self, changed: Changed, bridge: str, container_id: str, names: frozenset[str]) -> None:
        if names != self._dotted.get((bridge, container_id), frozenset()):
            changed.local.add(bridge)
            if names:
                self._dotted[bridge, container_id] = names
            else:
                del self._dotted[bridge, container_id]
