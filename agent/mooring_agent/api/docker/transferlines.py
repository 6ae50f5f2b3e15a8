# SPDX-License-Identifier: Apache-2.0
"""What moves of images in the lines that docker's clients draw: one for each layer, by its short ID. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Event = Mapping[str, Any]
Line = dict[str, Any]


def status(text: str, layer: str = "", current: int | None = None, total: int | None = None) -> Line:
    """One line; with a layer it replaces that layer's line before."""
    line: Line = {"status": text}
    if layer:
        detail = {"current": current, "total": total} if current is not None and total else {}
        line |= {"progressDetail": detail, "id": layer}
    return line


def failure(message: str, code: int) -> Line:
    """The last line of what failed."""
    return {"errorDetail": {"code": code, "message": message}, "error": message}


class _Layers:
    """Tells each state of a layer once."""

    def __init__(self) -> None:
        self._last: dict[str, str] = {}

    def _once(self, layer: str, text: str) -> list[Line]:
        if self._last.get(layer) == text:
            return []
        self._last[layer] = text
        return [status(text, layer)]

    def _bar(self, layer: str, text: str, event: Event) -> list[Line]:
        self._last[layer] = text
        return [status(text, layer, event["current"], event["total"])]


class PullLines(_Layers):
    """The lines of `docker pull`."""

    def of(self, event: Event) -> list[Line]:
        """What an event of the store's adds."""
        layer, step = event["detail"], event["step"]
        before = self._last.get(layer)
        if before == "Pull complete":
            return []
        if step == "exists":
            return self._once(
                layer, "Already exists" if before in (None, "Already exists") else "Pull complete"
            )
        if step == "download":
            first = self._once(layer, "Pulling fs layer") if before is None else []
            return first + self._bar(layer, "Downloading", event)
        if step == "verify":
            return self._once(layer, "Verifying Checksum")
        if step == "unpack":
            first = self._once(layer, "Download complete") if before == "Verifying Checksum" else []
            if event["current"] == event["total"]:
                return first + self._once(layer, "Pull complete")
            return first + self._bar(layer, "Extracting", event)
        return []


class PushLines(_Layers):
    """The lines of `docker push`; `hidden` is the short ID of the configuration, which is no layer."""

    def __init__(self, hidden: str) -> None:
        super().__init__()
        self._hidden = hidden

    def of(self, event: Event) -> list[Line]:
        """What an event of the store's adds."""
        layer, _, origin = event["detail"].partition(" from ")
        step = event["step"]
        if layer == self._hidden:
            return []
        if step == "exists":
            return self._once(layer, "Layer already exists")
        if step == "mount":
            return self._once(layer, f"Mounted from {origin}")
        if step == "upload" and self._last.get(layer) != "Pushed":
            if event["current"] == event["total"]:
                return self._once(layer, "Pushed")
            return self._bar(layer, "Pushing", event)
        return []


class LoadLines(_Layers):
    """The lines of `docker load`."""

    def of(self, event: Event) -> list[Line]:
        """What an event of the store's adds."""
        if event["step"] == "unpack":
            return self._bar(event["detail"], "Loading layer", event)
        return []
