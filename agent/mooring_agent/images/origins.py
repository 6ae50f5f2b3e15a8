# SPDX-License-Identifier: Apache-2.0
"""Which repositories are known to have a blob: to mount it from there, and to fetch it again."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterable
from collections.abc import Set as AbstractSet

from mooring_agent.images.content import ContentStore
from mooring_agent.images.reference import Reference

FILE = "origins.json"

_KEPT = 8  # repositories remembered for a blob, the latest
_log = logging.getLogger(__name__)


class Origins:
    """The sidecar `origins.json` of a layout; methods may be called from any thread.

    Losing it costs bytes on the wire, nothing else: what cannot be read is begun anew.
    """

    def __init__(self, content: ContentStore) -> None:
        self._content = content
        self._lock = threading.Lock()
        self._known: dict[str, list[str]] = {}
        path = content.root / FILE
        try:
            found = json.loads(path.read_bytes())
            self._known = {
                str(digest): [str(Reference.parse(f"{name}:x").repository) for name in names]
                for digest, names in found.items()
            }
        except FileNotFoundError:
            return
        except Exception as error:  # noqa: BLE001 - whatever a damaged file makes of these few lines
            _log.warning("%s cannot be read and is begun anew: %s", path, error)

    def of(self, digest: str) -> tuple[str, ...]:
        """The repositories, with their hosts, that had a blob, the latest first."""
        with self._lock:
            return tuple(reversed(self._known.get(digest, ())))

    def add(self, digests: Iterable[str], repository: str) -> None:
        """Remember that a repository has blobs; `save` writes it down."""
        with self._lock:
            for digest in digests:
                known = [name for name in self._known.get(digest, ()) if name != repository]
                self._known[digest] = [*known, repository][-_KEPT:]

    def save(self, there: AbstractSet[str]) -> None:
        """Write down what is known of the blobs that are there."""
        with self._lock:
            self._known = {digest: names for digest, names in self._known.items() if digest in there}
            try:
                self._content.write_sidecar(FILE, self._known)
            except OSError as error:
                _log.warning("where blobs come from cannot be written down: %s", error)
