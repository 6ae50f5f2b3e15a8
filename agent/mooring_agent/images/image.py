# SPDX-License-Identifier: Apache-2.0
"""What the rest of the agent sees of an image, and how the making of one reports its progress."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from mooring_agent.images.platform import check_platform
from mooring_agent.images.reference import Reference


@dataclass(frozen=True, slots=True)
class ProgressEvent:
    """One step of a long work: `current` of `total` bytes (None: not known), `detail` for the eye."""

    step: str
    current: int | None = None
    total: int | None = None
    detail: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The event as the API streams it."""
        return {"step": self.step, "current": self.current, "total": self.total, "detail": self.detail}


Progress = Callable[[ProgressEvent], None]


def no_progress(event: ProgressEvent) -> None:
    """Take an event and tell nobody: for callers that do not watch."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image of the store.

    `id` is the digest of its configuration, `manifest_digest` that of its manifest. `references` are long
    names with tags, sorted; none means that the image has lost its name. `digests` are long names with the
    digest of what they point to, a manifest or an index. `created_at` is in seconds since the epoch,
    `size` in bytes: what the unpacked layers occupy. `config` and `history` are as in the OCI image
    configuration. `chain_id` names the snapshot of the topmost layer, None when there is no layer.
    """

    id: str
    manifest_digest: str
    references: tuple[str, ...]
    created_at: float
    architecture: str
    os: str
    config: Mapping[str, Any] = field(hash=False)
    history: tuple[Mapping[str, Any], ...] = field(hash=False)
    diff_ids: tuple[str, ...]
    chain_id: str | None
    size: int
    digests: tuple[str, ...] = ()
    variant: str = ""
    author: str = ""

    @property
    def name(self) -> str:
        """The shortest thing to call it by: its first name in short form, or else the start of its ID."""
        return Reference.parse(self.references[0]).familiar if self.references else self.id[7:19]

    def view(self) -> dict[str, Any]:
        """The image as the Mooring API answers it."""
        return {
            "id": self.id,
            "references": [Reference.parse(reference).familiar for reference in self.references],
            "digests": [Reference.parse(digest).familiar for digest in self.digests],
            "size": self.size,
            "created_at": datetime.fromtimestamp(self.created_at, UTC).isoformat().replace("+00:00", "Z"),
            "architecture": self.architecture,
            "os": self.os,
            "config": dict(self.config),
            "layers": list(self.diff_ids),
        }


def check_runnable(image: Image) -> None:
    """Raise InvalidSpec when the image is for another operating system or processor, naming both."""
    check_platform(image.name, image.architecture, image.os)


def chain_id(diff_ids: Iterable[str]) -> str | None:
    """The chain ID of a stack of layers, bottom first (OCI image-spec, config.md, "Layer ChainID")."""
    chain: str | None = None
    for diff_id in diff_ids:
        chain = (
            diff_id
            if chain is None
            else f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
        )
    return chain
