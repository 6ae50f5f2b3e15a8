# SPDX-License-Identifier: Apache-2.0
"""Which kind of manifest a registry has sent, told beyond doubt. Pure.

A document that two readers may take for two different things has let images pass that nobody looked at
(CVE-2021-41190), so one is refused that is both an index and a manifest, or not what its header says.
"""

from __future__ import annotations

import json
from typing import Any

from mooring_agent.errors import InvalidSpec
from mooring_agent.images.content import MEDIA_INDEX, MEDIA_MANIFEST
from mooring_agent.images.manifests import DOCKER_LIST, MANIFEST_TYPES

_OLD = "application/vnd.docker.distribution.manifest.v1+"  # json and prettyjws
_VAGUE = ("", "application/json", "application/octet-stream", "text/plain", "binary/octet-stream")


def essence(content_type: str | None) -> str:
    """A media type without its parameters."""
    return (content_type or "").partition(";")[0].strip().lower()


def check_media_type(media_type: str, what: str) -> None:
    """Raise InvalidSpec for a type of manifest that Mooring does not take."""
    if media_type.startswith(_OLD):
        raise InvalidSpec(
            f"{what} is in Docker's manifest format of schema 1, which is not supported any more: "
            "push it again with a current client"
        )
    if media_type not in MANIFEST_TYPES:
        raise InvalidSpec(
            f"{what} is no image: its media type is {media_type[:200]!r}; expected an image manifest or "
            "an index of OCI or Docker"
        )


def check_manifest(body: bytes, content_type: str | None, what: str) -> str:
    """Return the media type of a manifest or index; raises InvalidSpec when there is doubt about it."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidSpec(f"{what} is no manifest: expected a JSON object")
    said, own = essence(content_type), document.get("mediaType", "")
    if not isinstance(own, str):
        raise InvalidSpec(f"{what} is no manifest: its mediaType is no text")
    if said in _VAGUE:
        said = ""
    if said and own and said != own:
        raise InvalidSpec(
            f"{what} contradicts itself: the registry calls it {said[:200]} and the document {own[:200]}; "
            "it is not used, since readers may take it for different images"
        )
    media_type = said or own or _by_content(document)
    if document.get("schemaVersion") == 1 and not said and not own:
        media_type = f"{_OLD}json"
    check_media_type(media_type, what)
    is_index = media_type in (MEDIA_INDEX, DOCKER_LIST)
    expected, foreign = ("manifests", ("layers", "config")) if is_index else ("layers", ("manifests",))
    wrong = [key for key in (*foreign, "fsLayers") if key in document]
    if wrong or not isinstance(document.get(expected), list):
        raise InvalidSpec(
            f"{what} is not what its media type {media_type} says: "
            + (f"it has {', '.join(wrong)}" if wrong else f"it has no list of {expected}")
            + "; it is not used, since readers may take it for different images"
        )
    return media_type


def _by_content(document: dict[str, Any]) -> str:
    """For the OCI form, where mediaType may be missing (image-spec, manifest.md)."""
    return MEDIA_INDEX if "manifests" in document else MEDIA_MANIFEST
